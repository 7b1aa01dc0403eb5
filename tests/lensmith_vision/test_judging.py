"""Other thresholds, curves, right and wrong, and versions side by side, on answers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision import judging
from lensmith_vision.comparison import Side, compare
from lensmith_vision.errors import VisionError
from lensmith_vision.evaluation import ConceptEvaluation, Evaluation
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.report import ThresholdAim

NAN = np.nan


def _labelled(labels: list[list[float]], scores: list[list[float]], *, prefix: str = "") -> OutOfFoldPredictions:
    rows, width = len(labels), len(labels[0])
    return OutOfFoldPredictions(
        type="multi_label",
        method="out_of_fold",
        ids=tuple(f"input-{row}" for row in range(rows)),
        concepts=tuple(f"{prefix}{letter}" for letter in "abc"[:width]),
        scores=np.asarray(scores, np.float32),
        folds=np.zeros(rows, np.int64),
        groups=np.arange(rows),
        labels=np.asarray(labels, np.float32),
    )


def _classes(truth: list[int], taken: list[int], concepts: tuple[str, ...]) -> OutOfFoldPredictions:
    rows, width = len(truth), len(concepts)
    return OutOfFoldPredictions(
        type="multi_class",
        method="out_of_fold",
        ids=tuple(f"input-{row}" for row in range(rows)),
        concepts=concepts,
        scores=np.eye(width, dtype=np.float32)[taken] * 0.6 + 0.1,
        folds=np.zeros(rows, np.int64),
        groups=np.arange(rows),
        labels=np.eye(width, dtype=np.float32)[truth],
    )


def _numbers(values: list[float], truth: list[float]) -> OutOfFoldPredictions:
    return OutOfFoldPredictions(
        type="regression",
        method="out_of_fold",
        ids=tuple(f"input-{row}" for row in range(len(values))),
        concepts=("weight",),
        scores=np.asarray(values, np.float32)[:, None],
        folds=np.zeros(len(values), np.int64),
        groups=np.arange(len(values)),
        targets=np.asarray(truth, np.float32),
        interval=1.5,
    )


def test_unknown_labels_are_neither_right_nor_wrong_when_labels_overlap() -> None:
    one = _labelled([[1, 0], [1, NAN], [0, 1]], [[0.9, 0.4], [0.2, 0.9], [0.1, 0.8]])
    given = judging.answers(one, np.asarray([0.5, 0.5], np.float32))
    assert given.correct.tolist() == [True, False, True]
    # The nearest to being wrong, the worst mistake, the nearest to being wrong.
    np.testing.assert_allclose(given.confidence, [0.1, 0.3, 0.3], atol=1e-6)


def test_figures_move_with_the_thresholds_when_labels_overlap() -> None:
    one = _labelled([[1, 0], [1, NAN], [0, 1], [0, 0]], [[0.9, 0.4], [0.2, 0.9], [0.3, 0.8], [0.1, 0.6]])
    rows = tuple(ConceptEvaluation(concept, 2, 2, 0.0, 0.0, 0.0, 0.5) for concept in one.concepts)
    from_training = Evaluation("", 4, 4, 0.1, concepts=rows)
    moved = judging.at_thresholds(from_training, one, np.asarray([0.15, 0.5], np.float32))
    assert [(row.precision, row.recall) for row in moved.concepts] == [(pytest.approx(2 / 3), 1.0), (0.5, 1.0)]
    assert moved.micro_precision == pytest.approx(3 / 5)
    assert judging.choose_thresholds(one, ThresholdAim(least_precision=1.0))[0] > 0.3


def test_what_training_counted_stands_when_a_threshold_stays_below_what_is_stored() -> None:
    scores = [[0.9, 0.4], [0.2, 0.9], [0.3, 0.0], [0.1, 0.0]]
    one = replace(_labelled([[1, 0], [1, 0], [0, 1], [0, 1]], scores), floor=0.05)
    rows = (ConceptEvaluation("a", 2, 2, 0.5, 0.5, 0.5, 0.5), ConceptEvaluation("b", 2, 2, 0.25, 0.5, 0.4, 0.001))
    from_training = Evaluation("", 4, 4, 0.1, concepts=rows)
    moved = judging.at_thresholds(from_training, one, np.asarray([0.15, 0.001], np.float32))
    assert moved.concepts[1] == rows[1]
    assert (moved.concepts[0].recall, moved.macro_recall) == (1.0, 0.75)
    with pytest.raises(VisionError, match=r"only scores above 0\.0500"):
        judging.at_thresholds(from_training, one, np.asarray([0.15, 0.002], np.float32))


def test_curves_promise_nothing_below_what_is_stored() -> None:
    # The low scores of the last two were not stored; that of the second was, because it is a positive.
    one = replace(_labelled([[1], [1], [0], [0], [0]], [[0.9], [0.02], [0.3], [0.0], [0.0]]), floor=0.05)
    drawn = judging.curve(one, 0)
    points = zip(drawn.thresholds, drawn.recall, drawn.false_positive_rate, strict=True)
    assert [(round(float(one), 3), *rest) for one, *rest in points] == [(0.9, 0.5, 0), (0.3, 0.5, 1 / 3), (0, 1, 1)]


def test_regression_has_answers_but_no_thresholds() -> None:
    one = _numbers([1.0, 5.0], [2.0, 2.0])
    assert judging.answers(one, np.zeros(1, np.float32)).correct.tolist() == [True, False]
    with pytest.raises(VisionError) as caught:
        judging.choose_thresholds(one, ThresholdAim())
    assert caught.value.reason == "NO_THRESHOLDS"


def test_right_and_wrong_are_told_by_the_newer_labels_when_concepts_came_and_went() -> None:
    half = np.full(2, 0.5, np.float32)
    # The first one knew no `c`; two inputs have become one since.
    first = _classes([0, 0, 1, 1], [0, 0, 1, 0], ("a", "b"))
    other = _classes([0, 2, 1, 2], [0, 2, 0, 2], ("a", "b", "c"))
    compared = compare(Side(first, half), Side(other, np.full(3, 0.5, np.float32)))
    assert (compared.figure, compared.value, compared.other_value) == ("accuracy", 0.5, 0.75)
    assert compared.fixed.tolist() == [False, True, False, True]
    assert compared.broken.tolist() == [False, False, True, False]
    # Two against one is what a coin does as well.
    assert (compared.p_value, compared.verdict) == (1.0, "undecided")


@pytest.mark.parametrize(
    ("groups", "chance"),
    [
        # Eight pictures, of which seven are fixed: as many throws of a coin.
        ([0, 1, 2, 3, 4, 5, 6, 7], 18 / 256),
        # Two scenes of four frames, one better by four and one by two.
        ([0, 0, 0, 0, 7, 7, 7, 7], 2 / 4),
        # Better by 3, 2, 1 and 1, and worse by 1: of 32 ways to turn them, eight are as uneven as that.
        ([0, 0, 0, 1, 1, 2, 3, 4], 8 / 32),
        # A group as often fixed as broken says nothing.
        ([0, 1, 2, 3, 4, 5, 6, 6], 2 / 64),
    ],
)
def test_a_change_counts_once_for_each_group_when_pictures_are_near_copies(groups: list[int], chance: float) -> None:
    half = np.full(2, 0.5, np.float32)
    first, other = (_classes([0] * 8, answers, ("a", "b")) for answers in ([1] * 7 + [0], [0] * 7 + [1]))
    other = replace(other, groups=np.asarray(groups))
    assert compare(Side(first, half), Side(other, half)).p_value == pytest.approx(chance)
    assert compare(Side(other, half), Side(replace(first, groups=other.groups), half)).p_value == pytest.approx(chance)


def test_scores_are_not_copied_when_both_versions_judged_the_same_pictures() -> None:
    half = np.full(2, 0.5, np.float32)
    first, other = (_classes([0, 0, 1, 1], answers, ("a", "b")) for answers in ([0, 0, 1, 0], [0, 1, 1, 1]))
    compared = compare(Side(first, half), Side(other, half))
    # Of 50,000 pictures and 500 concepts each copy takes a hundred megabytes.
    assert compared.first.scores is first.scores
    assert compared.other.scores is other.scores


def test_nearer_numbers_are_better_when_versions_predict_numbers() -> None:
    truth = np.linspace(0, 10, 40).tolist()
    far, near = [value + 1 for value in truth], [value - 0.1 for value in truth]
    one = np.zeros(1, np.float32)
    compared = compare(Side(_numbers(far, truth), one), Side(_numbers(near, truth), one))
    assert (compared.figure, compared.verdict) == ("mean_absolute_error", "better")
    assert compare(Side(_numbers(near, truth), one), Side(_numbers(far, truth), one)).verdict == "worse"


def test_reason_is_given_when_versions_have_nothing_in_common() -> None:
    half = np.full(2, 0.5, np.float32)
    one = _labelled([[1, 0]], [[0.9, 0.1]])
    with pytest.raises(VisionError) as caught:
        compare(Side(one, half), Side(_labelled([[1, 0]], [[0.9, 0.1]], prefix="x"), half))
    assert caught.value.reason == "NO_COMMON_CONCEPTS"
