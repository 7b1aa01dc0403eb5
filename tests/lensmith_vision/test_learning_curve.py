"""What more pictures are expected to bring, against what they do bring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.errors import TrainingError
from lensmith_vision.learning_curve import _bounded, _eighths, learning_curve
from lensmith_vision.training import TrainingSet, TrainOptions, fit

DIM, WIDTH = 48, 4


def _set(rows: int, seed: int = 0) -> TrainingSet:
    random = np.random.default_rng(seed)
    classes = random.integers(0, WIDTH, rows)
    features = random.standard_normal((rows, DIM)).astype(np.float32)
    # The first concept is easy, the last one hard.
    features[np.arange(rows), classes] += np.asarray([4.0, 2.0, 1.5, 1.2], np.float32)[classes]
    return TrainingSet(
        space="space",
        concepts=("a", "b", "c", "d"),
        ids=tuple(f"{seed}-{row}" for row in range(rows)),
        features=np.abs(features),
        group_ids=tuple(f"{seed}-{row}" for row in range(rows)),
        labels=np.eye(WIDTH, dtype=np.float32)[classes],
    )


def test_what_is_expected_comes_true_when_there_are_more_pictures() -> None:
    curve = learning_curve(_set(240), TrainOptions("multi_class"))
    assert curve.figure == "accuracy"
    assert [point.images for point in curve.points] == sorted(point.images for point in curve.points)
    assert curve.points[0].value < curve.points[-1].value
    twice = curve.expected[0]
    assert twice.images == 480
    fitted = fit(_set(480), TrainOptions("multi_class", tier="linear"))
    tests = _set(2000, seed=1)
    scores = fitted.head.scores(tests.features)
    reached = float((scores.argmax(axis=1) == tests.labels.argmax(axis=1)).mean())
    assert twice.low - 0.02 <= reached <= twice.high + 0.02
    assert {one.concept for one in curve.concepts} == {"a", "b", "c", "d"}
    gains = [one.expected[0].value - one.points[-1].value for one in curve.concepts]
    assert gains == sorted(gains, reverse=True)


def test_nothing_is_right_by_a_tie_when_all_pictures_look_the_same() -> None:
    labels = np.eye(WIDTH, dtype=np.float32)[np.arange(80) % WIDTH]
    alike = replace(_set(80), features=np.ones((80, DIM), np.float32), labels=labels)
    curve = learning_curve(alike, TrainOptions("multi_class"))
    assert max(point.high for point in curve.points) < 0.5


def test_reason_is_given_when_there_are_too_few_pictures() -> None:
    with pytest.raises(TrainingError) as caught:
        learning_curve(_set(8), TrainOptions("multi_class"))
    assert caught.value.reason == "TOO_FEW_IMAGES_FOR_A_CURVE"


def test_reason_is_given_when_nothing_that_is_held_out_shows_a_concept() -> None:
    labels = np.asarray([[1], [1], [0], [0]], np.float32)
    with pytest.raises(TrainingError) as caught:
        learning_curve(replace(_set(4, 2), concepts=("a",), labels=labels), TrainOptions("multi_label", seed=2))
    assert caught.value.reason == "TOO_FEW_IMAGES_FOR_A_CURVE"


def test_rare_concepts_keep_their_pictures_when_there_are_very_many() -> None:
    width, rows = 1000, 60_000
    classes = np.where(np.arange(rows) < 16 * width, np.arange(rows) % width, 0)
    ids = tuple(map(str, range(rows)))
    features = np.zeros((rows, 1), np.float32)
    whole = TrainingSet("space", tuple(map(str, range(width))), ids, features, ids, shown=classes)
    bounded = _bounded(whole, 0)
    assert (len(bounded.ids), bounded.shown is not None and np.bincount(bounded.shown).min()) == (40_000, 16)
    eighths = _eighths(bounded, TrainOptions("multi_class"))
    counts = np.zeros((width, 8), np.int64)
    np.add.at(counts, (bounded.classes, eighths), 1)
    assert (counts[1:] == 2).all()
