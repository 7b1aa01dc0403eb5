"""Fitting heads for concepts that exclude each other: what to choose, and what the choice says about held-out pictures.

Shrinkage, transform and tier are chosen by what fits without a picture (and its near copies) say about that picture,
which follows exactly from one fit. Large sets are chosen for by a sample; their own scores come from folds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensmith_vision.calibration import Calibration, calibrate
from lensmith_vision.discriminant import (
    Discriminant,
    held_out_logits,
    log_prior,
    solve,
    solve_ridge,
    within_variance,
)
from lensmith_vision.kernel import (
    KernelPart,
    Similarities,
    held_out_similarity,
    inverse_of_similarity,
    most_landmarks,
    squared_distances,
)
from lensmith_vision.refit import ClassSums
from lensmith_vision.statistics import Moments, SufficientStatistics
from lensmith_vision.threads import give_memory_back, in_threads
from lensmith_vision.transforms import Transform, transformed

__all__ = ["ClassFit", "Tier", "fit_classes"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Tier = Literal["auto", "linear", "kernel"]

_TRANSFORMS: tuple[Transform, ...] = ("root", "unit")
_SHRINKAGES = (0.1, 0.3, 0.55, 1.0, 1.8, 3.0, 10.0)
_LARGE_SHRINKAGES = (0.3, 1.0, 3.0)
_WIDTHS = (0.25, 0.5, 1.0)
_PENALTIES = (0.01, 0.1, 0.3)
_LARGE_WIDTH, _LARGE_PENALTY = 0.5, 0.01
"""What large sets want, whatever a sample of them does."""
_ALL_PAIRS = 1024
"""Up to so many pictures, all that is held out follows from inner products of pictures."""
_SAMPLE = 512
_OF_EACH = 4
_BLOCK = 1024
_MOST_TO_CALIBRATE, _LOGITS_TO_CALIBRATE = 4096, 500_000
_GAIN = 0.01
"""Chance to be right that the kernel tier must win out of fold to be worth its cost."""

_LARGE_GAIN = 0.03
"""What a sample of a large set must win before similarities to thousands of pictures are tried on all of it."""

_RATIOS = (0.5, 1.0, 2.0, 4.0)
"""What similarities may count beside linear logits."""
_USUAL_LINEAR, _USUAL_KERNEL = 1.0, 10.0
_CERTAINTY = 3.0


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


@dataclass(frozen=True)
class _Kernel:
    """Chosen for the kernel tier: sharpness, ridge penalty, factors of itself and of the mixture, what it gains."""

    sharpness: float
    penalty: float
    factor: float
    mixed: float
    gain: float


@dataclass(frozen=True)
class _Choice:
    transform: Transform
    shrinkage: float
    linear: Calibration
    kernel: _Kernel


def fit_classes(
    features: Floats,
    classes: Ints,
    width: int,
    groups: Ints,
    folds: Ints,
    *,
    tier: Tier,
    seed: int,
    step: Callable[[float], None],
) -> ClassFit:
    """Choose, fit and hold out.

    Args:
        features: [n, d].
        classes: [n], 0 to width - 1.
        width: Number of classes.
        groups: [n], near duplicates share a number.
        folds: [n]; a group is never in two.
        tier: Which head to make; ``auto``: the kernel tier where it earns its place.
        seed: Of samples.
        step: Told the part done, 0 to 1; may raise to stop.
    """
    sample = _sample(classes, seed)
    choice = _choose(features[sample], classes[sample], groups[sample], step, large=len(sample) < len(classes))
    step(0.5)
    prior = log_prior(np.bincount(classes, minlength=width).astype(np.float64))
    linear = _fit_linear(features, classes, width, folds, choice, prior)
    step(0.8)
    # What hardly gains on a sample may gain on all pictures, and costs little to try while they are few.
    hope = _GAIN
    if len(sample) < len(classes):
        hope = 0.0 if len(classes) <= most_landmarks(features.shape[1], width) else _LARGE_GAIN
    if tier == "linear" or (tier == "auto" and choice.kernel.gain < hope):
        return linear
    right = _chance(linear.logits, classes)
    if tier == "auto" and right + _GAIN > 1:
        return linear
    mixed = _fit_mixture(features, classes, folds, choice, linear, seed)
    return linear if tier == "auto" and _chance(mixed.logits, classes) < right + _GAIN else mixed


def _sample(classes: Ints, seed: int) -> Ints:
    """All rows; of a large set a few pictures of each class, or of some classes where there are many."""
    if len(classes) <= _ALL_PAIRS:
        return np.arange(len(classes))
    generator = np.random.default_rng(seed)
    present = np.unique(classes)
    some = generator.permutation(present)[: _SAMPLE // _OF_EACH]
    order = generator.permutation(len(classes))
    order = order[np.isin(classes[order], some)]
    by_class = order[np.argsort(classes[order], kind="stable")]
    sorted_classes = classes[by_class]
    turn = np.arange(len(by_class)) - np.searchsorted(sorted_classes, sorted_classes, side="left")
    # A few of each class come first; what room is left goes to all in their shares.
    return np.sort(by_class[np.argsort(np.maximum(turn, _OF_EACH), kind="stable")[:_SAMPLE]])


def _choose(features: Floats, classes: Ints, groups: Ints, step: Callable[[float], None], *, large: bool) -> _Choice:
    best: tuple[Transform, float, Calibration, Doubles, Doubles] | None = None
    present, classes = np.unique(classes, return_inverse=True)
    width = len(present)
    prior = log_prior(np.bincount(classes, minlength=width).astype(np.float64))
    for turn, transform in enumerate(_TRANSFORMS):
        products = _products(transformed(features, transform))
        unit = _unit(products, classes, width)
        for shrinkage in _SHRINKAGES:
            logits = held_out_logits(products, classes, width, groups, shrinkage * unit)
            found = calibrate(logits, classes, _USUAL_LINEAR, _CERTAINTY, prior)
            if best is None or found.loss < best[2].loss:
                best = transform, shrinkage, found, logits, products
        step(0.2 * (turn + 1))
    if best is None:
        raise ValueError("there is no transform to try")
    transform, shrinkage, linear, logits, products = best
    kernel = _choose_kernel(products, classes, groups, logits * linear.factor + prior, large=large)
    return _Choice(transform, shrinkage, linear, kernel)


def _choose_kernel(products: Doubles, classes: Ints, groups: Ints, linear: Doubles, *, large: bool) -> _Kernel:
    distances = squared_distances(products)
    median = float(np.median(distances[np.triu_indices(len(distances), 1)])) or 1.0
    targets = np.eye(linear.shape[1])[classes]
    right = _chance(linear, classes)
    best: tuple[float, _Kernel] | None = None
    for wide in (_LARGE_WIDTH,) if large else _WIDTHS:
        similarity = np.exp(-distances / (wide * median))
        for penalty in (_LARGE_PENALTY,) if large else _PENALTIES:
            values = held_out_similarity(inverse_of_similarity(similarity, penalty), targets, groups)
            own = calibrate(values, classes, _USUAL_KERNEL, _CERTAINTY)
            if best is None or own.loss < best[0]:
                factor, mixed = _mixed(linear, values, own.factor, classes)
                gain = _chance(mixed * (linear + values * factor), classes) - right
                best = own.loss, _Kernel(1 / (wide * median), penalty, factor, mixed, gain)
    if best is None:
        raise ValueError("there is no width to try")
    return best[1]


def _mixed(
    linear: npt.NDArray[np.floating], values: npt.NDArray[np.floating], own: float, classes: Ints
) -> tuple[float, float]:
    """Find how much similarities count beside calibrated linear logits, and the factor of both together.

    Both know already how common each class is.
    """
    found = [
        (ratio * own, calibrate(linear + values * (ratio * own), classes, 1 / (1 + ratio), _CERTAINTY))
        for ratio in _RATIOS
    ]
    factor, mixed = min(found, key=lambda pair: pair[1].loss)
    return factor, mixed.factor


def _fit_linear(features: Floats, classes: Ints, width: int, folds: Ints, choice: _Choice, prior: Doubles) -> ClassFit:
    # The sums of all folds are gone before there are logits of all concepts: both are large.
    shrinkage, origin, total, (*without, fitted) = _discriminants(features, classes, width, folds, choice, prior)
    give_memory_back()
    logits = np.empty((len(features), width), np.float32)

    def hold_out(rows: Ints) -> None:
        inputs = transformed(features[rows], choice.transform)
        inputs -= origin
        own = without[folds[rows[0]]]
        logits[rows] = inputs @ own.weights.astype(np.float32) + own.bias.astype(np.float32)

    in_threads(hold_out, _blocks_of_folds(folds))
    factor = choice.linear.factor
    if len(features) > _ALL_PAIRS:
        some = _some(len(features), width)
        factor = calibrate(logits[some], classes[some], factor, _CERTAINTY, prior).factor
    logits *= np.float32(factor)
    logits += prior.astype(np.float32)
    weights = factor * fitted.weights
    bias = factor * fitted.bias + prior - origin @ weights
    return ClassFit(
        choice.transform,
        weights.astype(np.float32),
        bias.astype(np.float32),
        None,
        logits,
        shrinkage,
        ClassSums(choice.transform, origin, total, without, shrinkage, factor),
    )


def _discriminants(
    features: Floats, classes: Ints, width: int, folds: Ints, choice: _Choice, prior: Doubles
) -> tuple[float, Floats, Moments, list[Discriminant]]:
    """Fit without each fold, and at last on all: the shrinkage that was taken, origin and moments, and the fits."""
    statistics = statistics_of(features, classes, width, folds, choice.transform)
    total, count = statistics.total(), int(folds.max()) + 1
    chosen = choice.shrinkage
    if len(features) > _ALL_PAIRS:
        chosen = _refined(features, classes, folds, choice.transform, statistics, prior)
    shrinkage = chosen * within_variance(total)

    def fit_without(fold: int) -> Discriminant:
        return solve(total - statistics.fold(fold) if fold < count else total, shrinkage)

    return chosen, statistics.origin, total, in_threads(fit_without, range(count + 1))


def _refined(
    features: Floats, classes: Ints, folds: Ints, transform: Transform, statistics: SufficientStatistics, prior: Doubles
) -> float:
    """Choose the shrinkage of a large set, of which a sample would want more, on pictures of its first fold."""
    rows = np.flatnonzero(folds == 0)
    rows = rows[_some(len(rows), len(prior))]
    inputs = transformed(features[rows], transform) - statistics.origin
    rest = statistics.total() - statistics.fold(0)
    unit = within_variance(rest)

    def loss(shrinkage: float) -> float:
        fitted = solve(rest, shrinkage * unit)
        logits = inputs @ fitted.weights.astype(np.float32) + fitted.bias.astype(np.float32)
        return calibrate(logits, classes[rows], _USUAL_LINEAR, _CERTAINTY, prior).loss

    losses = in_threads(loss, _LARGE_SHRINKAGES)
    return _LARGE_SHRINKAGES[int(np.argmin(losses))]


def statistics_of(
    features: Floats, classes: Ints, width: int, folds: Ints, transform: Transform
) -> SufficientStatistics:
    """Sum up a training set of classes, block by block so that no second copy of the features is made."""
    origin = transformed(features[:_BLOCK], transform).mean(axis=0, dtype=np.float64).astype(np.float32)
    statistics = SufficientStatistics(origin, width, int(folds.max()) + 1, sides=1)

    def sum_up(rows: Ints) -> None:
        labels = np.zeros((len(rows), width), np.float32)
        labels[np.arange(len(rows)), classes[rows]] = 1
        statistics.add(transformed(features[rows], transform), labels, folds[rows])

    in_threads(sum_up, _blocks_of_folds(folds))
    return statistics


def _fit_mixture(
    features: Floats, classes: Ints, folds: Ints, choice: _Choice, linear: ClassFit, seed: int
) -> ClassFit:
    """Add similarities to a linear fit."""
    chosen, width = choice.kernel, linear.logits.shape[1]
    most = most_landmarks(features.shape[1], width)
    rows = np.arange(len(features))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    similarities = Similarities.to(transformed(features[rows], choice.transform), chosen.sharpness)
    if len(rows) == len(features):
        weights, held_out = similarities.fit(np.eye(width)[classes], folds, chosen.penalty)
        values = held_out.astype(np.float32)
    else:
        weights, values = _fit_landmarks(similarities, features, classes, width, folds, choice)
    logits = linear.logits.copy()
    factor, mixed = chosen.factor, chosen.mixed
    if len(features) > _ALL_PAIRS:
        # All pictures are surer than a sample.
        some = _some(len(features), width)
        own = calibrate(values[some], classes[some], factor, _CERTAINTY).factor
        factor, mixed = _mixed(logits[some], values[some], own, classes[some])
    logits += values * np.float32(factor)
    logits *= np.float32(mixed)
    weights *= factor * mixed
    kernel, constant = similarities.part(weights)
    bias = mixed * linear.bias + constant
    return ClassFit(
        choice.transform,
        (mixed * linear.weights).astype(np.float32),
        bias.astype(np.float32),
        kernel,
        logits,
        linear.shrinkage,
    )


def _fit_landmarks(
    similarities: Similarities, features: Floats, classes: Ints, width: int, folds: Ints, choice: _Choice
) -> tuple[Doubles, Floats]:
    """Nyström: ridge on the similarities to some pictures, with folds held out."""
    statistics = SufficientStatistics(np.zeros(similarities.rank, np.float32), width, int(folds.max()) + 1, sides=1)

    def sum_up(rows: Ints) -> None:
        coordinates = similarities.coordinates(transformed(features[rows], choice.transform))
        statistics.add(coordinates, np.eye(width, dtype=np.float32)[classes[rows]], folds[rows])

    in_threads(sum_up, _blocks_of_folds(folds))
    total, count = statistics.total(), int(folds.max()) + 1

    def fit_without(fold: int) -> Doubles:
        return solve_ridge(total - statistics.fold(fold) if fold < count else total, choice.kernel.penalty)

    *without, weights = in_threads(fit_without, range(count + 1))
    values = np.empty((len(features), width), np.float32)

    def hold_out(rows: Ints) -> None:
        coordinates = similarities.coordinates(transformed(features[rows], choice.transform))
        values[rows] = coordinates @ without[folds[rows[0]]].astype(np.float32)

    in_threads(hold_out, _blocks_of_folds(folds))
    return similarities.of_landmarks(weights), values


def _blocks_of_folds(folds: Ints) -> Iterator[Ints]:
    """Rows in blocks of one fold each: small enough to work on several at once and to need no second copy of all."""
    for fold in range(int(folds.max()) + 1):
        rows = np.flatnonzero(folds == fold)
        for start in range(0, len(rows), _BLOCK):
            yield rows[start : start + _BLOCK]


def _some(rows: int, width: int) -> Ints:
    """Rows that are enough to find one number by."""
    most = min(_MOST_TO_CALIBRATE, max(_SAMPLE, _LOGITS_TO_CALIBRATE // width))
    return np.random.default_rng(0).permutation(rows)[:most]


def _products(features: Floats) -> Doubles:
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    products: Doubles = (centred @ centred.T).astype(np.float64)
    return products


def _unit(products: Doubles, classes: Ints, width: int) -> float:
    """The within-class variance, as :func:`within_variance` has it, from inner products."""
    counts = np.bincount(classes, minlength=width)
    same = classes[:, None] == classes
    between = float((products * same / counts[classes]).sum())
    return max(float(np.trace(products)) - between, 0.0) / len(classes)


def _chance(logits: npt.NDArray[np.floating], classes: Ints) -> float:
    """Mean probability of the true class: the accuracy to expect, less noisy than counting on few pictures."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(classes)), classes]
    return float(np.exp(true - np.log(np.exp(shifted).sum(axis=1))).mean())
