"""Evaluation on test pictures and on a fifth: never on what was fitted on, nor on copies of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.training import TrainingSet, TrainOptions

DIM, WIDTH = 32, 3


def _set(rows: int, *, noise: float = 1.0, seed: int = 0) -> TrainingSet:
    random = np.random.default_rng(seed)
    classes = np.arange(rows) % WIDTH
    features = random.standard_normal((rows, DIM)).astype(np.float32) * noise
    features[np.arange(rows), classes] += 3
    return TrainingSet(
        space="space",
        concepts=("a", "b", "c"),
        ids=tuple(f"input-{row}" for row in range(rows)),
        features=np.abs(features),
        group_ids=tuple(f"bytes-{row}" for row in range(rows)),
        labels=np.eye(WIDTH, dtype=np.float32)[classes],
    )


def test_only_test_pictures_are_judged_and_their_copies_are_not_learnt_when_there_is_a_test_set() -> None:
    data = _set(120)
    test = np.arange(120) >= 90
    # Two pictures to learn from are copies of a test picture: one by its bytes, one all but the same.
    features = data.features.copy()
    features[0] = features[90]
    features[1] = features[91] + 0.01
    data = replace(data, features=features, group_ids=("bytes-90", *data.group_ids[1:]))
    fitted = fit_and_evaluate(data, test, TrainOptions("multi_class"), "test_set")
    assert fitted.out_of_fold.ids == data.ids[90:]
    assert (fitted.evaluation.input_count, fitted.evaluation.evaluation_method) == (30, "test_set")
    assert {name for name, why in fitted.left_out.items() if why == "COPY_OF_TEST"} == {"input-0", "input-1"}
    assert sum(why == "TEST" for why in fitted.left_out.values()) == 30
    assert fitted.input_count == 88
    assert "LEFT_OUT_COPY_OF_TEST" in {finding.reason for finding in fitted.findings}
    np.testing.assert_allclose(fitted.out_of_fold.scores, fitted.head.scores(data.features[90:]), atol=1e-5)


def test_what_memory_knows_by_heart_is_not_praised_when_labels_are_noise() -> None:
    random = np.random.default_rng(3)
    noise = replace(_set(150), labels=np.eye(WIDTH, dtype=np.float32)[random.integers(0, WIDTH, 150)])
    split = fit_and_evaluate(noise, np.zeros(150, np.bool_), TrainOptions("multi_class"), "split")
    tested = fit_and_evaluate(noise, np.arange(150) >= 100, TrainOptions("multi_class"), "test_set")
    for fitted in (split, tested):
        assert fitted.evaluation.accuracy is not None
        assert fitted.evaluation.accuracy < 0.6
    assert split.evaluation.method == "80/20 split"
    assert 25 <= split.evaluation.input_count <= 35
    # All of them are learnt in the end.
    assert split.input_count == 150


def test_marked_pictures_are_never_learnt_when_evaluation_is_out_of_fold() -> None:
    data, test = _set(60), np.arange(60) >= 50
    fitted = fit_and_evaluate(data, test, TrainOptions("multi_class"), "out_of_fold")
    assert fitted.input_count == 50
    assert set(fitted.out_of_fold.ids) == set(data.ids[:50])


def test_reason_is_given_when_nothing_is_marked_as_test() -> None:
    with pytest.raises(TrainingError) as caught:
        fit_and_evaluate(_set(60), np.zeros(60, np.bool_), TrainOptions("multi_class"), "test_set")
    assert caught.value.reason == "NO_TEST_IMAGES"


def test_numbers_are_judged_on_test_pictures_when_the_model_is_a_regression() -> None:
    data = _set(90)
    numbers = replace(data, concepts=("weight",), labels=None, targets=data.features[:, 0])
    fitted = fit_and_evaluate(numbers, np.arange(90) >= 60, TrainOptions("regression"), "test_set")
    assert fitted.evaluation.r2 is not None
    assert fitted.evaluation.r2 > 0.5
    low, high = fitted.evaluation.intervals["mean_absolute_error"]
    assert low <= fitted.evaluation.mean_absolute_error <= high
    assert sum(bar.count for bar in fitted.evaluation.residuals) == 30


def test_reason_names_the_fifth_when_only_what_is_left_of_it_is_too_little() -> None:
    rows, shown = tuple(map(str, range(4))), np.asarray([0, 0, 1, 1])
    features = np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)
    data = TrainingSet("space", ("a", "b"), rows, features, rows, shown=shown)
    nothing, options = np.zeros(4, np.bool_), TrainOptions("multi_class")
    assert fit_and_evaluate(data, nothing, options, "out_of_fold").input_count == 4
    with pytest.raises(TrainingError, match=r"without the fifth that is held out, . has one image") as caught:
        fit_and_evaluate(data, nothing, options, "split")
    assert caught.value.reason == "TOO_FEW_IMAGES"
    with pytest.raises(TrainingError, match=r"^b has one image"):
        fit_and_evaluate(data.rows(np.arange(4) < 3), nothing[:3], options, "split")
