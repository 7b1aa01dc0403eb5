"""Linear heads of concepts that exclude each other, from one pass over the pictures and one to hold them out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lensmith_vision.calibration import calibrate
from lensmith_vision.class_choice import ALL_PAIRS, CERTAINTY, SAMPLE, USUAL_LINEAR, Choice
from lensmith_vision.discriminant import Discriminant, Scatter, solve, within_variance
from lensmith_vision.folds import blocks_of_fold
from lensmith_vision.halves import Features
from lensmith_vision.kernel import KernelPart
from lensmith_vision.refit import ClassSums
from lensmith_vision.statistics import Moments, SufficientStatistics
from lensmith_vision.threads import cores, give_memory_back, in_threads
from lensmith_vision.transforms import Transform, gathered, transformed

__all__ = ["ClassFit", "fit_linear", "some_rows", "statistics_of"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LARGE_SHRINKAGES = (0.3, 1.0, 3.0, 10.0, 30.0)
_ROWS_TO_SUM, _ROWS_AT_ONCE = 5120, 1024
_ORIGIN_ROWS = 1024
_SCALED_ROWS = 512
_MOST_TO_CALIBRATE, _LOGITS_TO_CALIBRATE = 4096, 500_000


@dataclass(frozen=True, eq=False)
class ClassFit:
    """A fitted head's numbers with calibration folded in.

    Attributes:
        transform: Of the features.
        weights: [d, c].
        bias: [c].
        kernel: None in the linear tier.
        logits: [n, c], each row given by a fit without its fold, calibrated.
        shrinkage: That was chosen, in units of the within-class variance.
        sums: What a linear fit worked with; None in the kernel tier.
    """

    transform: Transform
    weights: Floats
    bias: Floats
    kernel: KernelPart | None
    logits: Floats
    shrinkage: float
    sums: ClassSums | None = None


def fit_linear(features: Features, classes: Ints, width: int, folds: Ints, choice: Choice, prior: Doubles) -> ClassFit:
    """Fit, and hold out each fold.

    Args:
        features: [n, d].
        classes: [n].
        width: Number of classes.
        folds: [n].
        choice: Of transform and, for small sets, shrinkage.
        prior: [width], log of how common each class is.
    """
    statistics = statistics_of(features, classes, width, folds, choice.transform)
    total, origin, count = statistics.total(), statistics.origin, int(folds.max()) + 1
    chosen, first = choice.shrinkage, None
    if len(features) > ALL_PAIRS:
        chosen, first = _refined(features, classes, folds, choice.transform, statistics, total, prior)
    shrinkage = chosen * within_variance(total)
    give_memory_back(features.nbytes)

    def fit_without(fold: int) -> Discriminant:
        if fold == count:
            return solve(total, shrinkage)
        # Gone as soon as it is used: its room is taken by the scores.
        less = statistics.pop(fold)
        fitted = solve(total, shrinkage, less) if fold or first is None else first
        del less
        give_memory_back(features.nbytes)
        return fitted

    logits = np.empty((len(features), width), np.float32)
    *without, fitted = _held_out(features, folds, choice.transform, origin, fit_without, logits)
    factor = choice.linear.factor
    if len(features) > ALL_PAIRS:
        some = some_rows(len(features), width)
        factor = calibrate(logits[some], classes[some], factor, CERTAINTY, prior).factor
    _scale(logits, factor, prior)
    for fold, own in enumerate(without):
        if len(own.unseen):
            held_out = np.flatnonzero(folds == fold)
            scored = logits[held_out]
            own.forget_unseen(scored)
            logits[held_out] = scored
    weights = np.float32(factor) * fitted.weights
    bias = factor * fitted.bias + prior - origin @ weights
    sums = ClassSums(choice.transform, origin, total, without, chosen, factor)
    return ClassFit(choice.transform, weights, bias.astype(np.float32), None, logits, chosen, sums)


def _held_out(
    features: Features,
    folds: Ints,
    transform: Transform,
    origin: Floats,
    fit_without: Callable[[int], Discriminant],
    logits: Floats,
) -> list[Discriminant]:
    """Fit without each fold and, last, on everything; write the logits [n, c] of each picture without its fold."""
    count = int(folds.max()) + 1

    def hold_out(rows: Ints, fitted: Future[Discriminant]) -> None:
        inputs, own = gathered(features, rows, transform), fitted.result()
        found = inputs @ own.weights
        found += (own.bias - origin @ own.weights).astype(np.float32)
        logits[rows] = found

    with ThreadPoolExecutor(cores()) as executor:
        fits: list[Future[Discriminant]] = []
        held_out = []
        for fold in range(count + 1):
            fits.append(executor.submit(fit_without, fold))
            # The next fit is on its way while this one's pictures are scored.
            if fold:
                held_out += [
                    executor.submit(hold_out, rows, fits[fold - 1]) for rows in blocks_of_fold(folds, fold - 1)
                ]
        for done in held_out:
            done.result()
        return [future.result() for future in fits]


def _scale(logits: Floats, factor: float, prior: Doubles) -> None:
    added = prior.astype(np.float32)

    def scale(start: int) -> None:
        block = logits[start : start + _SCALED_ROWS]
        block *= np.float32(factor)
        block += added

    in_threads(scale, range(0, len(logits), _SCALED_ROWS))


def _refined(
    features: Features,
    classes: Ints,
    folds: Ints,
    transform: Transform,
    statistics: SufficientStatistics,
    total: Moments,
    prior: Doubles,
) -> tuple[float, Discriminant]:
    """Choose the shrinkage of a large set, of which a sample would want more, on pictures of its first fold.

    Gives the fit without that fold, too.
    """
    rows = np.flatnonzero(folds == 0)
    rows = rows[some_rows(len(rows), len(prior))]
    inputs = gathered(features, rows, transform, statistics.origin)
    scatter = Scatter.of(total, statistics.fold(0))
    unit = within_variance(total)

    def judged(shrinkage: float) -> tuple[float, Discriminant]:
        fitted = scatter.solve(shrinkage * unit)
        logits = inputs @ fitted.weights
        logits += fitted.bias.astype(np.float32)
        return calibrate(logits, classes[rows], USUAL_LINEAR, CERTAINTY, prior).loss, fitted

    less, usual, *more = _LARGE_SHRINKAGES
    tried = dict(zip((usual, more[0]), in_threads(judged, (usual, more[0])), strict=True))
    # The loss has one valley: where more is better, less is not.
    if tried[more[0]][0] >= tried[usual][0]:
        tried[less] = judged(less)
    else:
        for before, shrinkage in pairwise(more):
            tried[shrinkage] = judged(shrinkage)
            if tried[shrinkage][0] >= tried[before][0]:
                break
    best = min(tried, key=lambda shrinkage: tried[shrinkage][0])
    return best, tried[best][1]


def statistics_of(
    features: Features, classes: Ints, width: int, folds: Ints, transform: Transform
) -> SufficientStatistics:
    """Sum up a training set of classes, block by block so that no second copy of the features is made."""
    origin = transformed(features[:_ORIGIN_ROWS], transform).mean(axis=0, dtype=np.float64).astype(np.float32)
    statistics = SufficientStatistics(origin, width, int(folds.max()) + 1, sides=1, single=True)
    # Pictures of one class beside each other: a block has few of them.
    order = np.argsort(classes, kind="stable")

    def sum_up(block: tuple[int, int, Ints]) -> None:
        fold, place, rows = block
        own = order[rows]
        parts = np.array_split(own, -(-len(own) // _ROWS_AT_ONCE))
        blocks = ((gathered(features, part, transform, origin), classes[part]) for part in parts)
        statistics.add_classes(blocks, fold, place)

    dealt = folds[order]
    in_threads(
        sum_up,
        (
            (fold, place, rows)
            for fold in range(int(folds.max()) + 1)
            for place, rows in enumerate(blocks_of_fold(dealt, fold, _ROWS_TO_SUM))
        ),
    )
    return statistics


def some_rows(rows: int, width: int) -> Ints:
    """Rows that are enough to find one number by."""
    most = min(_MOST_TO_CALIBRATE, max(SAMPLE, _LOGITS_TO_CALIBRATE // width))
    return np.random.default_rng(0).permutation(rows)[:most]
