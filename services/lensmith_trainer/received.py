"""Reading what dataset streams: which inputs changed, and what they are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lensmith_api.internal.v1.training_data_service_pb2 import (
    CompleteInputs,
    StreamTrainingDataResponse,
    TrainingInput,
    TrainingLabel,
)
from lensmith_trainer.holding import Change, Row

__all__ = ["Labels", "Received"]

_SHA256_BYTES = 32

Labels = Mapping[str, "bool | float"]
_Said = tuple[tuple[str, "bool | float", bool], ...]
"""Concept, value, and whether it is no number: `True` and `1.0` are equal, and not the same."""


class Received:
    """Reads a stream. Equal sets of labels become one object: most inputs share a few, and there may be millions."""

    def __init__(self) -> None:
        self._known: dict[_Said, Labels] = {}

    def changes_of(self, message: StreamTrainingDataResponse) -> list[Change]:
        """Read a part of the stream.

        Raises:
            ValueError: It says of some inputs less than of others.
        """
        changes = self._side_by_side(message.complete) if message.HasField("complete") else []
        return changes + [self._one(item) for item in message.inputs]

    def _one(self, item: TrainingInput) -> Change:
        # An input without a vector or label cannot take part; it comes again when that changes.
        if item.deleted or not item.vector or not item.labels:
            return Change(item.input_uid, None)
        row = Row(item.input_uid, item.sha256.hex(), self._labels(item.labels), item.test)
        return Change(item.input_uid, row, item.vector)

    def _side_by_side(self, complete: CompleteInputs) -> list[Change]:
        uids, said, tests = complete.input_uids, complete.labels, frozenset(complete.tests)
        sets = [self._labels(labels.labels) for labels in complete.label_sets]
        hashes, vectors = complete.sha256s.hex(), complete.vectors
        length, rest = divmod(len(vectors), max(len(uids), 1))
        width = 2 * _SHA256_BYTES
        if rest or not length or len(said) != len(uids) or len(hashes) != width * len(uids):
            raise ValueError("of some inputs that lie side by side less is said than of others")
        if not 0 <= min(said) <= max(said) < len(sets):
            raise ValueError("inputs that lie side by side have labels that are not there")
        return [
            Change(
                uid,
                Row(uid, hashes[place * width : (place + 1) * width], sets[labels], place in tests),
                vectors[place * length : (place + 1) * length],
            )
            for place, (uid, labels) in enumerate(zip(uids, said, strict=True))
        ]

    def _labels(self, labels: Iterable[TrainingLabel]) -> Labels:
        said: _Said = tuple(
            (label.concept, label.positive, True)
            if label.WhichOneof("value") == "positive"
            else (label.concept, label.number, False)
            for label in labels
        )
        known = self._known.get(said)
        if known is None:
            known = self._known[said] = {concept: value for concept, value, _ in said}
        return known
