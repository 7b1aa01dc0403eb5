"""What to fit to concepts that exclude each other: transform, shrinkage and tier, by pictures that were held out.

What fits without a picture (and its near copies) say about that picture follows exactly from one fit. Large sets are
chosen for by a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.calibration import Calibration, calibrate
from lensmith_vision.discriminant import held_out_logits, log_prior, unit_of_scatter
from lensmith_vision.halves import Features
from lensmith_vision.kernel import held_out_similarity, inverse_of_similarity, squared_distances, unit_of_width
from lensmith_vision.threads import in_threads
from lensmith_vision.transforms import Transform, transformed

__all__ = [
    "ALL_PAIRS",
    "CERTAINTY",
    "SAMPLE",
    "USUAL_LINEAR",
    "Choice",
    "KernelChoice",
    "chance",
    "choose",
    "mixed",
    "sample_of_classes",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TRANSFORMS: tuple[Transform, ...] = ("root", "unit")
_SHRINKAGES = (0.1, 0.3, 0.55, 1.0, 1.8, 3.0, 10.0)
_FIRST_TRIED, _FIRST_TRIED_OF_FEW = 3, 5
_FEW = 8
"""Pictures of a class that want more shrinkage."""

_WIDTHS = (0.25, 0.5, 1.0)
_PENALTIES = (0.01, 0.1, 0.3)
_LARGE_WIDTH, _LARGE_PENALTY = 0.5, 0.01
"""What large sets want, whatever a sample of them does."""

ALL_PAIRS = 1024
"""Up to so many pictures, all that is held out follows from inner products of pictures."""

SAMPLE = 512
_OF_EACH = 4
_RATIOS = (0.5, 1.0, 2.0, 4.0)
"""What similarities may count beside linear logits."""
_SMALLER_RATIOS = (0.03, 0.125, *_RATIOS)
"""And where there are so many pictures that linear logits alone may be the better ones."""

_USUAL_SHRINKAGE = 1.0
USUAL_LINEAR = 1.0
_USUAL_KERNEL = 10.0
CERTAINTY = 3.0
"""Nats that it costs a set, whatever its size, to be fitted or calibrated e times more or less than is usual."""


@dataclass(frozen=True)
class KernelChoice:
    """Chosen for the kernel tier: sharpness, ridge penalty, factors of itself and of the mixture, what it gains."""

    sharpness: float
    penalty: float
    factor: float
    mixed: float
    gain: float


@dataclass(frozen=True)
class Choice:
    """What was chosen; the factor of linear logits with it."""

    transform: Transform
    shrinkage: float
    linear: Calibration
    kernel: KernelChoice | None


def sample_of_classes(classes: Ints, seed: int) -> Ints:
    """All rows; of a large set a few pictures of each class, or of some classes where there are many."""
    if len(classes) <= ALL_PAIRS:
        return np.arange(len(classes))
    generator = np.random.default_rng(seed)
    present = np.unique(classes)
    some = generator.permutation(present)[: SAMPLE // _OF_EACH]
    order = generator.permutation(len(classes))
    order = order[np.isin(classes[order], some)]
    by_class = order[np.argsort(classes[order], kind="stable")]
    sorted_classes = classes[by_class]
    turn = np.arange(len(by_class)) - np.searchsorted(sorted_classes, sorted_classes, side="left")
    # A few of each class come first; what room is left goes to all in their shares.
    return np.sort(by_class[np.argsort(np.maximum(turn, _OF_EACH), kind="stable")[:SAMPLE]])


@dataclass(frozen=True, eq=False)
class _Tried:
    """A transform with the shrinkage that suits it best."""

    transform: Transform
    shrinkage: float
    found: Calibration
    logits: Doubles
    products: Doubles


def choose(
    features: Features,
    classes: Ints,
    groups: Ints,
    step: Callable[[float], None],
    *,
    large: bool,
    kernel: bool = True,
    plain: bool = False,
) -> Choice:
    """Choose on all pictures, or on a sample of a large set.

    Args:
        features: [n, d].
        classes: [n].
        groups: [n], near duplicates share a number.
        step: Told the part done, 0 to 1; may raise to stop.
        large: Whether the pictures are a sample.
        kernel: Whether the kernel tier comes into question.
        plain: Whether features stay as they are, so that what is fitted is linear in them.
    """
    present, classes = np.unique(classes, return_inverse=True)
    transforms: Sequence[Transform] = ("none",) if plain else _TRANSFORMS
    prior = log_prior(np.bincount(classes, minlength=len(present)).astype(np.float64))
    tried = in_threads(lambda transform: _tried(features, classes, groups, prior, transform), transforms)
    best = min(tried, key=lambda one: one.found.loss)
    step(0.4)
    chosen = None
    if kernel:
        linear = best.logits * best.found.factor + prior
        chosen = _choose_kernel(best.products, classes, groups, linear, large=large)
    return Choice(best.transform, best.shrinkage, best.found, chosen)


def _tried(features: Features, classes: Ints, groups: Ints, prior: Doubles, transform: Transform) -> _Tried:
    """Go downhill from the middle: the loss has one valley between too little shrinkage and too much.

    A handful of pictures may all be right by chance, and then the least shrinkage would be the best one, and sure of
    whatever it says: the usual one is left only as far as pictures bear it out.
    """
    products = _products(transformed(features, transform))
    unit = _unit(products, classes, len(prior))
    known: dict[int, _Tried] = {}

    def at(place: int) -> float:
        if not 0 <= place < len(_SHRINKAGES):
            return np.inf
        if place not in known:
            logits = held_out_logits(products, classes, len(prior), groups, _SHRINKAGES[place] * unit)
            found = calibrate(logits, classes, USUAL_LINEAR, CERTAINTY, prior)
            known[place] = _Tried(transform, _SHRINKAGES[place], found, logits, products)
        unusual = math.log(_SHRINKAGES[place] / _USUAL_SHRINKAGE)
        return known[place].found.loss + CERTAINTY * unusual**2 / len(classes)

    # Down there it ends wherever it begins, but sooner.
    place = _FIRST_TRIED if len(classes) > _FEW * len(prior) else _FIRST_TRIED_OF_FEW
    way = -1 if at(place - 1) < at(place) else 1
    while at(place + way) < at(place):
        place += way
    return known[place]


def _choose_kernel(products: Doubles, classes: Ints, groups: Ints, linear: Doubles, *, large: bool) -> KernelChoice:
    distances = squared_distances(products)
    unit = unit_of_width(distances, float(np.median(distances[np.triu_indices(len(distances), 1)])))
    targets = np.eye(linear.shape[1])[classes]
    right = chance(linear, classes)
    best: tuple[float, KernelChoice] | None = None
    for wide in (_LARGE_WIDTH,) if large else _WIDTHS:
        similarity = np.exp(-distances / (wide * unit))
        for penalty in (_LARGE_PENALTY,) if large else _PENALTIES:
            values = held_out_similarity(inverse_of_similarity(similarity, penalty), targets, groups)
            own = calibrate(values, classes, _USUAL_KERNEL, CERTAINTY)
            if best is None or own.loss < best[0]:
                factor, both = mixed(linear, values, own.factor, classes)
                gain = chance(both * (linear + values * factor), classes) - right
                best = own.loss, KernelChoice(1 / (wide * unit), penalty, factor, both, gain)
    if best is None:
        raise ValueError("there is no width to try")
    return best[1]


def mixed(
    linear: npt.NDArray[np.floating], values: npt.NDArray[np.floating], own: float, classes: Ints, *, many: bool = False
) -> tuple[float, float]:
    """Find how much similarities count beside calibrated linear logits, and the factor of both together.

    Both know already how common each class is.
    """
    found = [
        (ratio * own, calibrate(linear + values * (ratio * own), classes, 1 / (1 + ratio), CERTAINTY))
        for ratio in (_SMALLER_RATIOS if many else _RATIOS)
    ]
    factor, together = min(found, key=lambda pair: pair[1].loss)
    return factor, together.factor


def _products(features: Floats) -> Doubles:
    centred = features - features.mean(axis=0, dtype=np.float64).astype(np.float32)
    products: Doubles = (centred @ centred.T).astype(np.float64)
    return products


def _unit(products: Doubles, classes: Ints, width: int) -> float:
    """The within-class variance, as :func:`within_variance` has it, from inner products."""
    counts = np.bincount(classes, minlength=width)
    same = classes[:, None] == classes
    between = float((products * same / counts[classes]).sum())
    return unit_of_scatter(float(np.trace(products)), between, len(classes))


def chance(logits: npt.NDArray[np.floating], classes: Ints) -> float:
    """Mean probability of the true class: the accuracy to expect, less noisy than counting on few pictures."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(classes)), classes]
    return float(np.exp(true - np.log(np.exp(shifted).sum(axis=1))).mean())
