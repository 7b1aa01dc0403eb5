"""Fitting heads for concepts that exclude each other, in the tier that earns its place."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensmith_vision.calibration import calibrate
from lensmith_vision.class_choice import ALL_PAIRS, CERTAINTY, KernelChoice, chance, choose, mixed, sample_of_classes
from lensmith_vision.discriminant import log_prior, solve_ridge
from lensmith_vision.folds import blocks_of_folds
from lensmith_vision.halves import Features
from lensmith_vision.kernel import Similarities, most_landmarks
from lensmith_vision.linear_fit import ClassFit, fit_linear, some_rows
from lensmith_vision.statistics import SufficientStatistics
from lensmith_vision.threads import give_memory_back, in_threads
from lensmith_vision.transforms import Transform, transformed

__all__ = ["ClassFit", "Tier", "fit_classes"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Tier = Literal["auto", "linear", "kernel"]

_GAIN = 0.01
"""Chance to be right that the kernel tier must win out of fold to be worth its cost."""

_LARGE_GAIN = 0.03
"""What a sample of a large set must win before similarities to thousands of pictures are tried on all of it."""


def fit_classes(
    features: Features,
    classes: Ints,
    width: int,
    groups: Ints,
    folds: Ints,
    *,
    tier: Tier,
    seed: int,
    step: Callable[[float], None],
    plain: bool = False,
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
        plain: Whether features stay as they are, so that what is fitted is linear in them.
    """
    sample = sample_of_classes(classes, seed)
    large = len(sample) < len(classes)
    kernel = tier != "linear"
    choice = choose(features[sample], classes[sample], groups[sample], step, large=large, kernel=kernel, plain=plain)
    give_memory_back(features.nbytes)
    step(0.5)
    prior = log_prior(np.bincount(classes, minlength=width).astype(np.float64))
    few = len(classes) <= most_landmarks(features.shape[1], width)
    hopeful = choice.kernel if tier == "kernel" else _hopeful(choice.kernel, large=large, few=few)
    fit_similar = partial(_fit_similar, features, classes, width, folds, choice.transform, seed=seed)
    with ThreadPoolExecutor(1) as executor:
        # Beside the linear fit while that is cheap, even where there will be nothing left to win.
        beside = executor.submit(fit_similar, hopeful) if hopeful and few else None
        linear = fit_linear(features, classes, width, folds, choice, prior)
        step(0.8)
        if hopeful is None:
            return linear
        right = chance(linear.logits, classes)
        if tier == "auto" and right + _GAIN > 1:
            return linear
        similar = fit_similar(hopeful) if beside is None else beside.result()
    mixture = _mixture(linear, similar, hopeful, classes)
    return linear if tier == "auto" and chance(mixture.logits, classes) < right + _GAIN else mixture


def _hopeful(chosen: KernelChoice | None, *, large: bool, few: bool) -> KernelChoice | None:
    """The kernel tier where it may earn its place, by what it gained where it was chosen."""
    # What hardly gains on a sample may gain on all pictures, and costs little to try while they are few.
    hope = _GAIN if not large else 0.0 if few else _LARGE_GAIN
    return chosen if chosen is not None and chosen.gain >= hope else None


@dataclass(frozen=True, eq=False)
class _Similar:
    """Similarities to pictures, their weights [m, c], and values [n, c] without each picture's fold."""

    similarities: Similarities
    weights: Doubles
    values: Floats


def _fit_similar(
    features: Features,
    classes: Ints,
    width: int,
    folds: Ints,
    transform: Transform,
    chosen: KernelChoice,
    seed: int,
) -> _Similar:
    most = most_landmarks(features.shape[1], width)
    every = len(features) <= most
    # Fold by fold, where all pictures are landmarks.
    rows = np.argsort(folds, kind="stable")
    if not every:
        rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
    similarities = Similarities.to(transformed(features[rows], transform), chosen.sharpness)
    if not every:
        return _Similar(
            similarities,
            *_fit_landmarks(similarities, features, classes, width, folds, transform, chosen.penalty),
        )
    weights, held_out = similarities.fit(np.eye(width)[classes[rows]], folds[rows], chosen.penalty)
    values = np.empty(held_out.shape, np.float32)
    values[rows] = held_out
    return _Similar(similarities, weights, values)


def _mixture(linear: ClassFit, similar: _Similar, chosen: KernelChoice, classes: Ints) -> ClassFit:
    """Add similarities to a linear fit."""
    logits, values = linear.logits.copy(), similar.values
    factor, both = chosen.factor, chosen.mixed
    if len(classes) > ALL_PAIRS:
        # All pictures are surer than a sample.
        some = some_rows(len(classes), logits.shape[1])
        own = calibrate(values[some], classes[some], factor, CERTAINTY).factor
        factor, both = mixed(logits[some], values[some], own, classes[some], many=True)
    logits += values * np.float32(factor)
    logits *= np.float32(both)
    kernel, constant = similar.similarities.part(similar.weights * (factor * both))
    bias = both * linear.bias + constant
    return ClassFit(
        linear.transform,
        (both * linear.weights).astype(np.float32),
        bias.astype(np.float32),
        kernel,
        logits,
        linear.shrinkage,
    )


def _fit_landmarks(
    similarities: Similarities,
    features: Features,
    classes: Ints,
    width: int,
    folds: Ints,
    transform: Transform,
    penalty: float,
) -> tuple[Doubles, Floats]:
    """Nyström: ridge on the similarities to some pictures, with folds held out."""
    statistics = SufficientStatistics(np.zeros(similarities.rank, np.float32), width, int(folds.max()) + 1, sides=1)

    def sum_up(rows: Ints) -> None:
        coordinates = similarities.coordinates(transformed(features[rows], transform))
        statistics.add(coordinates, np.eye(width, dtype=np.float32)[classes[rows]], folds[rows])

    in_threads(sum_up, blocks_of_folds(folds))
    total, count = statistics.total(), int(folds.max()) + 1

    def fit_without(fold: int) -> Doubles:
        return solve_ridge(total - statistics.fold(fold) if fold < count else total, penalty)

    *without, weights = in_threads(fit_without, range(count + 1))
    values = np.empty((len(features), width), np.float32)

    def hold_out(rows: Ints) -> None:
        coordinates = similarities.coordinates(transformed(features[rows], transform))
        values[rows] = coordinates @ without[folds[rows[0]]].astype(np.float32)

    in_threads(hold_out, blocks_of_folds(folds))
    return similarities.of_landmarks(weights), values
