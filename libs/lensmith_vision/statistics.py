"""What linear heads learn from, as sums over pictures: ten new annotations are ten rows added, not a new pass."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse

from lensmith_vision.positive import add_products, mirror

__all__ = ["Moments", "SufficientStatistics"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Sums = npt.NDArray[np.float64] | npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024


@dataclass(eq=False)
class Moments:
    """Sums over some pictures, about a common origin.

    Attributes:
        rows: How many pictures.
        total: [d], sum of the features.
        gram: [d, d], sum of their outer products.
        counts: [s, c], for each side (positives, and negatives where there are any) of each concept its pictures;
            for regression the sum of the targets.
        sums: [s, c, d], the features of those pictures added up; for regression weighted by the targets.
    """

    rows: int
    total: Doubles
    gram: Sums
    counts: Doubles
    sums: Sums

    @classmethod
    def zero(cls, dim: int, sides: int, concepts: int, *, single: bool = False) -> Moments:
        """Of no pictures; the large sums in single precision where that is said."""

        def sums(*shape: int) -> Sums:
            return np.zeros(shape, np.float32) if single else np.zeros(shape)

        return cls(0, np.zeros(dim), sums(dim, dim), np.zeros((sides, concepts)), sums(sides, concepts, dim))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.total + other.total,
            self.gram + other.gram,
            self.counts + other.counts,
            self.sums + other.sums,
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.rows - other.rows,
            self.total - other.total,
            self.gram - other.gram,
            self.counts - other.counts,
            self.sums - other.sums,
        )

    def sums_of_all(self) -> tuple[Doubles, Sums, Doubles, Sums]:
        """Every sum that it has."""
        return self.total, self.gram, self.counts, self.sums

    def absorb(self, features: Floats, values: Floats, sides: int, sign: int, lock: threading.Lock) -> None:
        """Add (sign 1) or take away (sign -1) pictures.

        Args:
            features: [n, d], about the origin.
            values: Labels [n, c] of 1, 0 and NaN, or targets [n, 1] where sides is 0.
            sides: 1: positives; 2: positives and negatives; 0: targets.
            sign: 1 or -1.
            lock: Held while sums are added to, not while products are taken.
        """
        total = features.sum(axis=0, dtype=np.float64)
        gram = features.T @ features
        counts: list[Doubles] = []
        sums: list[Floats] = []
        for side in range(max(sides, 1)):
            if sides == 0:
                counts.append(values.sum(axis=0, dtype=np.float64))
                sums.append(values.T @ features)
            else:
                chosen = scipy.sparse.csr_array(values == 1 - side, dtype=np.float32)
                counts.append(np.asarray(chosen.sum(axis=0), dtype=np.float64))
                sums.append(chosen.T @ features)
        join = np.add if sign > 0 else np.subtract
        with lock:
            self.rows += sign * len(features)
            join(self.total, total, out=self.total)
            join(self.gram, gram, out=self.gram)
            for side, (count, own) in enumerate(zip(counts, sums, strict=True)):
                join(self.counts[side], count, out=self.counts[side])
                join(self.sums[side], own, out=self.sums[side])


@dataclass(frozen=True, eq=False)
class _ClassSums:
    """Of some pictures that have one class each: products [d, d], sums [c, d] and counts [c] of classes."""

    gram: Floats
    sums: Floats
    counts: Doubles


class SufficientStatistics:
    """The moments of a training set, fold by fold; a fit without a fold is a subtraction.

    Pictures may be added from many threads at once.

    Args:
        origin: [d], where features are measured from: near their mean, or sums lose digits.
        concepts: How many.
        folds: How many.
        sides: 1 for classes that exclude each other, 2 for labels with negatives, 0 for targets.
        single: Whether folds are summed in single precision, at half the memory: enough where a fit is made in it.
    """

    def __init__(self, origin: Floats, concepts: int, folds: int, sides: int, *, single: bool = False) -> None:
        self.origin = origin
        self._sides = sides
        self._lock = threading.Lock()
        self._shape = len(origin), max(sides, 1), concepts
        self._folds = {fold: Moments.zero(*self._shape, single=single) for fold in range(folds)}
        # What came before its turn, and whose turn it is.
        self._early: list[dict[int, _ClassSums]] = [{} for _ in range(folds)]
        self._added = [0] * folds

    def add(self, features: Floats, values: Floats, folds: Ints) -> None:
        """Take in pictures: features [n, d], labels [n, c] or targets [n, 1], and the fold of each."""
        for fold, moments in self._folds.items():
            rows = np.flatnonzero(folds == fold)
            # Blocks keep memory small however many pictures there are.
            for start in range(0, len(rows), _BLOCK):
                block: Ints | slice = rows[start : start + _BLOCK]
                if len(rows) == len(folds):
                    block = slice(start, start + _BLOCK)
                centred = features[block] - self.origin
                moments.absorb(centred, values[block], self._sides, 1, self._lock)

    def add_classes(self, blocks: Iterable[tuple[Floats, Ints]], fold: int, place: int) -> None:
        """Take in pictures of one fold that have one class each.

        Args:
            blocks: Features [n, d] about the origin, and classes [n].
            fold: Of all of them.
            place: Counts off what is taken in of a fold, from 0. It is added up in that order, whichever thread is done
                first: rounded otherwise, the same pictures would give another head.
        """
        dim, _, concepts = self._shape
        part = _ClassSums(np.zeros((dim, dim), np.float32), np.zeros((concepts, dim), np.float32), np.zeros(concepts))
        for features, classes in blocks:
            present, own = np.unique(classes, return_inverse=True)
            shape = len(features), len(present)
            ones = np.ones(len(features), np.float32)
            member = scipy.sparse.csr_array((ones, own, np.arange(len(features) + 1)), shape=shape)
            part.sums[present] += member.T @ features
            part.counts[:] += np.bincount(classes, minlength=concepts)
            add_products(part.gram, features)
        mirror(part.gram)
        moments, early = self._folds[fold], self._early[fold]
        with self._lock:
            early[place] = part
            while (due := early.pop(self._added[fold], None)) is not None:
                self._added[fold] += 1
                if moments.rows or moments.gram.dtype != due.gram.dtype:
                    moments.gram += due.gram
                    moments.sums[0] += due.sums
                else:
                    # Nothing is added to nothing: of a small set that takes as long as the sums themselves.
                    moments.gram, moments.sums = due.gram, due.sums[None]
                moments.rows += int(due.counts.sum())
                moments.total += due.sums.sum(axis=0, dtype=np.float64)
                moments.counts[0] += due.counts

    def total(self) -> Moments:
        """Of all pictures."""
        total = Moments.zero(*self._shape)
        for fold in self._folds.values():
            total.rows += fold.rows
            for into, own in zip(total.sums_of_all(), fold.sums_of_all(), strict=True):
                np.add(into, own, out=into)
        return total

    def fold(self, fold: int) -> Moments:
        """Of the pictures of one fold.

        Raises:
            KeyError: It was given out.
        """
        return self._folds[fold]

    def pop(self, fold: int) -> Moments:
        """Give out the pictures of one fold, which then takes no memory here, nor any pictures more.

        Raises:
            KeyError: It was given out before.
        """
        return self._folds.pop(fold)
