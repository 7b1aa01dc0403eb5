"""Figures of merit, in plain numpy.

Labels of several concepts are float32 [n, c] with 1 positive, 0 negative and NaN unknown; unknown ones take no part.
A figure that does not exist (the recall of a concept without positives) is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "Binary",
    "Ranking",
    "accuracy",
    "average_precision",
    "best_f1_threshold",
    "binary",
    "confusion_matrix",
    "expected_calibration_error",
    "in_top_k",
    "mean_absolute_error",
    "mean_defined",
    "r_squared",
    "roc_auc",
    "root_mean_squared_error",
    "top_k_accuracy",
]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

_ROWS = 4096


@dataclass(frozen=True)
class Binary:
    """Counts of one concept's decisions."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of the predicted that are right."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the positives that are found."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where nothing was found, NaN where there was nothing to find."""
        if self.true_positives + self.false_negatives == 0:
            return math.nan
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    def __add__(self, other: Binary) -> Binary:
        return Binary(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.true_negatives + other.true_negatives,
        )


def binary(truth: Bools, predicted: Bools) -> Binary:
    """Count the decisions of one concept."""
    return Binary(
        int((truth & predicted).sum()),
        int((~truth & predicted).sum()),
        int((truth & ~predicted).sum()),
        int((~truth & ~predicted).sum()),
    )


def accuracy(truth: Ints, scores: Floats) -> float:
    """Share of rows whose highest score is the true class."""
    return top_k_accuracy(truth, scores, 1)


def top_k_accuracy(truth: Ints, scores: Floats, k: int) -> float:
    """Share of rows whose true class is among the k highest scores."""
    return float(in_top_k(truth, scores, k).mean()) if len(truth) else math.nan


def in_top_k(truth: Ints, scores: Floats, k: int) -> Bools:
    """Tell of each row whether its true class is among the k highest scores."""
    if k >= scores.shape[1]:
        return np.ones(len(truth), dtype=np.bool_)
    if k == 1:
        best: Bools = scores.argmax(axis=1) == truth
        return best
    if len(truth) > _ROWS:
        starts = range(0, len(truth), _ROWS)
        return np.concatenate([in_top_k(truth[at : at + _ROWS], scores[at : at + _ROWS], k) for at in starts])
    # Counting who is better is many times faster than sorting; of equal scores, the first class is the better one.
    own = scores[np.arange(len(truth)), truth][:, None]
    better = (scores > own).sum(axis=1)
    tied = np.flatnonzero((scores == own).sum(axis=1) > 1)
    before = np.arange(scores.shape[1]) < truth[tied, None]
    better[tied] += ((scores[tied] == own[tied]) & before).sum(axis=1)
    among: Bools = better < k
    return among


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> npt.NDArray[np.int64]:
    """Count [actual, predicted]."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


class Ranking:
    """Scores of one concept in order, from which everything about ranks follows with one sort.

    Args:
        truth: [n].
        scores: [n].
    """

    def __init__(self, truth: Bools, scores: Floats) -> None:
        self._ordered = np.sort(scores)
        found, self._counts = np.unique(scores[truth], return_counts=True)
        # Of each distinct score of a positive, from the top: nothing changes for the better between them.
        self._values, self._counts = found[::-1], self._counts[::-1]
        self._hits = np.cumsum(self._counts)
        self._below = np.searchsorted(self._ordered, self._values, side="left")

    @property
    def _positives(self) -> int:
        return int(self._hits[-1]) if len(self._hits) else 0

    def roc_auc(self) -> float:
        """Chance that a positive scores above a negative; ties count half."""
        positives, rows = self._positives, len(self._ordered)
        if positives in (0, rows):
            return math.nan
        through = np.searchsorted(self._ordered, self._values, side="right")
        ranks = float((self._counts * (self._below + through + 1) / 2).sum())
        return (ranks - positives * (positives + 1) / 2) / (positives * (rows - positives))

    def average_precision(self) -> float:
        """Area under the precision-recall steps."""
        if self._positives == 0:
            return math.nan
        taken = len(self._ordered) - self._below
        return float((self._counts * self._hits / taken).sum() / self._positives)

    def best_f1_threshold(self) -> float:
        """The threshold with the highest F1, half way to the next lower score so that it holds for new pictures too.

        0.5 where that is as good, and where there are no positives or no negatives to choose by.
        """
        positives, rows = self._positives, len(self._ordered)
        if positives in (0, rows):
            return 0.5
        f1 = 2 * self._hits / (rows - self._below + positives)
        best = int(np.flatnonzero(f1 >= f1.max() - 1e-12)[0])
        upper, below = float(self._values[best]), int(self._below[best])
        lower = float(self._ordered[below - 1]) if below else 0.0
        return 0.5 if lower < 0.5 <= upper else (upper + lower) / 2

    def threshold_of_precision(self, least: float) -> float:
        """The lowest threshold from which on the precision is at least so much; the most precise one if none is."""
        return self._threshold(self._hits / np.maximum(len(self._ordered) - self._below, 1), least)

    def threshold_of_recall(self, least: float) -> float:
        """The highest threshold that finds at least so much of the positives."""
        positives = self._positives
        if positives in (0, len(self._ordered)):
            return 0.5
        return float(self._values[int(np.argmax(self._hits >= least * positives - 1e-9))])

    def _threshold(self, precision: npt.NDArray[np.float64], least: float) -> float:
        if self._positives in (0, len(self._ordered)):
            return 0.5
        good = np.flatnonzero(precision >= least - 1e-9)
        return float(self._values[good[-1] if len(good) else int(np.argmax(precision))])


def roc_auc(truth: Bools, scores: Floats) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    return Ranking(truth, scores).roc_auc()


def average_precision(truth: Bools, scores: Floats) -> float:
    """Area under the precision-recall steps."""
    return Ranking(truth, scores).average_precision()


def best_f1_threshold(truth: Bools, scores: Floats) -> float:
    """See :meth:`Ranking.best_f1_threshold`."""
    return Ranking(truth, scores).best_f1_threshold()


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean gap between confidence and share correct over equal bins of confidence, weighted by their size."""
    if len(confidence) == 0:
        return math.nan
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    sums = np.bincount(index, weights=confidence, minlength=bins)
    right = np.bincount(index, weights=correct.astype(np.float64), minlength=bins)
    return float(np.abs(sums - right).sum() / len(confidence))


def r_squared(truth: Floats, predicted: Floats) -> float:
    """Share of the variance explained; NaN where the truth does not vary."""
    if len(truth) == 0:
        return math.nan
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1.0 - float(((truth - predicted) ** 2).sum()) / spread if spread > 0 else math.nan


def mean_absolute_error(truth: Floats, predicted: Floats) -> float:
    """Mean distance, in the unit of the value."""
    return float(np.abs(truth - predicted).mean()) if len(truth) else math.nan


def root_mean_squared_error(truth: Floats, predicted: Floats) -> float:
    """Root of the mean squared distance, in the unit of the value."""
    return float(np.sqrt(((truth - predicted) ** 2).mean())) if len(truth) else math.nan


def mean_defined(values: list[float]) -> float:
    """Mean of the figures that exist."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
