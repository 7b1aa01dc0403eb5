"""Two versions on the same pictures: which is better, whether that may be chance, and which pictures changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.stats

from lensmith_vision.bootstrap import Interval, Resamples, interval_of
from lensmith_vision.errors import VisionError
from lensmith_vision.judging import Answers, answers
from lensmith_vision.out_of_fold import OutOfFoldPredictions

__all__ = ["Comparison", "ConceptDifference", "Side", "compare"]

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Verdict = Literal["better", "worse", "undecided"]

_SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class Side:
    """One of the versions: its scores, and the thresholds that it obeys, [c]."""

    predictions: OutOfFoldPredictions
    thresholds: npt.NDArray[np.float32]


@dataclass(frozen=True)
class ConceptDifference:
    """F1 of one concept in both versions, on the common pictures."""

    concept: str
    positives: int
    f1: float
    other_f1: float
    interval: Interval | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came out.

    Attributes:
        first: Of the first version, the common pictures, with the truth of the other version.
        other: Of the other version, the common pictures in the same order.
        first_answers: What the first version answered about them.
        other_answers: What the other version answers about them.
        only_first: Pictures that only the first was evaluated on.
        only_other: Pictures that only the other was evaluated on.
        figure: ``accuracy``, ``macro_f1`` or ``mean_absolute_error``.
        value: Of the first version.
        other_value: Of the other version.
        interval: Of the difference, other less first.
        fixed: [m], wrong before and right now (regression: nearer by now).
        broken: [m], right before and wrong now (regression: farther off now).
        p_value: Chance of so uneven a change if neither were better, near copies taken together.
        verdict: About the other version.
        concepts: Those that both answer, by the size of their change.
    """

    first: OutOfFoldPredictions
    other: OutOfFoldPredictions
    first_answers: Answers
    other_answers: Answers
    only_first: int
    only_other: int
    figure: str
    value: float
    other_value: float
    interval: Interval | None
    fixed: Bools
    broken: Bools
    p_value: float
    verdict: Verdict
    concepts: tuple[ConceptDifference, ...]


@dataclass(frozen=True, eq=False)
class _Figure:
    name: str
    value: float
    other: float
    drawn: Doubles
    higher_is_better: bool = True
    concepts: tuple[ConceptDifference, ...] = ()


def compare(one: Side, two: Side) -> Comparison:
    """Compare two versions of one model.

    Raises:
        VisionError: ``NO_COMMON_INPUTS`` or ``NO_COMMON_CONCEPTS``.
    """
    places: Mapping[str, int] = {name: row for row, name in enumerate(one.predictions.ids)}
    pairs = [(places[name], row) for row, name in enumerate(two.predictions.ids) if name in places]
    if not pairs:
        raise VisionError("NO_COMMON_INPUTS", "the versions were evaluated on different pictures: none is common")
    rows = np.asarray(pairs, dtype=np.int64)
    first, other = _rows(one.predictions, rows[:, 0]), _rows(two.predictions, rows[:, 1])
    resamples = Resamples(other.groups)
    if other.targets is not None:
        first = replace(first, targets=other.targets)
        before, now = answers(first, one.thresholds), answers(other, two.thresholds)
        figure, fixed, broken = _numbers(before, now, resamples)
    else:
        first, one_thresholds, other, two_thresholds = _aligned(first, one.thresholds, other, two.thresholds)
        before, now = answers(first, one_thresholds), answers(other, two_thresholds)
        fixed, broken = ~before.correct & now.correct, before.correct & ~now.correct
        figure = _classes(first, other, before, now, resamples)
    p_value = _chance(fixed, broken, other.groups)
    interval = interval_of(figure.drawn)
    return Comparison(
        first,
        other,
        before,
        now,
        len(one.predictions.ids) - len(pairs),
        len(two.predictions.ids) - len(pairs),
        figure.name,
        figure.value,
        figure.other,
        interval,
        fixed,
        broken,
        p_value,
        _verdict(interval, p_value, figure.higher_is_better),
        figure.concepts,
    )


def _rows(predictions: OutOfFoldPredictions, rows: npt.NDArray[np.int64]) -> OutOfFoldPredictions:
    """The pictures at some places; scores of very many are a hundred megabytes, and copied only where they must be."""
    return predictions if np.array_equal(rows, np.arange(len(predictions.ids))) else predictions.rows(rows)


def _aligned(
    first: OutOfFoldPredictions,
    first_thresholds: npt.NDArray[np.float32],
    other: OutOfFoldPredictions,
    other_thresholds: npt.NDArray[np.float32],
) -> tuple[OutOfFoldPredictions, npt.NDArray[np.float32], OutOfFoldPredictions, npt.NDArray[np.float32]]:
    """Give both the same columns and the truth of the other version.

    A multi-class version answers one of its own concepts, so all concepts of either stay, with a score of 0 where a
    version does not know one. Of a multi-label one the common concepts are compared.
    """
    common = [concept for concept in other.concepts if concept in set(first.concepts)]
    if not common:
        raise VisionError("NO_COMMON_CONCEPTS", "the versions answer different concepts: none is common")
    concepts: Sequence[str] = common
    if other.type == "multi_class":
        concepts = [*other.concepts, *(concept for concept in first.concepts if concept not in set(other.concepts))]
    truth = _columns(other.labels, other.concepts, concepts)
    return (
        _with_columns(first, concepts, truth),
        _columns(first_thresholds[None], first.concepts, concepts)[0],
        _with_columns(other, concepts, truth),
        _columns(other_thresholds[None], other.concepts, concepts)[0],
    )


def _with_columns(
    predictions: OutOfFoldPredictions, concepts: Sequence[str], labels: npt.NDArray[np.float32]
) -> OutOfFoldPredictions:
    scores = _columns(predictions.scores, predictions.concepts, concepts)
    return replace(predictions, concepts=tuple(concepts), scores=scores, labels=labels, classes=None)


def _columns(
    values: npt.NDArray[np.float32] | None, have: Sequence[str], wanted: Sequence[str]
) -> npt.NDArray[np.float32]:
    if values is None:
        raise ValueError("a classification has labels")
    if tuple(have) == tuple(wanted):
        return values
    places = {concept: column for column, concept in enumerate(have)}
    laid_out = np.zeros((len(values), len(wanted)), np.float32)
    for column, concept in enumerate(wanted):
        if concept in places:
            laid_out[:, column] = values[:, places[concept]]
    return laid_out


def _numbers(before: Answers, now: Answers, resamples: Resamples) -> tuple[_Figure, Bools, Bools]:
    columns = np.stack([np.ones(len(now.confidence)), before.confidence, now.confidence], axis=1)
    count, old, new = resamples.sums(scipy.sparse.csr_array(columns.astype(np.float32)))
    drawn = (new - old) / np.maximum(count, 1)
    value, other = float(before.confidence.mean()), float(now.confidence.mean())
    fixed, broken = now.confidence < before.confidence, now.confidence > before.confidence
    return _Figure("mean_absolute_error", value, other, drawn, higher_is_better=False), fixed, broken


def _classes(
    first: OutOfFoldPredictions,
    other: OutOfFoldPredictions,
    before: Answers,
    now: Answers,
    resamples: Resamples,
) -> _Figure:
    if other.labels is None:
        raise ValueError("a classification has labels")
    old, old_drawn = _f1(other.labels, before.predicted, resamples)
    new, new_drawn = _f1(other.labels, now.predicted, resamples)
    positives = (other.labels == 1).sum(axis=0)
    concepts = [
        ConceptDifference(
            concept,
            int(positives[column]),
            float(np.nan_to_num(old[column])),
            float(np.nan_to_num(new[column])),
            interval_of(new_drawn[column] - old_drawn[column]),
        )
        for column, concept in enumerate(other.concepts)
        if positives[column]
    ]
    ordered = tuple(sorted(concepts, key=lambda one: -abs(one.other_f1 - one.f1)))
    if other.type == "multi_class":
        columns = np.stack([np.ones(len(now.correct)), before.correct, now.correct], axis=1).astype(np.float32)
        count, right_before, right_now = resamples.sums(scipy.sparse.csr_array(columns))
        drawn = (right_now - right_before) / np.maximum(count, 1)
        return _Figure("accuracy", float(before.correct.mean()), float(now.correct.mean()), drawn, concepts=ordered)
    shown = positives > 0
    if not shown.any():
        return _Figure("macro_f1", 0.0, 0.0, np.zeros(1), concepts=ordered)
    drawn = _mean(new_drawn[shown]) - _mean(old_drawn[shown])
    value, changed = float(np.nan_to_num(old[shown]).mean()), float(np.nan_to_num(new[shown]).mean())
    return _Figure("macro_f1", value, changed, drawn, concepts=ordered)


def _f1(labels: npt.NDArray[np.float32], predicted: Bools, resamples: Resamples) -> tuple[Doubles, Doubles]:
    """F1 of each concept [c], and in each draw [c, draws]; NaN where there is nothing to find."""
    positive, negative = labels == 1, labels == 0
    cells = (positive & predicted, positive & ~predicted, negative & predicted)
    sums = [resamples.sums(scipy.sparse.csr_array(part, dtype=np.float32)) for part in cells]
    plain = [part.sum(axis=0).astype(np.float64)[:, None] for part in cells]
    return _ratio(*plain)[:, 0], _ratio(*sums)


def _ratio(right: Doubles, missed: Doubles, false: Doubles) -> Doubles:
    shown = right + missed
    f1: Doubles = np.divide(2 * right, 2 * right + missed + false, out=np.full(right.shape, np.nan), where=shown > 0)
    return f1


def _mean(drawn: Doubles) -> Doubles:
    known = np.isfinite(drawn)
    mean: Doubles = np.where(known, drawn, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return mean


def _chance(fixed: Bools, broken: Bools, groups: Ints) -> float:
    """Chance of so uneven a change if each group of near copies were as likely to have changed the other way.

    Exact: the randomization test (Fisher 1935) of what each group changed in sum, as McNemar's test is of single
    pictures; of those alone it is that test (Eliasziw and Donner 1991 on why clusters must not count by their members).
    """
    _, places = np.unique(groups, return_inverse=True)
    leads = np.bincount(places, fixed.astype(np.int64) - broken.astype(np.int64)).astype(np.int64)
    sizes, counts = np.unique(np.abs(leads[leads != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        return float(scipy.stats.binomtest(int((leads > 0).sum()), int(counts[0])).pvalue)
    # All sums at once, from what is theirs in frequencies: of a lead that may turn, a cosine.
    whole = int(sizes @ counts)
    turns = np.pi / (whole + 1) * np.arange(whole + 1)
    waves = np.ones(whole + 1)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        waves *= np.cos(size * turns) ** count
    chances = np.fft.fft(waves * np.exp(1j * whole * turns)).real / (whole + 1)
    as_uneven = np.abs(2 * np.arange(whole + 1) - whole) >= abs(int(leads.sum()))
    # No less than that of one way to turn them, and its mirror image, which rounding may hide.
    return float(np.clip(chances[as_uneven].sum(), 2.0 ** (1 - int(counts.sum())), 1.0))


def _verdict(interval: Interval | None, p_value: float, higher_is_better: bool) -> Verdict:
    if interval is None or p_value >= _SIGNIFICANT or interval[0] <= 0 <= interval[1]:
        return "undecided"
    return "better" if (interval[0] > 0) == higher_is_better else "worse"
