"""Fitting heads for concepts that may overlap, each with its own positives, negatives and pictures that nobody judged.

A concept is told apart by the difference of the means of its positives and of its negatives, seen through one
covariance that all pictures share, judged or not. So unknown labels need no fit of their own, however they are spread:
hundreds of concepts are one matrix with many right sides. Where everything is known it is ridge regression.

A picture that nobody judged for a concept most likely does not show it. So the unknown count among the negatives, each
with a weight from nothing to a whole one: that with which the labels that are known are foretold best, held out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import Features
from lensmith_vision.ridge import MOST_PAIRS, RidgeChoice, RidgeFit, choose_ridge, fit_ridge
from lensmith_vision.statistics import Moments
from lensmith_vision.threads import in_threads

__all__ = ["fit_labels"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_CONCEPTS = 64
"""As many choose for all."""
_STEPS = 12
_CERTAINTY = 3.0
"""How many nats it costs to be off the usual factor by all of it."""
_OFFSET_CERTAINTY = 0.05
_COLUMNS = 16
_WEIGHTS = (0.0, 0.3, 1.0)
"""What a picture that nobody judged may count among the negatives of a concept."""


def fit_labels(
    features: Features,
    labels: Floats,
    groups: Ints,
    folds: Ints,
    *,
    seed: int,
    step: Callable[[float], None],
    plain: bool = False,
) -> RidgeFit:
    """Choose, fit and hold out; the numbers are logits, calibrated for each concept.

    Args:
        features: [n, d].
        labels: [n, c] with NaN unknown, 0, 1.
        groups: [n], near duplicates share a number.
        folds: [n]; a group is never in two.
        seed: Of samples.
        step: Told the part done, 0 to 1; may raise to stop.
        plain: Whether features stay as they are, so that what is fitted is linear in them.
    """
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(features))[:MOST_PAIRS])
    known = np.fmin((labels[rows] == 1).sum(axis=0), (labels[rows] == 0).sum(axis=0))
    columns = np.sort(np.argsort(-known, kind="stable")[:_MOST_CONCEPTS])
    some = labels[np.ix_(rows, columns)]
    choice, weight = _choose(features[rows], some, groups[rows], lambda part: step(0.5 * part), plain=plain)

    def contrast(moments: Moments) -> tuple[Doubles, Doubles]:
        return _contrast(moments, weight)

    fitted = fit_ridge(features, labels, 2, folds, choice, contrast, lambda values, own: _loss(values, labels[own]))
    step(0.9)
    factors, offsets = _calibrated(fitted.values, labels)
    values = fitted.values
    values *= factors.astype(np.float32)
    values += offsets.astype(np.float32)
    bias = fitted.bias * factors + offsets
    return RidgeFit(fitted.transform, fitted.weights * factors, bias, values, fitted.shrinkage)


def _choose(
    features: Features, labels: Floats, groups: Ints, step: Callable[[float], None], *, plain: bool
) -> tuple[RidgeChoice, float]:
    """Choose transform and strength, and what an unknown label counts among the negatives."""
    sides = [side.astype(np.float64) for side in (labels == 1, labels == 0, np.isnan(labels))]
    left = [_others(side, groups) for side in sides]
    weights = _WEIGHTS if sides[2].any() else _WEIGHTS[:1]
    tried: list[tuple[float, float]] = []

    def loss(values: Doubles) -> float:
        near, far, unknown = np.hsplit(values, 3)
        for weight in weights:
            others = (far + weight * unknown) / np.maximum(left[1] + weight * left[2], 1)
            tried.append((_loss((near / np.maximum(left[0], 1) - others).astype(np.float32), labels), weight))
        return min(tried[-len(weights) :])[0]

    choice = choose_ridge(features, np.hstack(sides), groups, loss, step, plain=plain)
    return choice, min(tried)[1]


def _others(side: Doubles, groups: Ints) -> Doubles:
    """For each picture and concept, how many pictures of a side are left without the picture's group."""
    own = np.zeros((int(groups.max()) + 1, side.shape[1]))
    np.add.at(own, groups, side)
    left: Doubles = side.sum(axis=0) - own[groups]
    return left


def _contrast(moments: Moments, weight: float) -> tuple[Doubles, Doubles]:
    middle = moments.total / max(moments.rows, 1)
    (positives, negatives), (shown, missing) = moments.counts, moments.sums
    if weight:
        negatives = negatives + weight * (moments.rows - positives - negatives)
        missing = missing + weight * (moments.total - shown - missing)
    near, far = (
        np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None] - middle, 0.0)
        for counts, sums in ((positives, shown), (negatives, missing))
    )
    return (near - far).T, np.zeros(len(near))


def _loss(values: Floats, labels: Floats) -> float:
    """Mean log loss of known labels, averaged over concepts, once each concept is calibrated."""
    factors, offsets = _calibrated(values, labels)
    logits = values * factors + offsets
    known = np.isfinite(labels)
    losses = np.where(known, np.logaddexp(0, np.where(labels == 1, -logits, logits)), 0)
    return float((losses.sum(axis=0) / np.maximum(known.sum(axis=0), 1)).mean())


def _calibrated(values: Floats, labels: Floats) -> tuple[Doubles, Doubles]:
    """Find for each concept the factor and the offset that make logits of values."""

    def some(start: int) -> tuple[Doubles, Doubles]:
        own = np.ascontiguousarray(values[:, start : start + _COLUMNS].T, dtype=np.float64)
        return _logistic(own, np.ascontiguousarray(labels[:, start : start + _COLUMNS].T))

    parts = in_threads(some, range(0, values.shape[1], _COLUMNS))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _logistic(values: Doubles, labels: Floats) -> tuple[Doubles, Doubles]:
    """Fit a line of log odds to values [c, n], drawn towards what two bells of one width say.

    A handful of pictures may all be on their side by chance, and then no line would be steep enough.
    """
    known = np.isfinite(labels)
    truth = np.where(known, labels, 0).astype(np.float64)
    positives, rows = truth.sum(axis=1), known.sum(axis=1)
    negatives = rows - positives
    high = (values * truth).sum(axis=1) / np.maximum(positives, 1)
    low = (values * (known - truth)).sum(axis=1) / np.maximum(negatives, 1)
    centred = values - np.where(truth > 0, high[:, None], low[:, None])
    width = (centred**2 * known).sum(axis=1) / np.maximum(rows - 2, 1)
    told = (positives > 0) & (negatives > 0) & (width > 0)
    apart = np.where(told, np.maximum(high - low, 0.1 * np.sqrt(width)), 1.0)
    usual = np.where(told, apart / np.where(told, width, 1.0), 0.0)
    odds = np.log((positives + 0.5) / (negatives + 0.5))
    middle = np.where(told, (high + low) / 2, 0.0)
    # In units of the usual factor, about the middle.
    scaled = (values - middle[:, None]) * usual[:, None]
    factor, offset = np.ones(len(values)), odds.copy()
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(scaled * factor[:, None] + offset[:, None], -60, 60)))
        slope, bend = (chance - truth) * known, chance * (1 - chance) * known
        first = (slope * scaled).sum(axis=1) + 2 * _CERTAINTY * (factor - 1)
        second = slope.sum(axis=1) + 2 * _OFFSET_CERTAINTY * (offset - odds)
        a = (bend * scaled**2).sum(axis=1) + 2 * _CERTAINTY
        b, c = (bend * scaled).sum(axis=1), bend.sum(axis=1) + 2 * _OFFSET_CERTAINTY
        det = a * c - b * b
        factor = np.clip(factor - np.clip((c * first - b * second) / det, -1, 1), 0.05, 20)
        offset = offset - np.clip((a * second - b * first) / det, -3, 3)
    return factor * usual, offset - factor * usual * middle
