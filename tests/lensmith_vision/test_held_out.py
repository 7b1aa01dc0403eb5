"""What is said about held-out pictures equals what fits without them would say; sums updated equal sums made anew."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from lensmith_vision.class_choice import mixed
from lensmith_vision.discriminant import held_out_logits, solve
from lensmith_vision.errors import HeadError, TrainingError
from lensmith_vision.folds import groups_of
from lensmith_vision.heads import Head, load, save
from lensmith_vision.kernel import CONSTANT, KernelPart, Similarities, most_landmarks
from lensmith_vision.labels import fit_labels
from lensmith_vision.metrics import binary
from lensmith_vision.numbers import fit_numbers
from lensmith_vision.report import Decisions, ThresholdAim, thresholds_of
from lensmith_vision.statistics import SufficientStatistics
from lensmith_vision.training import TrainingSet, TrainOptions, fit
from lensmith_vision.transforms import transformed

Floats = npt.NDArray[np.float32]
WIDTH = 4


def pictures(rows: int, dim: int) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Features about their mean, classes, and groups of one to a handful of pictures, some of mixed classes."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((rows, dim)).astype(np.float32)
    groups = np.where(np.arange(rows) < rows // 2, np.arange(rows), 1000 + generator.integers(0, rows // 6, rows))
    return (
        features - features.mean(axis=0),
        generator.integers(0, WIDTH, rows),
        np.unique(groups, return_inverse=True)[1],
    )


def fitted(features: Floats, classes: npt.NDArray[np.int64], shrinkage: float) -> tuple[Floats, Floats]:
    statistics = SufficientStatistics(np.zeros(features.shape[1], np.float32), WIDTH, 1, sides=1)
    statistics.add(features, np.eye(WIDTH, dtype=np.float32)[classes], np.zeros(len(classes), np.int64))
    found = solve(statistics.total(), shrinkage)
    return found.weights.astype(np.float32), found.bias.astype(np.float32)


@pytest.mark.parametrize(("rows", "dim"), [(60, 20), (40, 200)])
@pytest.mark.parametrize("shrinkage", [0.5, 20.0])
def test_held_out_logits_equal_refits_when_groups_are_left_out(rows: int, dim: int, shrinkage: float) -> None:
    features, classes, groups = pictures(rows, dim)
    products = (features @ features.T).astype(np.float64)
    found = held_out_logits(products, classes, WIDTH, groups, shrinkage)
    for group in range(int(groups.max()) + 1):
        rest = groups != group
        weights, bias = fitted(features[rest], classes[rest], shrinkage)
        expected = features[~rest] @ weights + bias
        # A constant for each picture changes no probability.
        difference = (expected - expected[:, :1]) - (found[~rest] - found[~rest][:, :1])
        assert np.abs(difference).max() < 2e-3 * max(1.0, float(np.abs(expected).max()))


def test_held_out_logits_know_nothing_of_a_class_when_it_is_left_out_whole() -> None:
    features, classes, _ = pictures(40, 10)
    groups = np.arange(40)
    groups[classes == 2] = 50
    found = held_out_logits((features @ features.T).astype(np.float64), classes, WIDTH, groups, 1.0)
    assert np.isfinite(found).all()
    assert (found[classes == 2].argmax(axis=1) != 2).all()


def test_similarities_equal_refits_when_groups_are_left_out() -> None:
    features, classes, groups = pictures(40, 12)
    order = np.argsort(groups, kind="stable")
    features, classes, groups = features[order], classes[order], groups[order]
    targets = np.eye(WIDTH)[classes]
    similarities = Similarities.to(features, 0.1)
    _, found = similarities.fit(targets, groups, 0.2)
    kernel = similarities.root @ similarities.root.T + CONSTANT
    for group in range(int(groups.max()) + 1):
        rest = groups != group
        weights = np.linalg.solve(kernel[np.ix_(rest, rest)] + 0.2 * np.eye(rest.sum()), targets[rest])
        np.testing.assert_allclose(found[~rest], kernel[np.ix_(~rest, rest)] @ weights, atol=1e-6)


def test_landmarks_give_the_same_answers_when_all_pictures_are_landmarks() -> None:
    features, classes, _ = pictures(40, 12)
    similarities = Similarities.to(features, 0.1)
    inputs = similarities.landmarks
    weights, _ = similarities.fit(np.eye(WIDTH)[classes], np.arange(40), 0.2)
    part, constant = similarities.part(weights)
    coordinates = similarities.coordinates(inputs).astype(np.float64)
    ridge = coordinates.T @ coordinates + 0.2 * np.eye(similarities.rank)
    again = np.linalg.solve(ridge, coordinates.T @ np.eye(WIDTH)[classes])
    other, other_constant = similarities.part(similarities.of_landmarks(again))
    np.testing.assert_allclose(part.logits(inputs) + constant, other.logits(inputs) + other_constant, atol=5e-3)


def test_statistics_are_the_same_when_pictures_come_in_another_order() -> None:
    features, classes, _ = pictures(50, 20)
    labels = np.eye(WIDTH, dtype=np.float32)[classes]
    labels[::7] = np.nan
    folds = np.arange(50) % 5
    origin = np.full(20, 0.5, np.float32)
    batch, updated = (SufficientStatistics(origin, WIDTH, 5, sides=2) for _ in range(2))
    batch.add(features, labels, folds)
    updated.add(features[10:], labels[10:], folds[10:])
    updated.add(features[:10], labels[:10], folds[:10])
    assert updated.total().rows == batch.total().rows == 50
    for left, right in ((batch.total(), updated.total()), (batch.fold(3), updated.fold(3))):
        assert left.rows == right.rows
        for name in ("total", "gram", "counts", "sums"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), atol=1e-4)


def of_classes(per_class: int, classes: int, dim: int, tier: str) -> tuple[TrainingSet, TrainOptions]:
    generator = np.random.default_rng(1)
    truth = np.repeat(np.arange(classes), per_class)
    # Two clouds on opposite sides for each class: nothing that a plane could tell apart.
    centres = generator.standard_normal((classes, dim)) * 2
    features = np.abs(
        centres[truth] * generator.choice([-1, 1], (len(truth), 1))
        + generator.standard_normal((len(truth), dim)) * 1.0
        + 5
    )
    names = tuple(str(row) for row in range(len(truth)))
    concepts = tuple(f"c{column}" for column in range(classes))
    data = TrainingSet(
        "s.v1", concepts, names, features.astype(np.float32), names, np.eye(classes, dtype=np.float32)[truth]
    )
    return data, TrainOptions(
        "multi_class", tier="kernel" if tier == "kernel" else "linear" if tier == "linear" else "auto"
    )


def test_fit_takes_the_kernel_tier_when_it_earns_its_place() -> None:
    auto = fit(*of_classes(30, 4, 24, "auto"))
    linear = fit(*of_classes(30, 4, 24, "linear"))
    assert linear.head.kernel is None
    assert auto.head.kernel is not None
    assert auto.evaluation.accuracy is not None
    assert linear.evaluation.accuracy is not None
    assert auto.evaluation.accuracy >= linear.evaluation.accuracy + 0.01


def test_similarities_hardly_count_when_they_tell_nothing_and_pictures_are_many() -> None:
    generator = np.random.default_rng(0)
    classes = np.arange(2000) % 40
    linear = generator.standard_normal((2000, 40)) + 3 * np.eye(40)[classes]
    factor, _ = mixed(linear, generator.standard_normal((2000, 40)), 10.0, classes, many=True)
    assert factor == pytest.approx(0.3)


def test_kernel_head_gives_the_same_scores_when_saved_and_loaded() -> None:
    data, options = of_classes(30, 4, 24, "kernel")
    head = fit(data, options).head
    again = load(save(head))
    assert again.tier == "kernel"
    assert save(again) == save(head)
    np.testing.assert_array_equal(again.scores(data.features), head.scores(data.features))


@pytest.mark.parametrize("rows", [1100])
def test_kernel_head_stays_small_when_pictures_are_many(rows: int) -> None:
    data, options = of_classes(rows // 4, 4, 2800, "kernel")
    head = fit(data, options).head
    assert head.kernel is not None
    assert len(head.kernel.landmarks) == min(rows, most_landmarks(head.dim, 4))
    assert len(save(head)) < 6_200_000
    assert (head.scores(data.features).argmax(axis=1) == np.repeat(np.arange(4), rows // 4)).mean() > 0.9


@pytest.mark.parametrize("dim", [1, 60, 384, 1280])
def test_kernel_heads_are_fitted_in_bounded_memory_when_vectors_are_short(dim: int) -> None:
    # A head of 6 MB would hold 41,666 pictures of 60 numbers; what they have in common takes 14 GB, several times.
    assert most_landmarks(dim, 6) > 1000
    assert 8 * most_landmarks(dim, 6) ** 2 <= 1 << 27


def test_transforms_keep_directions_and_signs_when_applied() -> None:
    features = np.array([[4.0, -9.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(transformed(features, "root")[0], np.array([2, -3, 0]) / np.sqrt(13), rtol=1e-6)
    np.testing.assert_allclose(transformed(features, "unit")[0], np.array([4, -9, 0]) / np.sqrt(97), rtol=1e-6)
    assert (transformed(features, "root")[1] == 0).all()
    assert features[0, 0] == 4.0


def test_head_refuses_when_its_kernel_does_not_fit() -> None:
    data, options = of_classes(5, 2, 6, "linear")
    head = fit(data, options).head
    good = KernelPart(np.zeros((3, 6), np.float32), np.zeros((3, 2), np.float32), 1.0)
    for bad in (
        KernelPart(good.landmarks[:, :5], good.weights, 1.0),
        KernelPart(good.landmarks, good.weights[:2], 1.0),
        KernelPart(good.landmarks, good.weights, 0.0),
        KernelPart(good.landmarks, good.weights * np.float32(np.nan), 1.0),
    ):
        with pytest.raises(HeadError, match="kernel"):
            Head(head.type, head.space, head.concepts, head.weights, head.bias, head.thresholds, kernel=bad)


def test_unfamiliar_tells_outsiders_when_it_has_never_seen_any() -> None:
    generator = np.random.default_rng(3)
    plane = generator.standard_normal((6, 64))
    # Everything that was seen lies near one plane of few dimensions; outsiders do not.
    seen, new = (generator.standard_normal((200, 6)) @ plane + generator.standard_normal((200, 64)) * 0.3 for _ in "ab")
    outsiders = generator.standard_normal((200, 64)) * 2.5
    names = tuple(str(row) for row in range(200))
    labels = np.eye(2, dtype=np.float32)[np.arange(200) % 2]
    head = fit(
        TrainingSet("s.v1", ("a", "b"), names, seen.astype(np.float32), names, labels), TrainOptions("multi_class")
    ).head
    again = load(save(head))
    scores, others = again.unfamiliar(new.astype(np.float32)), again.unfamiliar(outsiders.astype(np.float32))
    assert scores is not None
    assert others is not None
    assert (scores > 0.5).mean() < 0.15
    assert (others > 0.5).mean() > 0.9
    assert 0 <= scores.min() <= others.max() <= 1


def test_head_of_old_loads_and_scores_when_it_knows_no_transform() -> None:
    random = np.random.default_rng(0)
    tensors = {
        "weights": random.standard_normal((8, 2)).astype(np.float32),
        "bias": np.array([0.1, -0.1], np.float32),
        "thresholds": np.full(2, 0.5, np.float32),
    }
    metadata = {"format": 1, "type": "multi_label", "space": "s.v1", "concepts": ["a", "b"], "value_range": None}
    head = load(safetensors.numpy.save(tensors, metadata={"lensmith_head": json.dumps(metadata)}))
    features = random.standard_normal((3, 8)).astype(np.float32)
    expected = 1 / (1 + np.exp(-(features @ tensors["weights"] + tensors["bias"])))
    np.testing.assert_allclose(head.scores(features), expected, rtol=1e-5)
    assert head.unfamiliar(features) is None
    assert head.tier == "linear"


@pytest.mark.parametrize("aim", [ThresholdAim(least_precision=0.95), ThresholdAim(least_recall=0.95)])
def test_thresholds_keep_what_was_asked_for_when_chosen(aim: ThresholdAim) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(2000) < 0.3
    scores = (1 / (1 + np.exp(-(truth * 2.0 - 1 + generator.standard_normal(2000))))).astype(np.float32)
    decisions = Decisions(scores[:, None], np.zeros(2000, np.int64), labels=truth[:, None].astype(np.float32))
    count = binary(truth, scores >= thresholds_of(decisions, aim)[0])
    if aim.least_precision is not None:
        assert count.precision >= 0.95
        assert count.recall > 0.1
    else:
        assert count.recall >= 0.95
        assert count.precision > 0.3


@pytest.mark.parametrize("aim", [(0.9, 0.9), (0.0, None), (None, 1.5)])
def test_threshold_aim_refuses_when_it_cannot_be_kept(aim: tuple[float | None, float | None]) -> None:
    with pytest.raises(TrainingError, match="precision or a recall"):
        ThresholdAim(*aim)


def test_groups_find_near_copies_when_pictures_are_many() -> None:
    generator = np.random.default_rng(0)
    originals = generator.standard_normal((9000, 128)).astype(np.float32)
    copies = originals[:500] + 0.05 * generator.standard_normal((500, 128)).astype(np.float32)
    features = np.concatenate([originals, copies])
    groups = groups_of(features, [str(row) for row in range(9500)])
    assert (groups[9000:] == groups[:500]).mean() > 0.99
    assert len(np.unique(groups)) == 9500 - (groups[9000:] == groups[:500]).sum()


def test_interval_holds_nine_of_ten_new_values_when_head_measures() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((600, 10)).astype(np.float32)
    targets = (20 + 5 * features[:, 0] + generator.normal(0, 1, 600)).astype(np.float32)
    names = tuple(str(row) for row in range(200))
    data = TrainingSet("s.v1", ("weight",), names, features[:200], names, targets=targets[:200])
    head = load(save(fit(data, TrainOptions("regression", value_range=(0, 50))).head))
    assert head.interval is not None
    within = np.abs(head.scores(features[200:])[:, 0] - targets[200:]) <= head.interval
    assert 0.84 < within.mean() < 0.97


@pytest.mark.parametrize("count", [3, 6, 16])
def test_errors_are_as_large_and_as_often_within_the_interval_as_said_when_numbers_are_few(count: int) -> None:
    said, found, within = [], [], []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        features = np.abs(generator.standard_normal((400, 32))).astype(np.float32)
        targets = (features[:, 0] + generator.normal(0, 1, 400)).astype(np.float32)
        names = tuple(map(str, range(count)))
        data = TrainingSet("s.v1", ("weight",), names, features[:count], names, targets=targets[:count])
        fitted = fit(data, TrainOptions("regression", value_range=(-99, 99)))
        errors = np.abs(fitted.head.scores(features[count:])[:, 0] - targets[count:])
        said.append(fitted.evaluation.mean_absolute_error)
        found.append(errors.mean())
        within.append((errors <= fitted.head.interval).mean())
    assert np.mean(said) > 0.93 * np.mean(found)
    assert 0.84 < np.mean(within) < 0.95


def test_numbers_are_told_apart_when_they_are_as_large_as_single_precision_counts_in_ones() -> None:
    middle, generator = 1.6e7, np.random.default_rng(0)
    features = np.abs(generator.standard_normal((300, 64))).astype(np.float32)
    targets = np.rint(features @ generator.standard_normal(64))
    rows = np.arange(300)
    fitted = fit_numbers(features, (middle + targets).astype(np.float32), rows, rows % 5, seed=0, step=lambda _: None)
    errors = fitted.values[:, 0].astype(np.float64) - middle - targets
    assert (errors**2).mean() < 0.02 * targets.var()


def test_ridge_says_of_a_picture_what_a_fit_without_it_says_when_numbers_are_measured() -> None:
    generator = np.random.default_rng(3)
    features = generator.random((140, 40), dtype=np.float32)
    targets = features[:, 0] * 2 + features[:, 1]
    rows = np.arange(140)
    wanted = (targets - targets.mean())[:, None].astype(np.float64)
    fitted = fit_numbers(features, targets, rows, rows, seed=0, step=lambda _: None)
    inputs = transformed(features, fitted.transform).astype(np.float64)
    unit = ((inputs - inputs.mean(axis=0)) ** 2).sum() / len(inputs)
    for row in (0, 11, 139):
        rest = rows != row
        middle = inputs[rest].mean(axis=0)
        centred = inputs[rest] - middle
        gram = centred.T @ centred + fitted.shrinkage * unit * np.eye(40)
        weights = np.linalg.solve(gram, centred.T @ (wanted[rest] - wanted[rest].mean()))
        value = (inputs[row] - middle) @ weights + targets[rest].mean()
        assert fitted.values[row, 0] == pytest.approx(float(value[0]), abs=2e-4)


def test_labels_are_told_apart_when_each_picture_is_judged_for_other_concepts() -> None:
    generator = np.random.default_rng(4)
    truth = (generator.random((240, 60)) < 0.3).astype(np.float32)
    features = truth @ generator.standard_normal((60, 96)) + 0.5 * generator.standard_normal((240, 96))
    labels = truth.copy()
    labels[generator.random(labels.shape) < 0.5] = np.nan
    rows = np.arange(240)
    fitted = fit_labels(features.astype(np.float32), labels, rows, rows % 5, seed=0, step=lambda _: None)
    held_out = 1 / (1 + np.exp(-fitted.values))
    known = np.isfinite(labels)
    # Also where nobody judged, which no fit has seen.
    assert ((held_out > 0.5) == (truth == 1))[~known].mean() > 0.85
    assert abs(held_out[known].mean() - labels[known].mean()) < 0.03


def test_labels_stay_finite_when_a_concept_has_one_side_only() -> None:
    features = np.random.default_rng(5).random((12, 8), dtype=np.float32)
    labels = np.full((12, 3), np.nan, np.float32)
    labels[:, 0] = np.arange(12) % 2
    labels[0, 1], labels[1:3, 2] = 1, 0
    rows = np.arange(12)
    fitted = fit_labels(features, labels, rows, rows % 3, seed=0, step=lambda _: None)
    assert np.isfinite(fitted.values).all()
    assert np.isfinite(fitted.weights).all()
    assert (fitted.values[:, 1] > fitted.values[:, 2]).all()


def test_pictures_that_nobody_judged_count_as_negatives_when_that_foretells_what_is_known() -> None:
    random = np.random.default_rng(7)
    means = random.normal(0, 1.0, (6, 40))
    classes = np.repeat(np.arange(6), 40)
    features = (means[classes] + random.normal(0, 2.0, (240, 40))).astype(np.float32)
    truth = np.eye(6, dtype=np.float32)[classes]
    labels = truth.copy()
    labels[(truth == 0) & (random.random(truth.shape) < 0.9)] = np.nan
    names = tuple(str(row) for row in range(240))
    data = TrainingSet("s.v1", tuple("abcdef"), names, features, names, labels)
    head = fit(data, TrainOptions("multi_label")).head
    new = np.repeat(np.arange(6), 100)
    scores = head.scores((means[new] + random.normal(0, 2.0, (600, 40))).astype(np.float32))
    # The few known negatives alone teach it 0.80 of them.
    assert (scores.argmax(axis=1) == new).mean() > 0.84


def test_landmarks_have_coordinates_when_rounding_is_all_that_keeps_them_apart() -> None:
    noise = 1e-3 * np.random.default_rng(0).standard_normal((60, 60))
    root = Similarities(np.zeros((60, 4), np.float32), 1.0, np.ones((60, 60)) + noise + noise.T).root
    assert np.isfinite(root).all()
    np.testing.assert_allclose(root @ root.T, np.ones((60, 60)), atol=0.2)
