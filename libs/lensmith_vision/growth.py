"""Fitting again where a few pictures came to many: nothing is done that takes as long as there are pictures.

The sums take the new rows in and are solved once, as in `refit`; whether a new picture is a copy of an old one is found
in a sketch of all pictures, so that of the old ones only those are looked at that are nearly it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from lensmith_vision.folds import NEAR_DUPLICATE_COSINE
from lensmith_vision.refit import ClassMemory, Pictures, added, is_large, may_stand

__all__ = ["Grown", "NewPictures", "Sketch", "grow"]

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]

_DIM = 96
_LOOSER = 2.5
"""How much further apart near copies may look in a sketch than they are."""
_BLOCK = 2048
_FOR_CENTRE = 4096
_SHORTEST = 1e-6


@dataclass(frozen=True, eq=False)
class Sketch:
    """Where pictures stand, roughly: directions from their centre in a random projection.

    Attributes:
        centre: [d], the mean of some thousands of the pictures that it was first made of.
        directions: [n or more, k] float16; there is room for pictures to come.
        count: Pictures in it.
    """

    centre: Floats
    directions: Halves
    count: int

    @classmethod
    def of(cls, count: int, look: Callable[[Ints], Floats]) -> Sketch:
        """Of pictures whose features [n, d] are looked up by their places, some at a time."""
        some = look(np.arange(0, count, max(1, count // _FOR_CENTRE)))
        sketch = cls(some.mean(axis=0, dtype=np.float32), np.empty((count, _DIM), np.float16), count)
        for start in range(0, count, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, count))
            sketch.directions[rows] = sketch.projected(look(rows))
        return sketch

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        return self.directions.nbytes

    def projected(self, features: Floats) -> Floats:
        """Directions [m, k] of features [m, d]."""
        projection = np.random.default_rng(0).standard_normal((len(self.centre), _DIM), dtype=np.float32)
        found: Floats = np.matmul(features - self.centre, projection, dtype=np.float32)
        found /= np.maximum(np.sqrt(np.vecdot(found, found)), np.float32(_SHORTEST))[:, None]
        return found

    def nearly(self, features: Floats) -> list[Ints]:
        """For each row of features [m, d], the pictures that may be near copies of it."""
        sought, loose = self.projected(features), 1 - _LOOSER * (1 - NEAR_DUPLICATE_COSINE)
        found: list[list[Ints]] = [[] for _ in sought]
        for start in range(0, self.count, _BLOCK):
            alike = sought @ self.directions[start : min(start + _BLOCK, self.count)].T.astype(np.float32)
            for row, column in zip(*np.nonzero(alike >= loose), strict=True):
                found[row].append(column + start)
        return [np.asarray(rows, np.int64) for rows in found]

    def likeness(self, one: Floats, others: Floats) -> Floats:
        """Cosines [n] of a picture [d] and others [n, d], seen from the centre."""
        left, right = one - self.centre, others - self.centre
        lengths = np.sqrt(np.vecdot(left, left) * np.vecdot(right, right))
        found: Floats = np.vecdot(right, left) / np.maximum(lengths, _SHORTEST)
        return found

    def with_more(self, features: Floats) -> Sketch:
        """The same with pictures added."""
        count = self.count + len(features)
        directions = self.directions
        if len(directions) < count:
            directions = np.empty((count + count // 16, _DIM), np.float16)
            directions[: self.count] = self.directions[: self.count]
        directions[self.count : count] = self.projected(features)
        return replace(self, directions=directions, count=count)


@dataclass(frozen=True, eq=False)
class NewPictures:
    """Pictures that a memory does not know.

    Attributes:
        ids: Of each.
        group_ids: Equal for pictures of equal bytes.
        features: [m, d].
        classes: [m].
    """

    ids: Sequence[str]
    group_ids: Sequence[str]
    features: Floats
    classes: Ints


@dataclass(frozen=True, eq=False)
class Grown:
    """A head's numbers, for which the evaluation before still stands, and what they leave behind.

    Attributes:
        weights: [d, c].
        bias: [c].
        memory: For the next fit.
        sketch: For the next fit.
        folds: [m], of the new pictures.
    """

    weights: Floats
    bias: Floats
    memory: ClassMemory
    sketch: Sketch
    folds: Ints


def grow(memory: ClassMemory, sketch: Sketch, new: NewPictures, look: Callable[[Ints], Floats]) -> Grown | None:
    """Fit to the pictures of a memory and a few more; None: more has to be done than that, see `fit`.

    Args:
        memory: Of the earlier fit.
        sketch: Of its pictures, in their order.
        new: What came.
        look: Gives features [n, d] of the memory's pictures at some places.
    """
    before, count = memory.pictures, len(new.ids)
    total = len(before.ids) + count
    unevaluated, changed = memory.unevaluated + count, memory.changed + count
    if not is_large(total, len(memory.thresholds)) or not may_stand(total, unevaluated, changed):
        return None
    # What is said of the data of a version counts copies of the same bytes.
    if len(set(new.group_ids)) < count or not set(new.group_ids).isdisjoint(before.group_ids):
        return None
    with threadpool_limits(1, user_api="blas"):
        placed = _placed(memory, sketch, new, look)
        if placed is None:
            return None
        groups, folds = placed
        everyone, nobody = np.arange(count), np.empty(0, np.int64)
        sums = replace(memory.sums, total=added(memory.sums, new.features, new.classes, new.classes, everyone, nobody))
        pictures = Pictures(
            [*before.ids, *new.ids],
            [*before.group_ids, *new.group_ids],
            np.append(before.classes, new.classes),
            np.append(before.groups, groups),
            np.append(before.folds, folds),
            None,
        )
        after = replace(memory, sums=sums, pictures=pictures, changed=changed, unevaluated=unevaluated)
        return Grown(*sums.final(), after, sketch.with_more(new.features), folds)


def _placed(
    memory: ClassMemory, sketch: Sketch, new: NewPictures, look: Callable[[Ints], Floats]
) -> tuple[Ints, Ints] | None:
    """Group and fold of new pictures, with their near copies; None: those are in several folds."""
    before, count = memory.pictures, len(memory.sums.without)
    groups, folds = np.empty(len(new.ids), np.int64), np.empty(len(new.ids), np.int64)
    newest = int(before.groups.max()) + 1
    held = np.zeros((len(memory.thresholds), count), np.int64)
    np.add.at(held, (before.classes, before.folds), 1)
    for row, nearly in enumerate(sketch.nearly(new.features)):
        one = new.features[row]
        old = nearly[sketch.likeness(one, look(nearly)) >= NEAR_DUPLICATE_COSINE] if len(nearly) else nearly
        own = np.flatnonzero(sketch.likeness(one, new.features[:row]) >= NEAR_DUPLICATE_COSINE)
        found = np.unique(np.append(before.folds[old], folds[own]))
        if len(found) > 1:
            return None
        if len(found):
            groups[row], folds[row] = np.append(before.groups[old], groups[own]).min(), found[0]
        else:
            groups[row], folds[row] = newest, held[new.classes[row]].argmin()
            newest += 1
        held[new.classes[row], folds[row]] += 1
    return groups, folds
