"""An app's training data in memory, between trainings: what changed is applied in place, nothing is read again.

Vectors stand in one matrix of float16 in the order in which they came; a training takes the rows that it needs out of
it, in order of uid, so that equal data gives equal heads.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Change", "Holding", "Row", "TrainingRows"]

_FIRST_ROOM = 256
_GROWTH = 1.25
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One input that may take part in a training.

    Attributes:
        uid: Of the input.
        sha256: Of its bytes, lower-case hex.
        labels: By own id of the concept: whether the input shows it, or its number.
        test: Whether it is marked as test: evaluated on at most, never fitted on.
    """

    uid: str
    sha256: str
    labels: Mapping[str, bool | float]
    test: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What an input is now.

    Attributes:
        uid: Of the input.
        row: None: it can take part no more.
        vector: Little-endian float16.
    """

    uid: str
    row: Row | None
    vector: bytes = b""


@dataclass(frozen=True)
class TrainingRows:
    """The inputs that a training is about, in order of uid.

    Attributes:
        rows: The inputs.
        features: [n, d], their vectors.
    """

    rows: Sequence[Row]
    features: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)


class Holding:
    """The inputs of one app and space. Not safe to use from several threads at once.

    Args:
        cursor: Of the change feed, up to which it holds everything.
    """

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        self._order: list[str] = []
        self._rows: dict[str, Row] = {}
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._vectors = np.empty((0, 0), np.float16)

    @property
    def nbytes(self) -> int:
        """Memory of the vectors, which is most of it."""
        return self._vectors.nbytes

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes; applying them twice is the same as once.

        Raises:
            ValueError: A vector has another length than those before it.
        """
        for change in changes:
            if change.row is None:
                self._remove(change.uid)
            else:
                self._put(change.row, np.frombuffer(change.vector, "<f2"))

    def take(self, concepts: Iterable[str], *, tests: bool = False) -> TrainingRows:
        """Copy out the inputs that carry a label of any of the concepts, those marked as test only where asked for."""
        wanted = set(concepts)
        rows = [
            row
            for uid in self._order
            if not wanted.isdisjoint((row := self._rows[uid]).labels) and (tests or not row.test)
        ]
        places = np.fromiter((self._places[row.uid] for row in rows), np.int64, len(rows))
        features = np.empty((len(rows), self._vectors.shape[1]), np.float32)
        for start in range(0, len(rows), _BLOCK):
            features[start : start + _BLOCK] = self._vectors[places[start : start + _BLOCK]]
        return TrainingRows(rows, features)

    def _put(self, row: Row, vector: npt.NDArray[np.float16]) -> None:
        if not self._order:
            self._vectors, self._free = np.empty((0, len(vector)), np.float16), []
        if len(vector) != self._vectors.shape[1] or not len(vector):
            raise ValueError(f"a vector has {len(vector)} numbers, those before it {self._vectors.shape[1]}")
        place = self._places.get(row.uid)
        if place is None:
            place = self._room()
            self._places[row.uid] = place
            # Inputs mostly come in some other order; where they come sorted, this only appends.
            insort(self._order, row.uid)
        self._vectors[place] = vector
        self._rows[row.uid] = row

    def _remove(self, uid: str) -> None:
        if self._rows.pop(uid, None) is None:
            return
        self._free.append(self._places.pop(uid))
        del self._order[bisect_left(self._order, uid)]

    def _room(self) -> int:
        if self._free:
            return self._free.pop()
        used, room = len(self._order), len(self._vectors)
        if used == room:
            grown = np.empty((max(_FIRST_ROOM, int(room * _GROWTH)), self._vectors.shape[1]), np.float16)
            grown[:room] = self._vectors
            self._vectors = grown
        return used
