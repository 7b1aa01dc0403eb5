"""Numbers that a head measures are as large as sums of them can be told, and no larger."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation_methods import fit_and_evaluate
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


@pytest.mark.parametrize("spoilt", [1.01 * MAX_NUMBER, -1e19, np.inf, -np.inf])
def test_numbers_are_refused_when_they_cannot_be_added_up(spoilt: float) -> None:
    with pytest.raises(TrainingError) as caught:
        _set(1, spoilt=spoilt)
    assert caught.value.reason == "TRAINING_NUMBER_OUT_OF_RANGE"
    assert caught.value.metadata == {"input": "picture-7", "images": "2", "max": "1e+15"}
