"""Fitting again after a few changes gives what a whole fit gives."""

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.discriminant import solve
from lensmith_vision.growth import NewPictures, Sketch, grow
from lensmith_vision.linear_fit import statistics_of
from lensmith_vision.refit import ClassMemory, ClassSums, Pictures, refit_classes
from lensmith_vision.statistics import Moments, SufficientStatistics
from lensmith_vision.training import Fitted, TrainingSet, TrainOptions, fit
from lensmith_vision.transforms import transformed

OPTIONS = TrainOptions("multi_class", tier="linear")
ROWS, NEW, DIM, WIDTH = 600, 12, 48, 5


def pictures(count: int, seed: int = 0) -> TrainingSet:
    random = np.random.RandomState(seed)
    classes = np.arange(count) % WIDTH
    centres = np.abs(random.randn(WIDTH, DIM))
    features = np.maximum(centres[classes] + 1.4 * random.randn(count, DIM), 0).astype(np.float32)
    labels = np.eye(WIDTH, dtype=np.float32)[classes]
    # Changes come anywhere in the order of ids.
    ids = tuple(f"{number:05d}" for number in random.permutation(count))
    order = np.argsort(ids)
    return TrainingSet(
        "space",
        tuple("abcde"),
        tuple(ids[row] for row in order),
        features[order],
        tuple(f"bytes-{ids[row]}" for row in order),
        labels=labels[order],
    )


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return pictures(ROWS)


@pytest.fixture(scope="module")
def before(data: TrainingSet) -> Fitted:
    return fit(data.rows(np.random.RandomState(1).permutation(ROWS) >= NEW), OPTIONS)


def test_head_is_that_of_a_fit_on_all_pictures_when_some_are_new_and_one_has_another_label(
    data: TrainingSet, before: Fitted
) -> None:
    labels = data.labels.copy()
    row = data.ids.index(before.memory.pictures.ids[7])
    labels[row] = np.roll(labels[row], 1)
    changed = replace(data, labels=labels)
    again = fit(changed, OPTIONS, memory=before.memory)
    assert again.memory.changed == NEW + 1
    assert again.input_count == ROWS
    # The same choices, on sums that never were anything else.
    sums = replace(again.memory.sums, total=_moments(changed, again))
    weights, bias = sums.final()
    np.testing.assert_allclose(again.head.weights, weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again.head.bias, bias, rtol=1e-3, atol=1e-3)
    whole = fit(changed, OPTIONS)
    assert again.evaluation.accuracy == pytest.approx(whole.evaluation.accuracy, abs=0.03)
    assert again.evaluation.macro_roc_auc == pytest.approx(whole.evaluation.macro_roc_auc, abs=0.02)
    # What was handed out before is as it was: another training may go on from it too.
    assert before.memory.sums.total.rows == ROWS - NEW


def test_evaluation_and_head_are_those_of_the_fit_before_when_nothing_changed(data: TrainingSet) -> None:
    before = fit(data, OPTIONS)
    again = fit(data, OPTIONS, memory=before.memory)
    np.testing.assert_allclose(again.head.weights, before.head.weights, rtol=1e-4, atol=1e-5)
    assert again.evaluation == before.evaluation
    assert again.memory.unevaluated == 0


def _moments(data: TrainingSet, fitted: Fitted) -> Moments:
    sums = fitted.memory.sums
    statistics = SufficientStatistics(sums.origin, WIDTH, 1, sides=1)
    statistics.add(transformed(data.features, sums.transform), data.labels, np.zeros(len(data.ids), np.int64))
    return statistics.total()


def test_sums_are_the_same_to_the_last_bit_when_threads_finish_in_another_order() -> None:
    random = np.random.default_rng(0)
    features, classes = random.standard_normal((ROWS, DIM)).astype(np.float32), np.arange(ROWS) % WIDTH
    blocks = np.array_split(np.arange(ROWS), 5)
    found = []
    for order in ((0, 1, 2, 3, 4), (3, 1, 4, 0, 2)):
        statistics = SufficientStatistics(np.zeros(DIM, np.float32), WIDTH, 1, sides=1, single=True)
        for place in order:
            statistics.add_classes([(features[blocks[place]], classes[blocks[place]])], 0, place)
        found.append(statistics.fold(0))
    assert found[0].rows == found[1].rows == ROWS
    for one, other in zip(found[0].sums_of_all(), found[1].sums_of_all(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_new_pictures_are_scored_by_a_fit_that_has_not_seen_their_near_copies(before: Fitted) -> None:
    known = before.memory.pictures
    data = pictures(ROWS)
    rows = [data.ids.index(known.ids[place]) for place in (3, 4)]
    ids = (*known.ids, "near", "same")
    features = np.concatenate([data.features[[data.ids.index(one) for one in known.ids]], data.features[rows] * 1.0001])
    group_ids = (*known.group_ids, "other-bytes", known.group_ids[4])
    classes = np.append(known.classes, known.classes[[3, 4]])
    again = refit_classes(before.memory, ids, group_ids, features.astype(np.float32), classes)
    placed = again.memory.pictures
    assert placed.folds[-2:].tolist() == known.folds[[3, 4]].tolist()
    assert placed.groups[-2:].tolist() == known.groups[[3, 4]].tolist()
    scores = placed.scores[again.places[-2:]]
    np.testing.assert_allclose(scores, known.scores[[3, 4]], atol=0.02)


def test_whole_fit_is_due_when_pictures_are_gone_or_many_are_new(data: TrainingSet, before: Fitted) -> None:
    known = before.memory.pictures
    rows = [data.ids.index(one) for one in known.ids[1:]]
    gone = (known.ids[1:], known.group_ids[1:], data.features[rows], known.classes[1:])
    assert refit_classes(before.memory, *gone) is None
    old = replace(before.memory, changed=ROWS // 20)
    everything = (data.ids, data.group_ids, data.features, data.labels.argmax(axis=1))
    assert refit_classes(old, *everything) is None
    assert fit(data, OPTIONS, memory=old).memory.changed == 0
    assert refit_classes(before.memory, *everything) is not None


def test_evaluation_stands_when_very_few_of_very_many_pictures_are_new_and_none_has_another_label(
    before: Fitted,
) -> None:
    rows, width = 4010, 1000
    random = np.random.RandomState(0)
    features, classes = random.rand(rows, 8).astype(np.float32), np.arange(rows) % width
    ids = [f"{row:05d}" for row in range(rows)]
    folds = np.arange(rows) // width % 4
    sums = statistics_of(features[:-10], classes[:-10], width, folds[:-10], "none")
    without = [solve(sums.total() - sums.fold(fold), 1.0) for fold in range(4)]
    known = Pictures(ids[:-10], ids[:-10], classes[:-10], np.arange(rows - 10), folds[:-10], np.zeros((4000, width)))
    memory = ClassMemory(
        ClassSums("none", sums.origin, sums.total(), without, 1.0, 1.0),
        replace(known, scores=known.scores.astype(np.float32)),
        before.memory.familiarity,
        np.full(width, 0.5, np.float32),
    )
    assert not refit_classes(memory, ids, ids, features, classes).carries
    few = refit_classes(memory, ids[:-3], ids[:-3], features[:-3], classes[:-3])
    assert (few.carries, few.memory.unevaluated) == (True, 7)
    assert np.isfinite(few.weights).all()
    # They count as long as they are not evaluated, and a label that was mended is to be seen at once.
    assert not refit_classes(few.memory, ids, ids, features, classes).carries
    mended = classes[:-3].copy()
    mended[5] += 1
    assert not refit_classes(memory, ids[:-3], ids[:-3], features[:-3], mended).carries


MANY = 4_000_000 // 500 + 200


@pytest.fixture(scope="module")
def many() -> tuple[TrainingSet, Fitted]:
    """So many pictures and concepts that an evaluation stands for those that come, and a fit of all but the last 5."""
    random = np.random.RandomState(3)
    classes = np.arange(MANY) % 500
    centres = random.randn(500, 32).astype(np.float32)
    features = centres[classes] + 0.8 * random.randn(MANY, 32).astype(np.float32)
    # The last one is a near copy of the one before, and both of the first.
    features[[-2, -1]] = features[0] + 1e-3 * random.randn(2, 32).astype(np.float32)
    classes[[-2, -1]] = classes[0]
    ids = tuple(f"{row:05d}" for row in range(MANY))
    concepts = tuple(f"c{row:03d}" for row in range(500))
    data = TrainingSet("space", concepts, ids, features, ids, labels=np.eye(500, dtype=np.float32)[classes])
    return data, fit(data.rows(np.arange(MANY) < MANY - 5), OPTIONS)


def test_grown_head_is_the_refitted_one_when_a_few_pictures_came_to_many(many: tuple[TrainingSet, Fitted]) -> None:
    data, fitted = many
    memory, classes = fitted.memory, data.labels.argmax(axis=1)
    sketch = Sketch.of(MANY - 5, lambda rows: data.features[rows])
    new = NewPictures(data.ids[-5:], data.group_ids[-5:], data.features[-5:], classes[-5:])
    grown = grow(memory, sketch, new, lambda rows: data.features[rows])
    again = refit_classes(memory, data.ids, data.group_ids, data.features, classes)
    assert again.carries
    np.testing.assert_allclose(grown.weights, again.weights, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grown.bias, again.bias, rtol=1e-4, atol=1e-4)
    for name in ("classes", "groups", "folds"):
        np.testing.assert_array_equal(getattr(grown.memory.pictures, name), getattr(again.memory.pictures, name))
    assert grown.memory.pictures.folds[0] == grown.folds[-1] == grown.folds[-2]
    assert grown.sketch.count == MANY


@pytest.mark.parametrize("group", ["00007", "twice"])
def test_nothing_is_grown_when_a_new_picture_has_the_bytes_of_another(
    many: tuple[TrainingSet, Fitted], group: str
) -> None:
    data, fitted = many
    sketch = Sketch.of(MANY - 5, lambda rows: data.features[rows])
    new = NewPictures(data.ids[-5:-3], ("twice", group), data.features[-5:-3], np.array([1, 2]))
    assert grow(fitted.memory, sketch, new, lambda rows: data.features[rows]) is None


def test_scores_are_made_anew_when_they_were_too_many_to_keep(many: tuple[TrainingSet, Fitted]) -> None:
    data, fitted = many
    assert fitted.memory.pictures.scores is None
    labels = data.labels[:-5].copy()
    labels[7] = np.roll(labels[7], 1)
    again = fit(replace(data.rows(np.arange(MANY) < MANY - 5), labels=labels), OPTIONS, memory=fitted.memory)
    assert again.memory.changed == 1
    np.testing.assert_allclose(again.out_of_fold.scores, fitted.out_of_fold.scores, atol=0.02)
    assert again.evaluation.accuracy == pytest.approx(fitted.evaluation.accuracy, abs=1e-3)
