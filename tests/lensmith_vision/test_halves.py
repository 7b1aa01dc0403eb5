"""Features in half precision, and one class for each picture, give what single precision and labels give."""

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.errors import TrainingError
from lensmith_vision.halves import all_finite, floats
from lensmith_vision.heads import save as save_head
from lensmith_vision.out_of_fold import save
from lensmith_vision.training import TrainingSet, TrainOptions, fit
from lensmith_vision.training_set import NO_CONCEPT, SEVERAL_CONCEPTS, take_part

ROWS, DIM, WIDTH = 1200, 80, 5


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    """Many enough that near copies are sought in a sketch, and what is chosen is chosen on a sample."""
    random = np.random.RandomState(0)
    classes = np.arange(ROWS) % WIDTH
    features = np.maximum(random.randn(WIDTH, DIM)[classes] + random.randn(ROWS, DIM), 0).astype(np.float16)
    ids = tuple(f"{row:04d}" for row in range(ROWS))
    return TrainingSet("space", tuple("abcde"), ids, features.astype(np.float32), ids, np.eye(WIDTH)[classes] * 1.0)


def test_halves_become_the_same_singles_as_by_conversion() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 16)
    assert floats(finite).tobytes() == finite.astype(np.float32).tobytes()
    assert floats(finite[::-2, 3:]).tobytes() == finite[::-2, 3:].astype(np.float32).tobytes()


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_what_is_not_finite_is_found_when_it_stands_among_large_numbers(kind: type[np.floating]) -> None:
    block = np.full((4, 8), np.finfo(kind).max, kind)
    assert all_finite(block)
    assert all_finite(block[:0])
    for wrong in (np.inf, -np.inf, np.nan):
        block[2, 3] = wrong
        assert not all_finite(block)


@pytest.mark.parametrize("tier", ["linear", "kernel"])
def test_head_and_predictions_are_the_same_when_features_are_halves_and_labels_are_classes(
    data: TrainingSet, tier: str
) -> None:
    options = TrainOptions("multi_class", tier=tier)
    slim = replace(data, features=data.features.astype(np.float16), labels=None, shown=data.classes)
    one, other = fit(data, options), fit(slim, options)
    assert save_head(other.head) == save_head(one.head)
    assert other.evaluation == one.evaluation
    assert other.findings == one.findings
    assert save(other.out_of_fold) == save(one.out_of_fold)
    np.testing.assert_array_equal(other.out_of_fold.labels, data.labels)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_head_is_the_same_when_features_of_labels_or_numbers_are_halves(data: TrainingSet, kind: str) -> None:
    whole = data
    if kind == "regression":
        whole = replace(data, concepts=("a",), labels=None, targets=data.features[:, 0])
    halves = replace(whole, features=whole.features.astype(np.float16))
    assert save_head(fit(halves, TrainOptions(kind)).head) == save_head(fit(whole, TrainOptions(kind)).head)


def test_pictures_that_show_no_concept_or_several_are_left_out_when_classes_are_given(data: TrainingSet) -> None:
    shown, labels = data.classes.copy(), data.labels.copy()
    shown[[3, 8]] = NO_CONCEPT, SEVERAL_CONCEPTS
    labels[3], labels[8] = 0, 1
    options = TrainOptions("multi_class")
    given, left_out = take_part(replace(data, labels=None, shown=shown), options)
    assert left_out == {"0003": "NO_CONCEPT", "0008": "SEVERAL_CONCEPTS"}
    laid_out, also = take_part(replace(data, labels=labels), options)
    assert (given.ids, left_out) == (laid_out.ids, also)
    np.testing.assert_array_equal(given.classes, laid_out.classes)


@pytest.mark.parametrize("wrong", [-3, WIDTH])
def test_training_set_is_refused_when_a_picture_shows_what_is_no_concept(data: TrainingSet, wrong: int) -> None:
    shown = np.full(ROWS, wrong)
    with pytest.raises(TrainingError) as refused:
        replace(data, labels=None, shown=shown)
    assert refused.value.reason == "TRAINING_SET_INVALID"
