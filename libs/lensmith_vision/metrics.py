"""Figures of merit, in plain numpy.

Labels of several concepts are float32 [n, c] with 1 positive, 0 negative and NaN unknown; unknown ones take no part.
A figure that does not exist (the recall of a concept without positives) is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.threads import in_threads

__all__ = [
    "Binary",
    "Ranking",
    "accuracy",
    "average_precision",
    "best_f1_threshold",
    "binary",
    "confusion_matrix",
    "debiased_calibration_error",
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

_ROWS = 512

_CHANCES = 20
"""How often a perfect model is drawn; more move the error by less than a thousandth."""

_SCORES_WEIGH = 20
"""Pictures. How many predictions it takes for their being right to count as much as the scores that they have."""


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


def in_top_k(truth: Ints, scores: Floats, k: int, rows: Ints | None = None) -> Bools:
    """Tell of each row, or of some, whether its true class is among the k highest scores."""
    chosen = np.arange(len(truth)) if rows is None else rows
    if k >= scores.shape[1]:
        return np.ones(len(chosen), dtype=np.bool_)
    if not len(chosen):
        return np.empty(0, dtype=np.bool_)
    starts = range(0, len(chosen), _ROWS)
    parts = in_threads(lambda at: _in_top_k(truth, scores, k, chosen[at : at + _ROWS]), starts)
    return np.concatenate(parts)


def _in_top_k(truth: Ints, scores: Floats, k: int, rows: Ints) -> Bools:
    """Counting who is better is many times faster than sorting; of equal scores, the first class is the better one."""
    some, classes = scores[rows], truth[rows]
    own = some[np.arange(len(rows)), classes][:, None]
    better = np.count_nonzero(some >= own, axis=1) - 1
    # Whoever is among them with its equals before it, is so; the others are looked at again.
    tied = np.flatnonzero(better >= k)
    before = np.arange(some.shape[1]) < classes[tied, None]
    better[tied] = ((some[tied] > own[tied]) | ((some[tied] == own[tied]) & before)).sum(axis=1)
    among: Bools = better < k
    return among


def confusion_matrix(truth: Ints, predicted: Ints, classes: int) -> npt.NDArray[np.int64]:
    """Count [actual, predicted]."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


class Ranking:
    """Where the positives of one concept stand among all scores: what follows from one sort, without keeping it.

    Args:
        ordered: [n], all scores from low to high.
        found: [p], those of the positives from low to high.
        for_precision: Whether `threshold_of_precision` will be asked, which needs sums of scores.
    """

    def __init__(self, ordered: Floats, found: Floats, *, for_precision: bool = False) -> None:
        self.rows, self.positives = len(ordered), len(found)
        descending = found[::-1]
        # Of each distinct score of a positive, from the top: nothing changes for the better between them.
        ends = np.flatnonzero(descending[1:] != descending[:-1]) if len(found) else np.empty(0, np.int64)
        self.hits = np.append(ends + 1, len(found)) if len(found) else ends
        self._counts = np.diff(self.hits, prepend=0)
        self._values = descending[self.hits - 1]
        self._below = np.searchsorted(ordered, self._values, side="left")
        self._through = np.searchsorted(ordered, self._values, side="right")
        self._lower = np.where(self._below > 0, ordered[np.maximum(self._below, 1) - 1], 0)
        self._sums: npt.NDArray[np.float64] | None = None
        if for_precision and len(found):
            # From each distinct score of a positive up.
            between = np.add.reduceat(ordered, self._below[::-1], dtype=np.float64)
            self._sums = np.cumsum(between[::-1])

    @classmethod
    def of(cls, truth: Bools, scores: Floats, *, for_precision: bool = False) -> Ranking:
        """Rank scores [n], of which some are positives'."""
        return cls(np.sort(scores), np.sort(scores[truth]), for_precision=for_precision)

    def negatives_above(self) -> npt.NDArray[np.float64]:
        """How many negatives score above each distinct score of a positive, ties counted half."""
        above = self.positives - self.hits
        left, right = self._below - above, self._through - above - self._counts
        result: npt.NDArray[np.float64] = (self.rows - self.positives) - (left + right) / 2
        return result

    def roc_auc(self) -> float:
        """Chance that a positive scores above a negative; ties count half."""
        positives, rows = self.positives, self.rows
        if positives in (0, rows):
            return math.nan
        ranks = float((self._counts * (self._below + self._through + 1) / 2).sum())
        return (ranks - positives * (positives + 1) / 2) / (positives * (rows - positives))

    def average_precision(self) -> float:
        """Area under the precision-recall steps."""
        if self.positives == 0:
            return math.nan
        return float((self._counts * self.hits / (self.rows - self._below)).sum() / self.positives)

    def best_f1_threshold(self) -> float:
        """The threshold with the highest F1, half way to the next lower score so that it holds for new pictures too.

        0.5 where that is as good, and where there are no positives or no negatives to choose by.
        """
        if self.positives in (0, self.rows):
            return 0.5
        f1 = 2 * self.hits / (self.rows - self._below + self.positives)
        best = int(np.flatnonzero(f1 >= f1.max() - 1e-12)[0])
        upper, lower = float(self._values[best]), float(self._lower[best])
        return 0.5 if lower < 0.5 <= upper else (upper + lower) / 2

    def threshold_of_precision(self, least: float) -> float:
        """The lowest threshold from which on a precision is to be expected of new pictures.

        Of a handful of predictions all may be right by chance, and the threshold where they are is found by looking for
        it. So what is expected is what was right together with what the scores, which are probabilities, say would be:
        they count as much as `_SCORES_WEIGH` predictions. Of hundreds of predictions, what was right alone decides.
        Where it is expected nowhere, only what promises it itself passes: few pictures, or none.

        Raises:
            ValueError: It was not made `for_precision`.
        """
        if self.positives in (0, self.rows):
            return 0.5
        if self._sums is None:
            raise ValueError("a ranking for precision needs sums of scores")
        predicted = self.rows - self._below
        precision = (self.hits + _SCORES_WEIGH * self._sums / predicted) / (predicted + _SCORES_WEIGH)
        good = np.flatnonzero(precision >= least - 1e-9)
        return float(self._values[good[-1]]) if len(good) else max(float(self._values[np.argmax(precision)]), least)

    def threshold_of_recall(self, least: float) -> float:
        """The highest threshold that finds at least so much of the positives."""
        if self.positives in (0, self.rows):
            return 0.5
        return float(self._values[int(np.argmax(self.hits >= least * self.positives - 1e-9))])


def roc_auc(truth: Bools, scores: Floats) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    return Ranking.of(truth, scores).roc_auc()


def average_precision(truth: Bools, scores: Floats) -> float:
    """Area under the precision-recall steps."""
    return Ranking.of(truth, scores).average_precision()


def best_f1_threshold(truth: Bools, scores: Floats) -> float:
    """See :meth:`Ranking.best_f1_threshold`."""
    return Ranking.of(truth, scores).best_f1_threshold()


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Mean gap between confidence and share correct over equal bins of confidence, weighted by their size."""
    if len(confidence) == 0:
        return math.nan
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    sums = np.bincount(index, weights=confidence, minlength=bins)
    right = np.bincount(index, weights=correct.astype(np.float64), minlength=bins)
    return float(np.abs(sums - right).sum() / len(confidence))


def debiased_calibration_error(confidence: Floats, correct: Bools, seed: int = 0) -> float:
    """Calibration error less what a perfectly calibrated model shows by chance on as many predictions; never below 0.

    For predictions of several trainings together: on few it is biased, both ways. A perfect model reads as 0.017 in the
    mean on 60 predictions, 0.005 on 300 and 0.001 on 5,000, for what would be below 0 is cut off. A confidence that is
    0.05 too high reads as 0.024, 0.018 and 0.034, for errors and chance do not add up. The error of the predictions as
    they are is too high in turn (0.15, 0.08, 0.05): the truth lies between the two.
    """
    generator = np.random.default_rng(seed)
    chance = [
        expected_calibration_error(confidence, generator.random(len(confidence)) < confidence) for _ in range(_CHANCES)
    ]
    return max(0.0, expected_calibration_error(confidence, correct) - sum(chance) / len(chance))


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
