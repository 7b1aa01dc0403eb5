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
    "accuracy",
    "average_precision",
    "best_f1_threshold",
    "binary",
    "confusion_matrix",
    "expected_calibration_error",
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
    if len(truth) == 0:
        return math.nan
    if k >= scores.shape[1]:
        return 1.0
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k > 1 else scores.argmax(axis=1)[:, None]
    return float((best == truth[:, None]).any(axis=1).mean())


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> npt.NDArray[np.int64]:
    """Count [actual, predicted]."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def roc_auc(truth: Bools, scores: Floats) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    ranks = (upper - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(truth: Bools, scores: Floats) -> float:
    """Area under the precision-recall steps."""
    positives = int(truth.sum())
    if positives == 0:
        return math.nan
    hits, taken, _ = _descending(truth, scores)
    recall = hits / positives
    return float((np.diff(recall, prepend=0.0) * (hits / taken)).sum())


def best_f1_threshold(truth: Bools, scores: Floats) -> float:
    """The threshold with the highest F1, half way to the next lower score so that it holds for new pictures too.

    0.5 where that is as good, and where there are no positives or no negatives to choose by.
    """
    positives = int(truth.sum())
    if positives == 0 or positives == len(truth):
        return 0.5
    hits, taken, values = _descending(truth, scores)
    f1 = 2 * hits / (taken + positives)
    best = int(np.flatnonzero(f1 >= f1.max() - 1e-12)[0])
    upper = float(values[best])
    lower = float(values[best + 1]) if best + 1 < len(values) else 0.0
    return 0.5 if lower < 0.5 <= upper else (upper + lower) / 2


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


def _descending(truth: Bools, scores: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Floats]:
    """For each distinct score from the top: positives so far, rows so far, the score."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(truth[order], dtype=np.float64)[last]
    return hits, (last + 1).astype(np.float64), ordered[last]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
