"""Fitting heads that measure a number: ridge regression, its strength by exact leave-one-out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.special

from lensmith_vision.halves import Features
from lensmith_vision.heads import INTERVAL_COVERAGE
from lensmith_vision.positive import inverse_of
from lensmith_vision.ridge import INTERCEPT, MOST_PAIRS, RidgeChoice, RidgeFit, choose_ridge, fit_ridge
from lensmith_vision.statistics import Moments
from lensmith_vision.threads import in_threads
from lensmith_vision.transforms import transformed

__all__ = ["fit_numbers", "interval_of_errors"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FEW = 128
"""Up to so many pictures, what is held out has no say in what is chosen."""


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
    middle = float(targets.mean(dtype=np.float64))
    # About their mean: of large numbers, sums would lose the digits in which they differ.
    centred = (targets - np.float64(middle)).astype(np.float32)
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:MOST_PAIRS])

    def loss_of_rows(values: Floats, own: Ints) -> float:
        return float(((values[:, 0] - centred[own]) ** 2).mean())

    choice = _choose(features[rows], centred[rows], groups[rows], lambda part: step(0.6 * part), plain=plain)
    fitted = fit_ridge(features, centred[:, None], 0, folds, choice, _contrast, loss_of_rows)
    values = fitted.values
    if len(features) <= _FEW:
        values = _held_out_of_few(features, centred, groups, folds, plain=plain)
    return replace(fitted, bias=fitted.bias + middle, values=(values + np.float64(middle)).astype(np.float32))


def interval_of_errors(errors: Floats) -> float:
    """What nine of ten errors of new pictures stay within."""
    count = len(errors)
    # Conformal: with one more picture, the rank that nine of ten stay within (Vovk et al. 2005).
    rank = math.ceil((count + 1) * INTERVAL_COVERAGE)
    if rank <= count:
        return float(np.sort(errors)[rank - 1])
    # Of so few not even the largest is enough: as if errors followed a bell, whose width is not known either.
    spread = math.sqrt(float((errors.astype(np.float64) ** 2).mean()))
    return spread * float(scipy.special.stdtrit(count - 1, (1 + INTERVAL_COVERAGE) / 2))


def _choose(
    features: Features, targets: Floats, groups: Ints, step: Callable[[float], None], *, plain: bool
) -> RidgeChoice:
    wanted = targets[:, None].astype(np.float64)
    wanted -= wanted.mean()

    def loss(values: Doubles) -> float:
        return float(((values - wanted) ** 2).mean())

    return choose_ridge(features, wanted, groups, loss, step, plain=plain)


def _held_out_of_few(features: Features, targets: Floats, groups: Ints, folds: Ints, *, plain: bool) -> Floats:
    """Say of each picture what a fit without its fold says, which was chosen without it too; [n, 1].

    Of so few, what is chosen suits those by which it is chosen so well that errors seem a seventh smaller.
    """
    values = np.empty((len(targets), 1), np.float32)

    def hold_out(fold: int) -> None:
        own, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        choice = _choose(features[rest], targets[rest], groups[rest], lambda _: None, plain=plain)
        inputs = transformed(features, choice.transform)
        inputs = inputs - inputs[rest].mean(axis=0, dtype=np.float64).astype(np.float32)
        products = (inputs @ inputs[rest].T).astype(np.float64)
        products /= max(float(np.trace(products[rest])) / len(rest), 1e-12)
        products += INTERCEPT
        middle = targets[rest].mean(dtype=np.float64)
        weights = inverse_of(products[rest], choice.shrinkage) @ (targets[rest] - middle)
        values[own, 0] = middle + products[own] @ weights

    in_threads(hold_out, range(int(folds.max()) + 1))
    return values


def _contrast(moments: Moments) -> tuple[Doubles, Doubles]:
    mean = moments.counts[0] / max(moments.rows, 1)
    return (moments.sums[0] - mean[:, None] * moments.total).T, mean
