"""Numbers that a head measures are as large as sums of them can be told, and no larger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.bootstrap import Resamples
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.figures import regression_intervals
from lensmith_vision.targets import MAX_NUMBER
from lensmith_vision.training_set import TrainingSet, TrainOptions

_IDS = tuple(f"picture-{row}" for row in range(60))


def _set(scale: float, *, spoilt: float | None = None) -> TrainingSet:
    random = np.random.default_rng(0)
    features = random.normal(size=(len(_IDS), 16)).astype(np.float32)
    targets = (features @ random.normal(size=16)).astype(np.float32)
    targets *= np.float32(scale) / np.abs(targets).max()
    if spoilt is not None:
        targets[[7, 9]] = spoilt
    return TrainingSet("space", ("weight",), _IDS, features, _IDS, targets=targets)


@pytest.mark.parametrize("scale", [1e-30, 1.0, MAX_NUMBER])
def test_numbers_are_learnt_whatever_their_unit(scale: float) -> None:
    options, nowhere = TrainOptions("regression"), np.zeros(len(_IDS), np.bool_)
    fitted = fit_and_evaluate(_set(scale), nowhere, options, "out_of_fold", lambda _: None, lambda: False, None)
    assert fitted.evaluation.summary()["r2"] > 0.99


def test_errors_are_counted_when_they_are_so_large_that_hardly_a_number_lies_between_them() -> None:
    data, tests = _set(1), np.arange(len(_IDS)) < 3
    targets = np.where(tests, np.float32(MAX_NUMBER), data.targets)
    fitted = fit_and_evaluate(replace(data, targets=targets), tests, TrainOptions("regression"), "test_set")
    assert sum(row.count for row in fitted.evaluation.residuals) == 3
    assert all(row.low < row.high for row in fitted.evaluation.residuals)


@pytest.mark.parametrize("rows", [3, 4])
def test_what_is_explained_is_no_rounding_when_a_few_pictures_are_drawn_again(rows: int) -> None:
    targets = np.linspace(0.1, 1, rows)
    intervals = regression_intervals(targets, targets[::-1], Resamples(np.arange(rows)))
    # The two nearest numbers, taken for each other as the farthest are, are as wrong as it can be.
    assert intervals["r2"] is None or intervals["r2"][0] > -100


@pytest.mark.parametrize("spoilt", [1.01 * MAX_NUMBER, -1e19, np.inf, -np.inf])
def test_numbers_are_refused_when_they_cannot_be_added_up(spoilt: float) -> None:
    with pytest.raises(TrainingError) as caught:
        _set(1, spoilt=spoilt)
    assert caught.value.reason == "TRAINING_NUMBER_OUT_OF_RANGE"
    assert caught.value.metadata == {"input": "picture-7", "images": "2", "max": "1e+15"}
