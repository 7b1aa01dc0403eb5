"""The ceiling: decoding and ONNX Runtime in one process without anything around them, by the services' own library."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lensmith_vision import decode, resize
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import load_card, space_of

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BareProcess:
    """Works on pictures with one network, or with several on the same decoded picture.

    Call it from a thread for each core.

    Args:
        packs: Folders of their packs.
    """

    def __init__(self, *packs: Path) -> None:
        self._cards = [load_card(pack) for pack in packs]
        self._engine = OnnxRuntimeEngine(threads=1)
        for card, pack in zip(self._cards, packs, strict=True):
            self._engine.load(space_of(card).id, pack)

    def work(self, pictures: Sequence[bytes], *, logits: bool = False) -> None:
        """Decodes a batch and runs the networks on it."""
        hint = max(card.resize.min_side_hint for card in self._cards)
        decoded = [decode.decode(data, min_side_hint=hint) for data in pictures]
        for card in self._cards:
            pixels = np.stack([resize.apply(picture, card.resize) for picture in decoded])
            self._engine.run(space_of(card).id, pixels, logits=logits)
