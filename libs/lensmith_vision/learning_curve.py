"""What more pictures would bring: fits on parts of those there are, and what they show continued by a power law.

Errors of learners fall as a power of the number of examples, down to a floor that no number removes (Hestness et al.
2017). A few points do not tell how high that floor is, so every floor that fits them is tried, and what is expected is
a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import TrainingError
from lensmith_vision.heads import Head
from lensmith_vision.held_out_groups import deal_folds, group_copies
from lensmith_vision.metrics import mean_defined
from lensmith_vision.training import fit
from lensmith_vision.training_set import TrainingSet, TrainOptions, take_part

__all__ = ["ConceptCurve", "CurvePoint", "LearningCurve", "learning_curve"]

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

_DRAWS = 3
_FOLDS = 5
_EIGHTHS = (1, 2, 4, 8)
_AHEAD = (2, 4)
_FEWEST_ROWS, _MOST_ROWS, _MOST_CELLS = 8000, 40_000, 40_000_000
_OF_EACH = 16
_FLOORS = 20
_FEWEST_POINTS = 3
_FASTEST_FALL = 1.0
"""No figure of a learner falls faster than with the number of examples itself, for long."""


@dataclass(frozen=True)
class CurvePoint:
    """A figure with so many images; the range is from the lowest to the highest draw, or of what is plausible."""

    images: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ConceptCurve:
    """F1 of one concept."""

    concept: str
    points: tuple[CurvePoint, ...]
    expected: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class LearningCurve:
    """What was measured, and what is expected with two and four times as many images.

    Attributes:
        figure: ``accuracy``, ``macro_f1`` or ``mean_absolute_error``.
        points: Measured on pictures that were not learnt from.
        expected: Continued.
        concepts: Those that gain most from more images first; none for regression.
    """

    figure: str
    points: tuple[CurvePoint, ...]
    expected: tuple[CurvePoint, ...]
    concepts: tuple[ConceptCurve, ...]


@dataclass(frozen=True, eq=False)
class _Trial:
    """One fit: images learnt from, in all and of each concept, and the figures on the held-out pictures."""

    images: int
    positives: Doubles
    value: float
    f1: Doubles


def learning_curve(
    data: TrainingSet, options: TrainOptions, cancelled: Callable[[], bool] | None = None
) -> LearningCurve:
    """Compute a learning curve from at most twelve fits of at most 40,000 pictures, fewer of very many concepts.

    Args:
        data: The labelled features.
        options: How versions are trained; heads are linear here, whatever it says.
        cancelled: Asked between steps; True ends it.

    Raises:
        TrainingError: ``TOO_FEW_IMAGES_FOR_A_CURVE``, or ``TRAINING_CANCELLED``.
    """
    linear = replace(options, tier="linear")
    whole, _ = take_part(data, linear)
    taken = _bounded(whole, options.seed)
    by_size: dict[int, list[_Trial]] = {}
    if len(taken.ids):
        folds = deal_folds(taken, group_copies(taken), replace(linear, folds=_FOLDS))
        for draw in range(min(_DRAWS, int(folds.max()) + 1)):
            for eighths, trial in _trials(taken, folds == draw, replace(linear, seed=options.seed + draw), cancelled):
                # Where nothing that was held out shows any concept, there is no F1.
                if math.isfinite(trial.value):
                    by_size.setdefault(eighths, []).append(trial)
    sizes = [trials for _, trials in sorted(by_size.items()) if len(trials) > 1]
    if len(sizes) < 2:
        raise TrainingError(
            "TOO_FEW_IMAGES_FOR_A_CURVE", "there are too few images to learn from parts of them: add some first"
        )
    figure = {"multi_class": "accuracy", "multi_label": "macro_f1"}.get(options.type, "mean_absolute_error")
    points = tuple(_point([trial.images for trial in trials], [trial.value for trial in trials]) for trials in sizes)
    concepts = (
        []
        if options.type == "regression"
        else [
            _concept(name, column, count, sizes)
            for column, (name, count) in enumerate(zip(whole.concepts, _positives(whole).tolist(), strict=True))
        ]
    )
    concepts.sort(key=lambda one: one.points[-1].value - one.expected[0].value if one.expected else 0.0)
    ahead = [factor * len(whole.ids) for factor in _AHEAD]
    expected = _continued(points, ahead, share=figure != "mean_absolute_error")
    return LearningCurve(figure, points, expected, tuple(concepts))


def _bounded(data: TrainingSet, seed: int) -> TrainingSet:
    """Take as many pictures as twelve fits may cost; rare concepts keep theirs, or parts could not be learnt from."""
    width = len(data.concepts)
    most = max(_FEWEST_ROWS, min(_MOST_ROWS, _MOST_CELLS // max(1, width)))
    if len(data.ids) <= most:
        return data
    order = np.random.default_rng(seed).permutation(len(data.ids))
    if data.classes is not None:
        order = order[np.argsort(np.minimum(_turns(data.classes, seed)[order], _OF_EACH), kind="stable")]
    chosen = np.zeros(len(data.ids), np.bool_)
    chosen[order[:most]] = True
    return data.rows(chosen)


def _turns(classes: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Count off the pictures of each class in random order, [n]."""
    order = np.random.default_rng(seed).permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    turns = np.empty(len(classes), np.int64)
    turns[order] = np.arange(len(order)) - np.searchsorted(classes[order], classes[order])
    return turns


def _eighths(data: TrainingSet, options: TrainOptions) -> npt.NDArray[np.int64]:
    """Deal pictures to eighths [n], each with its share of every class; near copies may part, they all are learnt from.

    Raises:
        TrainingError: There are too few of them.
    """
    if data.classes is not None:
        return _turns(data.classes, options.seed) % max(_EIGHTHS)
    return deal_folds(data, group_copies(data), replace(options, folds=max(_EIGHTHS)))


def _trials(
    data: TrainingSet, held_out: npt.NDArray[np.bool_], options: TrainOptions, cancelled: Callable[[], bool] | None
) -> list[tuple[int, _Trial]]:
    """Fit growing parts of the pictures that are not held out; parts too small to learn from are passed over."""
    rest, tests = data.rows(~held_out), data.rows(held_out)
    try:
        parts = _eighths(rest, options)
    except TrainingError:
        return []
    done = []
    for eighths in _EIGHTHS:
        part = rest.rows(parts < eighths)
        try:
            fitted = fit(part, options, cancelled=cancelled)
        except TrainingError as error:
            if error.reason == "TRAINING_CANCELLED":
                raise
            continue
        done.append((eighths, _judged(fitted.head, part, tests)))
    return done


def _judged(head: Head, part: TrainingSet, tests: TrainingSet) -> _Trial:
    scores = head.scores(tests.features)
    if tests.targets is not None:
        error = float(np.abs(scores[:, 0] - tests.targets).mean())
        return _Trial(len(part.ids), np.empty(0), error, np.empty(0))
    predicted: Bools = scores >= head.thresholds
    if head.type == "multi_class":
        # One of them, also where several score the same.
        predicted = np.eye(len(head.concepts), dtype=np.bool_)[scores.argmax(axis=1)]
    positive, negative = _sides(tests)
    right = (positive & predicted).sum(axis=0).astype(np.float64)
    wrong = (positive & ~predicted).sum(axis=0) + (negative & predicted).sum(axis=0)
    shown = np.asarray(positive.any(axis=0))
    f1 = np.divide(2 * right, 2 * right + wrong, out=np.full(len(shown), np.nan), where=shown)
    value = mean_defined(f1.tolist())
    if head.type == "multi_class":
        value = float((positive & predicted).any(axis=1).mean())
    return _Trial(len(part.ids), _positives(part).astype(np.float64), value, f1)


def _sides(data: TrainingSet) -> tuple[Bools, Bools]:
    """Which pictures are positives of each concept [n, c], and which are negatives."""
    if data.shown is not None:
        positive: Bools = np.eye(len(data.concepts), dtype=np.bool_)[data.shown]
        return positive, ~positive
    if data.labels is None:
        raise ValueError("a classification has labels")
    return data.labels == 1, data.labels == 0


def _positives(data: TrainingSet) -> npt.NDArray[np.int64]:
    """How many positives each concept has, [c]."""
    if data.shown is not None:
        return np.bincount(data.shown, minlength=len(data.concepts))
    positives: npt.NDArray[np.int64] = _sides(data)[0].sum(axis=0)
    return positives


def _concept(name: str, column: int, count: int, sizes: list[list[_Trial]]) -> ConceptCurve:
    points = []
    for trials in sizes:
        known = [trial for trial in trials if np.isfinite(trial.f1[column])]
        if known:
            images = [float(trial.positives[column]) for trial in known]
            points.append(_point(images, [float(trial.f1[column]) for trial in known]))
    return ConceptCurve(
        name, tuple(points), _continued(tuple(points), [factor * count for factor in _AHEAD], share=True)
    )


def _point(images: list[int] | list[float], values: list[float]) -> CurvePoint:
    return CurvePoint(round(sum(images) / len(images)), sum(values) / len(values), min(values), max(values))


def _continued(points: tuple[CurvePoint, ...], ahead: list[int], *, share: bool) -> tuple[CurvePoint, ...]:
    """Continue measured points to so many images.

    Args:
        points: At least three, or nothing is expected.
        ahead: Numbers of images.
        share: Whether figures are shares, of which more is better; else errors, of which less is better.
    """
    if len(points) < _FEWEST_POINTS or len({point.images for point in points}) < _FEWEST_POINTS:
        return ()
    images = np.asarray([point.images for point in points], dtype=np.float64)
    values = np.asarray([point.value for point in points], dtype=np.float64)
    errors = 1 - values if share else values
    spread = np.asarray([point.high - point.low for point in points]) / 2
    told = _plausible(np.maximum(images, 1), errors, float(np.mean(spread**2)), np.asarray(ahead, dtype=np.float64))
    # What was measured is no more certain than its draws agree, and nor is what follows from it.
    low, middle, high = told.min(axis=0) - spread[-1], np.median(told, axis=0), told.max(axis=0) + spread[-1]
    expected = []
    for place, count in enumerate(ahead):
        best, usual, worst = max(0.0, float(low[place])), float(middle[place]), float(high[place])
        if share:
            worst = min(1.0, worst)
            expected.append(CurvePoint(count, 1 - usual, 1 - worst, 1 - best))
        else:
            expected.append(CurvePoint(count, usual, best, worst))
    return tuple(expected)


def _plausible(images: Doubles, errors: Doubles, noise: float, ahead: Doubles) -> Doubles:
    """Continue errors by every power law that fits them nearly as well as the best; gives [laws, ahead]."""
    lowest = float(errors.min())
    if lowest <= 0:
        # Nothing is left to gain that could be measured.
        return np.full((1, len(ahead)), max(0.0, float(errors[-1])))
    found = []
    for floor in np.linspace(0.0, 0.95 * lowest, _FLOORS):
        slope, offset = np.polyfit(np.log(images), np.log(errors - floor), 1)
        fall = float(np.clip(-slope, 0.0, _FASTEST_FALL))
        offset = float(np.mean(np.log(errors - floor) + fall * np.log(images)))
        residual = float(np.sum((floor + np.exp(offset) * images**-fall - errors) ** 2))
        found.append((residual, floor + np.exp(offset) * ahead**-fall))
    bar = 2 * min(residual for residual, _ in found) + noise
    return np.stack([law for residual, law in found if residual <= bar])
