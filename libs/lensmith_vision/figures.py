"""Parts of an evaluation that are more than one number: intervals, bars of calibration and of errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse

from lensmith_vision.bootstrap import Interval, Resamples, interval_of, intervals_of
from lensmith_vision.evaluation import CalibrationBin, ResidualBin
from lensmith_vision.threads import in_threads

__all__ = ["Cells", "CountIntervals", "calibration_bins", "count_intervals", "regression_intervals", "residual_bins"]

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_BINS = 15
_RESIDUAL_BINS = 20
_ROUNDING = 1e-5
_ROWS = 4096


@dataclass(frozen=True)
class CountIntervals:
    """Intervals of what follows from counts: over all, and for each concept."""

    whole: dict[str, Interval | None]
    concepts: list[dict[str, Interval | None]]


@dataclass(frozen=True, eq=False)
class Cells:
    """Where decisions differ from silence, few of many cells: [n, c] each.

    Attributes:
        right: Positives that are found.
        missed: Positives that are not.
        false: Negatives that are taken for positives.
    """

    right: scipy.sparse.csr_array
    missed: scipy.sparse.csr_array
    false: scipy.sparse.csr_array

    @classmethod
    def of(cls, labels: npt.NDArray[np.float32], predicted: Bools) -> Cells:
        """Of labels [n, c] with 1, 0 and NaN unknown, and of what is predicted [n, c]."""
        parts: list[list[scipy.sparse.csr_array]] = [[], [], []]
        for start in range(0, len(labels), _ROWS):
            own, found = labels[start : start + _ROWS], predicted[start : start + _ROWS]
            positive = own == 1
            for part, chosen in zip(parts, (positive & found, positive & ~found, (own == 0) & found), strict=True):
                part.append(scipy.sparse.csr_array(chosen, dtype=np.float32))
        return cls(*(scipy.sparse.vstack(part, format="csr") for part in parts))

    @classmethod
    def of_classes(cls, classes: Ints, best: Ints, width: int) -> Cells:
        """Of pictures that have one class each and are given one."""
        rows, right = np.arange(len(classes)), classes == best

        def cells(chosen: Bools, columns: Ints) -> scipy.sparse.csr_array:
            ones = np.ones(int(chosen.sum()), np.float32)
            return scipy.sparse.csr_array((ones, (rows[chosen], columns[chosen])), shape=(len(rows), width))

        return cls(cells(right, classes), cells(~right, classes), cells(~right, best))

    def counts(self) -> tuple[list[int], list[int], list[int]]:
        """How many of each in each column."""
        right, missed, false = (
            np.bincount(part.indices, minlength=part.shape[1]).tolist()
            for part in (self.right, self.missed, self.false)
        )
        return right, missed, false


def count_intervals(cells: Cells, resamples: Resamples) -> CountIntervals:
    """Bootstrap precision, recall and F1.

    Args:
        cells: What was decided.
        resamples: Draws of the pictures.
    """
    right, missed, false = in_threads(resamples.sums, (cells.right, cells.missed, cells.false))
    precision, recall = _ratio(right, right + false), _ratio(right, right + missed)
    f1 = _ratio(2 * right, 2 * right + false + missed)
    # A concept that a draw leaves without a positive has no F1 in it.
    f1[right + missed == 0] = np.nan
    known_right, known_missed, known_false = cells.counts()
    taken = [_groups(one + other, resamples) for one, other in zip(known_right, known_false, strict=True)]
    shown = [_groups(one + other, resamples) for one, other in zip(known_right, known_missed, strict=True)]
    each = zip(intervals_of(precision, taken), intervals_of(recall, shown), intervals_of(f1, shown), strict=True)
    concepts = [dict(zip(("precision", "recall", "f1"), three, strict=True)) for three in each]
    all_right, all_missed, all_false = right.sum(axis=0), missed.sum(axis=0), false.sum(axis=0)
    # Where all is right, a mean over concepts says no more than all their pictures together.
    all_taken = _groups(sum(known_right) + sum(known_false), resamples)
    all_shown = _groups(sum(known_right) + sum(known_missed), resamples)
    whole = {
        "macro_precision": interval_of(_mean(precision), all_taken),
        "macro_recall": interval_of(_mean(recall), all_shown),
        "macro_f1": interval_of(_mean(f1), all_shown),
        "micro_precision": interval_of(_ratio(all_right, all_right + all_false), all_taken),
        "micro_recall": interval_of(_ratio(all_right, all_right + all_missed), all_shown),
        "micro_f1": interval_of(_ratio(2 * all_right, 2 * all_right + all_false + all_missed), all_shown),
    }
    return CountIntervals(whole, concepts)


def regression_intervals(targets: Doubles, values: Doubles, resamples: Resamples) -> dict[str, Interval | None]:
    """Bootstrap the figures of a regression."""
    error, centred = values - targets, targets - targets.mean()
    columns = np.stack([np.ones(len(error)), np.abs(error), error**2, centred, centred**2], axis=1)
    count, absolute, squared, total, spread = resamples.sums(scipy.sparse.csr_array(columns))
    varied = spread - _ratio(total**2, count)
    # A draw of one picture over and over has no spread but what rounding makes of it.
    varied[~(varied > _ROUNDING * spread)] = 0
    return {
        "mean_absolute_error": interval_of(_ratio(absolute, count)),
        "root_mean_squared_error": interval_of(np.sqrt(_ratio(squared, count))),
        "r2": interval_of(1 - _ratio(squared, varied)),
    }


def calibration_bins(confidence: Doubles, right: Bools) -> tuple[CalibrationBin, ...]:
    """Return the bars of the calibration curve that are not empty."""
    index = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(index, minlength=_BINS)
    sums = np.bincount(index, weights=confidence, minlength=_BINS)
    hits = np.bincount(index, weights=right.astype(np.float64), minlength=_BINS)
    return tuple(
        CalibrationBin(
            place / _BINS,
            (place + 1) / _BINS,
            int(counts[place]),
            float(sums[place] / counts[place]),
            float(hits[place] / counts[place]),
        )
        for place in np.flatnonzero(counts).tolist()
    )


def residual_bins(residuals: Doubles) -> tuple[ResidualBin, ...]:
    """Count errors in bars of equal width, which are wide enough to be told apart."""
    low, high = float(residuals.min()), float(residuals.max())
    least = 4 * _RESIDUAL_BINS * float(np.spacing(max(abs(low), abs(high))))
    if high - low < least:
        half = max(least, 1.0) / 2
        low, high = low - half, high + half
    counts, edges = np.histogram(residuals, bins=_RESIDUAL_BINS, range=(low, high))
    return tuple(
        ResidualBin(low, high, count)
        for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    )


def _groups(trials: int, resamples: Resamples) -> int:
    return max(1, int(trials / max(1.0, resamples.cluster))) if trials else 0


def _ratio(part: Doubles, whole: Doubles) -> Doubles:
    ratio: Doubles = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _mean(figures: Doubles) -> Doubles:
    """Mean over the concepts that have the figure."""
    known = np.isfinite(figures)
    return _ratio(np.where(known, figures, 0.0).sum(axis=0), known.sum(axis=0).astype(np.float64))
