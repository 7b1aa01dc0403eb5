"""Ridge regression on transformed features: the strength by exact leave-one-out, everything else from sums.

What overlapping labels and numbers have in common. A fit needs the Gram matrix and the sum of the features of each
target, kept fold by fold; what it says about pictures that it has not seen follows from one inverse among pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import Features
from lensmith_vision.kernel import held_out_similarity
from lensmith_vision.positive import inverse_of, solve_positive
from lensmith_vision.statistics import Moments, SufficientStatistics
from lensmith_vision.threads import in_threads
from lensmith_vision.transforms import Transform, transformed

__all__ = ["INTERCEPT", "MOST_PAIRS", "Contrast", "RidgeChoice", "RidgeFit", "choose_ridge", "fit_ridge"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_PAIRS = 1024
"""Up to so many pictures, all that is held out follows from inner products of pictures."""

INTERCEPT = 10.0
"""Added to inner products whose mean square is 1: an intercept that is all but free."""

_TRANSFORMS: tuple[Transform, ...] = ("root", "unit", "none")
_SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LARGE_FACTORS = (0.1, 0.3, 1.0, 3.0)
"""How far from a sample's choice a large set may go."""
_BLOCK = 1024

Contrast = Callable[[Moments], tuple[Doubles, Doubles]]
"""From moments about an origin to the right sides [d, k] of a fit and the values [k] at their mean."""


@dataclass(frozen=True)
class RidgeChoice:
    """What was chosen: the transform, and the penalty in units of the mean squared length of a centred picture."""

    transform: Transform
    shrinkage: float


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """Fitted numbers.

    Attributes:
        transform: Of the features.
        weights: [d, k] float64.
        bias: [k] float64.
        values: [n, k] float32, each row given by a fit without its fold.
        shrinkage: That was taken.
    """

    transform: Transform
    weights: Doubles
    bias: Doubles
    values: Floats
    shrinkage: float


def choose_ridge(
    features: Features,
    targets: Doubles,
    groups: Ints,
    loss: Callable[[Doubles], float],
    step: Callable[[float], None],
    *,
    plain: bool = False,
) -> RidgeChoice:
    """Choose by what fits without each group of pictures say about that group, exactly.

    Args:
        features: [n, d], at most :data:`MOST_PAIRS` pictures.
        targets: [n, k].
        groups: [n], pictures of one group are held out together.
        loss: Of values [n, k], each given without the picture's group.
        step: Told the part done, 0 to 1; may raise to stop.
        plain: Whether features stay as they are, so that what is fitted is linear in them.
    """
    best: tuple[float, RidgeChoice] | None = None
    transforms: Sequence[Transform] = ("none",) if plain else _TRANSFORMS
    for turn, transform in enumerate(transforms):
        inputs = transformed(features, transform)
        centred = inputs - inputs.mean(axis=0, dtype=np.float64).astype(np.float32)
        products = (centred @ centred.T).astype(np.float64)
        products /= max(float(np.trace(products)) / len(products), 1e-12)
        products += INTERCEPT
        for shrinkage in _SHRINKAGES:
            values = held_out_similarity(inverse_of(products.copy(), shrinkage), targets, groups)
            found = loss(values)
            if best is None or found < best[0]:
                best = found, RidgeChoice(transform, shrinkage)
        step((turn + 1) / len(transforms))
    if best is None:
        raise ValueError("there is no transform to try")
    return best[1]


def fit_ridge(
    features: Features,
    labels: Floats,
    sides: int,
    folds: Ints,
    choice: RidgeChoice,
    contrast: Contrast,
    loss: Callable[[Floats, Ints], float],
) -> RidgeFit:
    """Fit on all pictures and without each fold.

    Args:
        features: [n, d].
        labels: [n, c] of 1, 0 and NaN with two sides, or targets [n, 1] where sides is 0.
        sides: See :class:`SufficientStatistics`.
        folds: [n].
        choice: Of :func:`choose_ridge`, on all pictures or a sample.
        contrast: What is fitted.
        loss: Of values [m, k] of some rows [m]; used where the choice was a sample's.
    """
    statistics = _summed(features, labels, sides, folds, choice.transform)
    total, origin, count = statistics.total(), statistics.origin, int(folds.max()) + 1
    middle = total.total / max(total.rows, 1)
    unit = max(float(np.trace(total.gram)) / max(total.rows, 1) - float(middle @ middle), 1e-12)
    shrinkage = choice.shrinkage

    def fit_without(fold: int, factor: float = 1.0) -> tuple[Doubles, Doubles]:
        moments = total - statistics.fold(fold) if fold < count else total
        return _solve(moments, contrast, factor * shrinkage * unit)

    def value(rows: Ints, fitted: tuple[Doubles, Doubles]) -> Floats:
        inputs = transformed(features[rows], choice.transform)
        inputs -= origin
        result: Floats = inputs @ fitted[0].astype(np.float32) + fitted[1].astype(np.float32)
        return result

    if len(features) > MOST_PAIRS:
        some = np.flatnonzero(folds == 0)[: 4 * _BLOCK]
        losses = in_threads(lambda factor: loss(value(some, fit_without(0, factor)), some), _LARGE_FACTORS)
        shrinkage *= _LARGE_FACTORS[int(np.argmin(losses))]
    *without, whole = in_threads(fit_without, range(count + 1))
    values = np.empty((len(features), whole[0].shape[1]), np.float32)

    def hold_out(rows: Ints) -> None:
        values[rows] = value(rows, without[folds[rows[0]]])

    in_threads(hold_out, _blocks(folds))
    return RidgeFit(choice.transform, whole[0], whole[1] - origin @ whole[0], values, shrinkage)


def _summed(features: Features, labels: Floats, sides: int, folds: Ints, transform: Transform) -> SufficientStatistics:
    origin = transformed(features[: 4 * _BLOCK], transform).mean(axis=0, dtype=np.float64).astype(np.float32)
    statistics = SufficientStatistics(origin, labels.shape[1], int(folds.max()) + 1, sides)

    def sum_up(rows: Ints) -> None:
        statistics.add(transformed(features[rows], transform), labels[rows], folds[rows])

    in_threads(sum_up, _blocks(folds))
    return statistics


def _solve(moments: Moments, contrast: Contrast, penalty: float) -> tuple[Doubles, Doubles]:
    """Weights [d, k] and bias [k] about the origin."""
    middle = moments.total / max(moments.rows, 1)
    gram = moments.gram - np.outer(moments.total, middle)
    gram[np.diag_indices_from(gram)] += penalty
    right, values = contrast(moments)
    solved = np.ascontiguousarray(right.T)
    solve_positive(gram, solved)
    weights = solved.T
    return weights, values - middle @ weights


def _blocks(folds: Ints) -> Iterator[Ints]:
    for fold in range(int(folds.max()) + 1):
        rows = np.flatnonzero(folds == fold)
        for start in range(0, len(rows), _BLOCK):
            yield rows[start : start + _BLOCK]
