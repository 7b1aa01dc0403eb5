"""Engines run base networks: the interface, and the one that lives in the process, on ONNX Runtime."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lensmith_vision.card import MODEL_FILE, Card
from lensmith_vision.errors import PackError, VisionError
from lensmith_vision.pack import check_golden, check_graph, check_hash, load_card, space_of
from lensmith_vision.session import Session, open_session

__all__ = ["Engine", "EngineError", "OnnxRuntimeEngine", "Outputs"]

_CHUNK = 4
"""Views a pass: with more, activations fall out of the CPU caches, which costs time as well as memory."""


class EngineError(VisionError):
    """A space is not loaded, or a batch does not fit it."""


@dataclass(frozen=True)
class Outputs:
    """What a base network made of a batch.

    Attributes:
        features: [n, d] float32.
        feature_map: [n, d, h, w] float32 when it was asked for and the pack has one.
        logits: [n, k] float32 when they were asked for and the pack has them.
    """

    features: npt.NDArray[np.float32]
    feature_map: npt.NDArray[np.float32] | None = None
    logits: npt.NDArray[np.float32] | None = None


class Engine(Protocol):
    """Something that runs base networks by the id of their space.

    All methods block and may be called from any thread.
    """

    def load(self, space_id: str, folder: Path) -> Card:
        """Make a space servable, after its golden vectors came out; loading it again does nothing.

        Raises:
            PackError: The pack is for another space, altered, or does not give its golden vectors here.
        """
        ...

    def unload(self, space_id: str) -> None:
        """Forget a space and free its memory; unknown ones are ignored. Running batches finish."""
        ...

    def loaded(self) -> tuple[str, ...]:
        """List the ids of the spaces that can be run, sorted."""
        ...

    def run(
        self, space_id: str, batch: npt.NDArray[np.uint8], *, feature_map: bool = False, logits: bool = False
    ) -> Outputs:
        """Compute the features of pictures that already have the input size of the space.

        Args:
            space_id: A loaded space.
            batch: Pixels [n, H, W, 3], RGB, n ≥ 0.
            feature_map: Also give the last feature map, if the pack has one.
            logits: Also give the logits, if the pack has them.

        Raises:
            EngineError: The space is not loaded, or the batch has another shape or type.
        """
        ...


class OnnxRuntimeEngine:
    """Runs packs in this process on the CPU.

    Args:
        threads: Threads for one batch. With several batches at once, 1 gives the highest throughput.
    """

    def __init__(self, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError("an engine needs at least one thread")
        self._threads = threads
        self._lock = threading.Lock()
        self._spaces: dict[str, tuple[Card, Session]] = {}

    def load(self, space_id: str, folder: Path) -> Card:
        """See :meth:`Engine.load`."""
        with self._lock:
            known = self._spaces.get(space_id)
        if known is not None:
            return known[0]
        card = load_card(folder)
        actual = space_of(card).id
        if actual != space_id:
            raise PackError(
                "PACK_OTHER_SPACE",
                f"the pack in {folder.name} makes vectors of space {actual}, not of {space_id}",
                {"expected": space_id, "actual": actual},
            )
        if card.numeric != "fp32":
            raise PackError("PACK_NUMERIC_UNSUPPORTED", f"this engine serves fp32, and {card.id} is {card.numeric}")
        check_hash(folder, card)
        session = open_session(folder / MODEL_FILE, self._threads)
        check_graph(session, card)
        check_golden(session, card)
        with self._lock:
            return self._spaces.setdefault(space_id, (card, session))[0]

    def unload(self, space_id: str) -> None:
        """See :meth:`Engine.unload`."""
        with self._lock:
            self._spaces.pop(space_id, None)

    def loaded(self) -> tuple[str, ...]:
        """See :meth:`Engine.loaded`."""
        with self._lock:
            return tuple(sorted(self._spaces))

    def run(
        self, space_id: str, batch: npt.NDArray[np.uint8], *, feature_map: bool = False, logits: bool = False
    ) -> Outputs:
        """See :meth:`Engine.run`."""
        with self._lock:
            known = self._spaces.get(space_id)
        if known is None:
            raise EngineError("SPACE_NOT_LOADED", f"space {space_id} is not loaded", {"space": space_id})
        card, session = known
        names = ["features"]
        if feature_map and card.feature_map is not None:
            names.append("feature_map")
        if logits and card.logits is not None:
            names.append("logits")
        _check_batch(card, batch)
        chunk = max(1, _CHUNK // card.views)
        parts = [
            session.run(names, {"image": batch[start : start + chunk]}) for start in range(0, max(1, len(batch)), chunk)
        ]
        joined = {
            name: column[0] if len(column) == 1 else np.concatenate(column)
            for name, column in zip(names, zip(*parts, strict=True), strict=True)
        }
        return Outputs(joined["features"], joined.get("feature_map"), joined.get("logits"))


def _check_batch(card: Card, batch: npt.NDArray[np.uint8]) -> None:
    expected = (card.resize.height, card.resize.width, 3)
    if batch.ndim != 4 or batch.shape[1:] != expected or batch.dtype != np.uint8:
        raise EngineError(
            "BATCH_SHAPE_INVALID",
            f"{card.id} takes uint8 [n, {', '.join(map(str, expected))}], not {batch.dtype} {list(batch.shape)}",
        )
