"""Fitting heads that measure a number: ridge regression, its strength by exact leave-one-out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import Features
from lensmith_vision.ridge import MOST_PAIRS, RidgeFit, choose_ridge, fit_ridge
from lensmith_vision.statistics import Moments

__all__ = ["fit_numbers"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def fit_numbers(
    features: Features,
    targets: Floats,
    groups: Ints,
    folds: Ints,
    *,
    seed: int,
    step: Callable[[float], None],
    plain: bool = False,
) -> RidgeFit:
    """Choose, fit and hold out.

    Args:
        features: [n, d].
        targets: [n].
        groups: [n], near duplicates share a number.
        folds: [n]; a group is never in two.
        seed: Of samples.
        step: Told the part done, 0 to 1; may raise to stop.
        plain: Whether features stay as they are, so that what is fitted is linear in them.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_PAIRS])
    wanted = targets[rows, None].astype(np.float64)
    wanted -= wanted.mean()

    def loss(values: Doubles) -> float:
        return float(((values - wanted) ** 2).mean())

    def loss_of_rows(values: Floats, own: Ints) -> float:
        return float(((values[:, 0] - targets[own]) ** 2).mean())

    choice = choose_ridge(features[rows], wanted, groups[rows], loss, lambda part: step(0.6 * part), plain=plain)
    return fit_ridge(features, targets[:, None], 0, folds, choice, _contrast, loss_of_rows)


def _contrast(moments: Moments) -> tuple[Doubles, Doubles]:
    mean = moments.counts[0] / max(moments.rows, 1)
    return (moments.sums[0] - mean[:, None] * moments.total).T, mean
