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
    """Works on pictures with one network; call it from a thread for each core."""

    def __init__(self, pack: Path) -> None:
        self._card = load_card(pack)
        self._space = space_of(self._card).id
        self._engine = OnnxRuntimeEngine(threads=1)
        self._engine.load(self._space, pack)

    def work(self, pictures: Sequence[bytes], *, logits: bool = False) -> None:
        """Decodes a batch and runs the network on it."""
        policy = self._card.resize
        pixels = [resize.apply(decode.decode(data, min_side_hint=policy.min_side_hint), policy) for data in pictures]
        self._engine.run(self._space, np.stack(pixels), logits=logits)
