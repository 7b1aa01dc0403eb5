"""Figures against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lensmith_vision import metrics


def flags(text: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([letter == "1" for letter in text])


def test_accuracy_counts_the_best_when_scores_are_given() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]])
    truth = np.array([0, 2, 2, 0])
    assert metrics.accuracy(truth, scores) == 0.5
    assert metrics.top_k_accuracy(truth, scores, 2) == 0.75
    assert metrics.top_k_accuracy(truth, scores, 3) == 1.0
    assert math.isnan(metrics.accuracy(truth[:0], scores[:0]))


def test_confusion_matrix_has_actual_rows_when_counted() -> None:
    matrix = metrics.confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_binary_figures_when_counted_by_hand() -> None:
    count = metrics.binary(flags("1111000000"), flags("1110110000"))
    assert (count.precision, count.recall) == (0.6, 0.75)
    assert count.f1 == pytest.approx(2 / 3)
    assert (count + count).true_positives == 6
    assert math.isnan(metrics.binary(flags("00"), flags("00")).f1)
    assert metrics.binary(flags("11"), flags("00")).f1 == 0.0


def test_roc_auc_is_the_share_of_ordered_pairs_when_there_are_ties() -> None:
    # Pairs (positive, negative): 0.8>0.6, 0.8>0.4, 0.8>0.2, 0.4<0.6, 0.4=0.4, 0.4>0.2 -> 4.5 of 6.
    truth, scores = flags("10101"), np.array([0.8, 0.6, 0.4, 0.4, 0.2])
    assert metrics.roc_auc(flags("10100"), scores) == pytest.approx(4.5 / 6)
    assert metrics.roc_auc(truth, -scores) == pytest.approx(1 - metrics.roc_auc(truth, scores))
    assert math.isnan(metrics.roc_auc(flags("111"), np.zeros(3)))


def test_average_precision_sums_steps_when_ranked() -> None:
    # Hits at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3.
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert metrics.average_precision(flags("10110"), scores) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert math.isnan(metrics.average_precision(flags("00000"), scores))


def test_best_f1_threshold_lies_between_scores_when_chosen() -> None:
    assert metrics.best_f1_threshold(flags("1100"), np.array([0.9, 0.8, 0.3, 0.1])) == 0.5
    assert metrics.best_f1_threshold(flags("1100"), np.array([0.4, 0.3, 0.1, 0.0])) == pytest.approx(0.2)
    # Taking the third (F1 6/7) beats stopping at the first (F1 1/2) for three positives.
    assert metrics.best_f1_threshold(flags("10110"), np.array([0.9, 0.8, 0.7, 0.6, 0.2])) == 0.5
    assert metrics.best_f1_threshold(flags("000"), np.zeros(3)) == 0.5
    assert metrics.best_f1_threshold(flags("111"), np.zeros(3)) == 0.5


def test_calibration_error_is_the_mean_gap_when_binned() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = flags("111010")
    assert metrics.expected_calibration_error(confidence, right, 10) == pytest.approx(
        (4 * abs(0.95 - 0.75) + 2 * abs(0.55 - 0.5)) / 6
    )
    assert metrics.expected_calibration_error(np.ones(3), flags("111")) == 0.0


def test_debiased_error_is_near_the_truth_when_there_are_many_predictions() -> None:
    generator = np.random.default_rng(0)
    confidence = 0.1 + 0.8 * generator.beta(4, 2, 20_000)
    for over, low, high in ((0.0, 0.0, 0.005), (0.1, 0.09, 0.101)):
        right = generator.random(20_000) < confidence - over
        assert low <= metrics.debiased_calibration_error(confidence, right) <= high
    # On few, chance looks like an error.
    few = confidence[:60]
    right = generator.random(60) < few
    assert metrics.debiased_calibration_error(few, right) < metrics.expected_calibration_error(few, right)


def _found_at(asked: float, pictures: int, draws: int = 300) -> tuple[float, float]:
    """Precision and recall on new pictures of a concept that a fifth of the pictures show, with true probabilities."""
    generator = np.random.default_rng(0)
    hits = predictions = positives = 0
    for _ in range(draws):
        seen, new = generator.beta(0.8, 3.2, pictures), generator.beta(0.8, 3.2, 2000)
        shown, truth = generator.random(pictures) < seen, generator.random(2000) < new
        predicted = new >= metrics.Ranking.of(shown, seen, for_precision=True).threshold_of_precision(asked)
        hits, predictions, positives = (
            hits + (truth & predicted).sum(),
            predictions + predicted.sum(),
            positives + truth.sum(),
        )
    return hits / predictions, hits / positives


def test_precision_is_kept_on_new_pictures_however_few_were_seen() -> None:
    # What looks best of few would keep 0.53, 0.61 and 0.66.
    kept = {pictures: _found_at(0.7, pictures) for pictures in (50, 200, 1000)}
    assert all(precision > 0.67 for precision, _ in kept.values()), kept
    assert kept[1000][0] < 0.75
    assert all(recall > 0.05 for _, recall in kept.values()), kept


def test_what_was_right_decides_when_there_is_much_of_it() -> None:
    # Scores that promise much too little: of 2,000 predictions all are right, whatever they say.
    scores = np.concatenate([np.linspace(0.3, 0.4, 2000), np.linspace(0.0, 0.2, 2000)])
    shown = np.arange(4000) < 2000
    assert metrics.Ranking.of(shown, scores, for_precision=True).threshold_of_precision(0.95) == pytest.approx(
        0.3, abs=0.01
    )
    with pytest.raises(ValueError, match="sums of scores"):
        metrics.Ranking.of(shown, scores).threshold_of_precision(0.95)


def test_regression_figures_when_worked_out_by_hand() -> None:
    truth, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 2.0])
    assert metrics.mean_absolute_error(truth, predicted) == 0.75
    assert metrics.root_mean_squared_error(truth, predicted) == pytest.approx(math.sqrt(1.25))
    assert metrics.r_squared(truth, predicted) == pytest.approx(0.0)
    assert metrics.r_squared(truth, truth) == 1.0
    assert math.isnan(metrics.r_squared(np.ones(3), np.ones(3)))


def test_mean_defined_leaves_out_what_does_not_exist() -> None:
    assert metrics.mean_defined([1.0, math.nan, 0.5]) == 0.75
    assert math.isnan(metrics.mean_defined([math.nan]))
