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
