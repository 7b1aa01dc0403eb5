"""How likely a given label is wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from lensmith_vision.curation.noise import chances_of_wrong


def opinions(width: int, turned: int, rows: int = 600) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Opinions that are sure of the right concepts, and labels of which the first ones are turned."""
    right = np.arange(rows) % width
    chances = np.full((rows, width), 0.1 / (width - 1), np.float32)
    chances[np.arange(rows), right] = 0.9
    labels = right.copy()
    labels[:turned] = (right[:turned] + 1) % width
    return chances, labels


@pytest.mark.parametrize("width", [2, 6, 99])
def test_turned_labels_are_likelier_wrong_than_right_ones(width: int) -> None:
    wrong = chances_of_wrong(*opinions(width, turned=60))
    assert wrong[:60].min() > 0.5
    assert wrong[60:].max() < 0.3


def test_the_same_label_is_likelier_wrong_when_more_of_the_set_are() -> None:
    few, many = (chances_of_wrong(*opinions(6, turned)) for turned in (6, 120))
    assert many[0] > few[0]


def test_a_label_among_many_concepts_is_likelier_right_when_it_fits_as_badly() -> None:
    two, many = (np.array([[0.2, 0.8, *[0.0] * others]], np.float32) for others in (0, 97))
    label = np.array([0])
    assert chances_of_wrong(many, label)[0] < chances_of_wrong(two, label)[0]


def test_chances_stay_chances_when_opinions_are_rounded_above_one_or_there_are_none() -> None:
    chances = np.array([[1.0000001, 0.0], [0.0, 1.0000001]], np.float32)
    wrong = chances_of_wrong(chances, np.array([0, 0]))
    assert 0 <= wrong.min() <= wrong.max() <= 1
    assert chances_of_wrong(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)).shape == (0,)
