"""An app's training data between trainings: what changed is applied in place, nothing is read again.

Who is in it stands in memory, vectors in a file of float16 that is mapped, in the order in which they came. A training
takes the rows that it needs out of it, in order of uid, so that equal data gives equal heads.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_trainer.vector_file import VectorFile
from lensmith_vision.halves import Features

__all__ = ["Change", "Holding", "Moment", "Row", "TrainingRows", "Written"]

_REMEMBERED = 10_000
"""Changes that are remembered: after more of them a training is a whole one anyway."""
_FEW = 64
"""Rows up to which sorting them in one by one is faster than sorting all."""


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


@dataclass(frozen=True, eq=False)
class Moment:
    """When something was taken out of a holding.

    Attributes:
        life: Of the holding: one that was read anew is another one.
        revision: How many changes there had been.
    """

    life: object
    revision: int


@dataclass
class TrainingRows:
    """The inputs that a training is about, in order of uid.

    Attributes:
        rows: The inputs.
        features: [n, d], their vectors, in half precision as they are stored.
        moment: When they were taken; None: not out of a holding.
    """

    rows: Sequence[Row]
    features: Features
    moment: Moment | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def forget_features(self) -> None:
        """Let go of the vectors: whoever has taken them alone decides how long they stay."""
        self.features = self.features[:0].copy()


@dataclass(frozen=True)
class Written:
    """What a part of the changes comes to, for the replica to note.

    Attributes:
        placed: Inputs that are new or others than before, with the places of their vectors.
        gone: uids of inputs that take part no more.
    """

    placed: Sequence[tuple[Row, int]]
    gone: Sequence[str]


class Holding:
    """The inputs of one app and space. Not safe to use from several threads at once.

    The place of a vector is not used again until the holding is settled: where a process dies before, everything that
    the replica knows of still stands where it stood.

    Args:
        path: File of the vectors.
        dim: Numbers of a vector; 0: there are none yet.
        rows: What there is to begin with, in its places.
        cursor: Of the change feed, up to which it holds everything.
    """

    def __init__(self, path: Path, dim: int = 0, rows: Iterable[tuple[Row, int]] = (), cursor: str = "") -> None:
        self.cursor = cursor
        self._path = path
        self._vectors = VectorFile(path, dim)
        self._rows: dict[str, Row] = {}
        self._places: dict[str, int] = {}
        for row, place in rows:
            self._rows[row.uid], self._places[row.uid] = row, place
        self._order: list[str] = []
        self._sorted = False
        self._used = max(self._places.values(), default=-1) + 1
        self._free = sorted(set(range(self._used)).difference(self._places.values()))
        self._left: list[int] = []
        self._life = object()
        self._changed: deque[str] = deque(maxlen=_REMEMBERED)
        self._revision = 0

    @property
    def moment(self) -> Moment:
        """Now."""
        return Moment(self._life, self._revision)

    @property
    def dim(self) -> int:
        """Numbers of a vector; 0: there are none yet."""
        return self._vectors.dim

    @property
    def nbytes(self) -> int:
        """Bytes of the vectors."""
        return self._vectors.nbytes

    def apply(self, changes: Sequence[Change]) -> Written:
        """Apply changes; applying them twice is the same as once.

        Raises:
            ValueError: A vector has another length than those before it.
            OSError: The disk is full.
        """
        gone = [change.uid for change in changes if change.row is None]
        put = {change.uid: change for change in changes if change.row is not None}
        self._changed += [change.uid for change in changes]
        self._revision += len(changes)
        for uid in gone:
            self._forget(uid)
        if put and not self._rows:
            self._begin(len(next(iter(put.values())).vector) // 2)
        # Mostly labels change: a vector that is the same stays where it is.
        others = [uid for uid, change in put.items() if not self._stands(uid, change.vector)]
        moved = {uid: self._place() for uid in others}
        self._vectors.reserve(self._used)
        self._vectors.put(list(moved.values()), [put[uid].vector for uid in others])
        fresh = [uid for uid in put if uid not in self._rows]
        self._left += [self._places[uid] for uid in others if uid in self._places]
        self._places |= moved
        placed = []
        for uid, change in put.items():
            if change.row is not None:
                self._rows[uid] = change.row
                placed.append((change.row, self._places[uid]))
        if len(fresh) > _FEW:
            self._sorted = False
        if self._sorted:
            for uid in fresh:
                insort(self._order, uid)
        return Written(placed, gone)

    def settle(self, cursor: str) -> None:
        """Note that everything applied so far is written down for good, up to a cursor."""
        self.cursor = cursor
        self._free += self._left
        self._left = []

    def raw(self, place: int) -> bytes:
        """Return the vector in a place as it is stored.

        Raises:
            IndexError: There is no such place.
        """
        return self._vectors.raw(place)

    def take(self, concepts: Iterable[str], *, tests: bool = False) -> TrainingRows:
        """Copy out the inputs that carry a label of any of the concepts, those marked as test only where asked for."""
        if not self._sorted:
            self._order, self._sorted = sorted(self._rows), True
        wanted = set(concepts)
        rows = [
            row
            for uid in self._order
            if not wanted.isdisjoint((row := self._rows[uid]).labels) and (tests or not row.test)
        ]
        features = self._vectors.halves(np.fromiter((self._places[row.uid] for row in rows), np.int64, len(rows)))
        self.release()
        return TrainingRows(rows, features, self.moment)

    def release(self) -> None:
        """Let the system have the memory of the vectors: they are in the file."""
        self._vectors.release()

    def row(self, uid: str) -> Row | None:
        """Return an input, if it may take part."""
        return self._rows.get(uid)

    def vectors(self, uids: Iterable[str]) -> npt.NDArray[np.float32]:
        """Copy out the vectors of some inputs, [n, d].

        Raises:
            KeyError: One of them is not there.
        """
        return self._vectors.take(np.asarray([self._places[uid] for uid in uids], np.int64))

    def changed_since(self, moment: Moment) -> set[str] | None:
        """Return the inputs that were new, changed or gone since; None: that is not known any more."""
        count = self._revision - moment.revision
        if moment.life is not self._life or count > len(self._changed):
            return None
        return set(islice(reversed(self._changed), count))

    def _begin(self, dim: int) -> None:
        if dim != self.dim:
            if not dim:
                raise ValueError("a vector is empty")
            self._vectors = VectorFile(self._path, dim)

    def _stands(self, uid: str, vector: bytes) -> bool:
        place = self._places.get(uid)
        return place is not None and self._vectors.raw(place) == vector

    def _forget(self, uid: str) -> None:
        if self._rows.pop(uid, None) is not None:
            self._left.append(self._places.pop(uid))
            if self._sorted:
                del self._order[bisect_left(self._order, uid)]

    def _place(self) -> int:
        if self._free:
            return self._free.pop()
        self._used += 1
        return self._used - 1
