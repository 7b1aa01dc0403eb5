"""Training finds what is there, says what is wrong with a set, and judges itself honestly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from lensmith_vision import heads
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import Evaluation
from lensmith_vision.preflight import ConceptCount, Severity, check_counts, has_errors
from lensmith_vision.set_findings import preflight
from lensmith_vision.training import Progress, TrainingSet, TrainOptions, fit

Floats = npt.NDArray[np.float32]


def make_set(
    features: Floats, labels: npt.ArrayLike | None = None, targets: npt.ArrayLike | None = None
) -> TrainingSet:
    table = None if labels is None else np.asarray(labels, np.float32)
    width = 1 if table is None else table.shape[1]
    names = tuple(f"i{row}" for row in range(len(features)))
    return TrainingSet(
        space="plain.v1",
        concepts=tuple(f"c{column}" for column in range(width)),
        ids=names,
        features=features,
        group_ids=names,
        labels=table,
        targets=None if targets is None else np.asarray(targets, np.float32),
    )


def clusters(
    per_class: int, classes: int, dim: int, distance: float, seed: int = 0
) -> tuple[Floats, npt.NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((classes, dim)) * distance / math.sqrt(dim)
    truth = np.repeat(np.arange(classes), per_class)
    features = centres[truth] + generator.standard_normal((len(truth), dim))
    return (features + 3).astype(np.float32), truth


def reasons(data: TrainingSet, type: heads.HeadType, **options: bool) -> set[tuple[str, str | None]]:
    return {(finding.reason, finding.concept) for finding in preflight(data, type, **options)}


def test_fit_finds_the_classes_when_they_are_there() -> None:
    features, truth = clusters(40, 5, 32, distance=6)
    new, new_truth = clusters(200, 5, 32, distance=6)
    result = fit(make_set(features, np.eye(5)[truth]), TrainOptions("multi_class"))
    held_out = float((result.head.scores(new).argmax(axis=1) == new_truth).mean())
    evaluation = result.evaluation
    assert evaluation.accuracy is not None
    assert evaluation.accuracy > 0.9
    assert abs(evaluation.accuracy - held_out) < 0.06
    assert evaluation.expected_calibration_error is not None
    assert evaluation.expected_calibration_error < 0.08
    assert sum(cell.count for cell in evaluation.confusion) == 200
    assert evaluation.method == "5-fold out-of-fold"
    assert result.input_count == 200


def test_fit_claims_nothing_when_labels_are_noise() -> None:
    features, _ = clusters(40, 4, 300, distance=0)
    truth = np.random.default_rng(3).integers(0, 4, len(features))
    result = fit(make_set(features, np.eye(4)[truth]), TrainOptions("multi_class"))
    assert result.evaluation.accuracy is not None
    assert result.evaluation.accuracy < 0.4
    assert result.head.scores(features).max() < 0.9


def test_fit_is_not_surer_than_it_may_be_when_few_pictures_are_right_by_chance() -> None:
    losses = []
    for seed in range(20):
        features, truth = clusters(5, 2, 64, distance=3, seed=seed)
        new, new_truth = clusters(200, 2, 64, distance=3, seed=seed)
        head = fit(make_set(features, np.eye(2)[truth]), TrainOptions("multi_class")).head
        likely = head.scores(new)[np.arange(len(new)), new_truth]
        losses.append(float(-np.log(np.maximum(likely, 1e-12)).mean()))

    # Who says one half of everything loses 0.69.
    assert max(losses) < 0.69


def test_fit_is_not_fooled_when_copies_carry_the_labels() -> None:
    generator = np.random.default_rng(0)
    originals = generator.standard_normal((60, 64))
    truth = generator.integers(0, 2, 60)
    features = np.repeat(originals, 4, axis=0) + generator.normal(0, 0.01, (240, 64))
    result = fit(make_set(features.astype(np.float32), np.eye(2)[np.repeat(truth, 4)]), TrainOptions("multi_class"))
    assert result.evaluation.accuracy is not None
    assert result.evaluation.accuracy < 0.75
    assert result.evaluation.group_count == 60


@pytest.mark.parametrize(("rows", "concepts", "dim"), [(4, 2, 80), (20, 2, 4), (30, 3, 80), (3000, 2, 80)])
@pytest.mark.parametrize("noise", [0, 0.003])
def test_fit_tells_concepts_apart_when_all_pictures_of_each_are_copies_of_one(
    rows: int, concepts: int, dim: int, noise: float
) -> None:
    generator = np.random.default_rng(0)
    truth = np.arange(rows) % concepts
    features = generator.standard_normal((concepts, dim))[truth] + noise * generator.standard_normal((rows, dim))
    data = make_set(features.astype(np.float32), np.eye(concepts)[truth])
    data = replace(data, group_ids=tuple(str(one) for one in truth))
    head = fit(data, TrainOptions("multi_class", tier="linear")).head
    assert (head.scores(data.features).argmax(axis=1) == truth).all()


def test_nothing_is_known_of_a_concept_when_all_its_pictures_are_one_that_is_held_out() -> None:
    features, truth = clusters(30, 3, 32, distance=6)
    copies = truth == 2
    features[copies] = features[copies][0]
    whole = make_set(features, np.eye(3)[truth])
    group_ids = tuple("same" if copy else name for copy, name in zip(copies, whole.ids, strict=True))
    data, options = replace(whole, group_ids=group_ids), TrainOptions("multi_class", tier="linear")
    fitted = fit(data, options)
    # Scored anew, as a very large set would be.
    memory = replace(fitted.memory, pictures=replace(fitted.memory.pictures, scores=None))
    for one in (fitted, fit(data, options, memory=memory)):
        assert [concept.recall for concept in one.evaluation.concepts] == [pytest.approx(1, abs=0.1)] * 2 + [0]


def test_fit_gives_the_same_bytes_when_repeated() -> None:
    features, truth = clusters(20, 3, 16, distance=3)
    data = make_set(features, np.eye(3)[truth])
    first, second = (fit(data, TrainOptions("multi_class", seed=4)) for _ in range(2))
    assert heads.save(first.head) == heads.save(second.head)
    assert first.evaluation == second.evaluation


def test_fit_learns_each_concept_when_labels_overlap_and_some_are_unknown() -> None:
    features, truth = clusters(60, 4, 32, distance=8)
    labels = np.stack([truth < 2, truth % 2 == 0], axis=1).astype(np.float32)
    known = labels.copy()
    known[np.random.default_rng(1).random(labels.shape) < 0.4] = np.nan
    result = fit(make_set(features, known), TrainOptions("multi_label"))
    scores = result.head.scores(features)
    assert ((scores >= result.head.thresholds) == (labels == 1)).mean() > 0.93
    assert result.evaluation.macro_f1 is not None
    assert result.evaluation.macro_f1 > 0.85
    assert [concept.positives for concept in result.evaluation.concepts] == (known == 1).sum(axis=0).tolist()


def test_fit_takes_one_concept_when_it_has_negatives() -> None:
    features, truth = clusters(30, 2, 16, distance=5)
    result = fit(make_set(features, truth[:, None]), TrainOptions("multi_label"))
    assert result.evaluation.macro_f1 is not None
    assert result.evaluation.macro_f1 > 0.85


def test_closed_environment_counts_unlabelled_as_negative_when_chosen() -> None:
    features, truth = clusters(30, 3, 16, distance=6)
    labels = np.where(np.eye(3)[truth] == 1, 1.0, np.nan)
    data = make_set(features, labels)
    assert ("NO_NEGATIVES", None) in reasons(data, "multi_label")
    with pytest.raises(TrainingError) as refused:
        fit(data, TrainOptions("multi_label"))
    assert refused.value.reason == "NO_NEGATIVES"
    result = fit(data, TrainOptions("multi_label", closed_environment=True))
    assert result.evaluation.macro_f1 is not None
    assert result.evaluation.macro_f1 > 0.85
    assert result.evaluation.concepts[0].negatives == 60


def test_fit_measures_when_the_target_is_a_number() -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((150, 40)).astype(np.float32)
    targets = 20 + 5 * features[:, 0] - 3 * features[:, 1] + generator.normal(0, 1, 150)
    result = fit(make_set(features, targets=targets), TrainOptions("regression"))
    assert result.evaluation.r2 is not None
    assert result.evaluation.r2 > 0.85
    assert result.evaluation.accuracy is None
    assert result.head.value_range == (float(np.float32(targets).min()), float(np.float32(targets).max()))
    capped = fit(make_set(features, targets=targets), TrainOptions("regression", value_range=(0, 21)))
    assert capped.head.scores(features * 100).max() == 21


def test_fit_leaves_out_and_says_so_when_images_have_several_or_no_concepts() -> None:
    features, truth = clusters(12, 2, 8, distance=5)
    labels = np.eye(2)[truth]
    labels[0] = [1, 1]
    labels[1] = [0, np.nan]
    result = fit(make_set(features, labels), TrainOptions("multi_class"))
    assert result.left_out == {"i0": "SEVERAL_CONCEPTS", "i1": "NO_CONCEPT"}
    assert result.input_count == 22
    assert {"LEFT_OUT_SEVERAL_CONCEPTS", "LEFT_OUT_NO_CONCEPT"} <= {finding.reason for finding in result.findings}


def test_fit_works_when_each_concept_has_two_images() -> None:
    features, truth = clusters(2, 3, 1280, distance=40)
    result = fit(make_set(features, np.eye(3)[truth]), TrainOptions("multi_class"))
    assert (result.head.scores(features).argmax(axis=1) == truth).all()
    assert result.evaluation.method == "5-fold out-of-fold"
    pair = fit(make_set(features[:4], np.eye(2)[truth[:4]]), TrainOptions("multi_class"))
    assert pair.evaluation.method == "4-fold out-of-fold"


def test_fit_refuses_when_all_images_are_one_picture() -> None:
    data = make_set(np.ones((12, 5), np.float32), np.eye(2)[[0, 1] * 6])
    with pytest.raises(TrainingError) as refused:
        fit(replace(data, group_ids=("same",) * 12), TrainOptions("multi_class"))
    assert refused.value.reason == "TOO_FEW_IMAGES"


@pytest.mark.parametrize("numbers", [[3.0, 4.0], [5.0] * 8, [0.0, 0.0, 0.0, 0.0, 1000.0]])
def test_fit_measures_when_numbers_are_few_or_equal(numbers: list[float]) -> None:
    features = np.random.default_rng(0).standard_normal((len(numbers), 16)).astype(np.float32)
    result = fit(make_set(features, targets=numbers), TrainOptions("regression"))
    scores = result.head.scores(features)
    assert scores.min() >= min(numbers)
    assert scores.max() <= max(numbers)
    assert result.evaluation.mean_absolute_error is not None


def test_fit_stays_finite_when_features_are_constant_or_huge() -> None:
    labels = np.eye(2)[[0, 1] * 6]
    for features in (np.ones((12, 5)), np.full((12, 5), 6e4), np.zeros((12, 5))):
        data = make_set(features.astype(np.float32), labels)
        with np.errstate(all="raise", under="ignore"):
            result = fit(data, TrainOptions("multi_class"))
            scores = result.head.scores(features.astype(np.float32))
        assert scores == pytest.approx(np.full((12, 2), 0.5), abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0]] * 5, ("NO_POSITIVES", "c1")),
        ([[1, 0]] * 5 + [[0, 1]], ("TOO_FEW_IMAGES", "c1")),
        ([[1, 0]] * 5 + [[0, 1]] * 5, ("FEW_IMAGES", "c0")),
        ([[1, 0]] * 12 + [[0, 1]] * 12, ("MORE_IMAGES", "c1")),
        ([[1, 0]] * 61 + [[0, 1]] * 12, ("IMBALANCED", "c1")),
        ([[1, 0]] * 5, ("ONE_CLASS", None)),
    ],
)
def test_preflight_says_what_is_wrong_when_multi_class(
    labels: list[list[int]], expected: tuple[str, str | None]
) -> None:
    features, _ = clusters(len(labels), 1, 8, distance=1)
    assert expected in reasons(make_set(features, labels), "multi_class")


def test_preflight_is_silent_when_all_is_well() -> None:
    features, truth = clusters(25, 3, 8, distance=1)
    assert reasons(make_set(features, np.eye(3)[truth]), "multi_class") == set()


def test_preflight_tells_of_copies_when_their_labels_differ() -> None:
    features, truth = clusters(30, 2, 8, distance=1)
    data = make_set(features, np.eye(2)[truth])
    data = replace(data, group_ids=("x", "x", *data.group_ids[2:58], "y", "x"))
    found = {finding.reason: finding for finding in preflight(data, "multi_class")}
    assert found["DUPLICATE_IMAGES"].severity is Severity.HINT
    assert found["DUPLICATE_IMAGES"].message.startswith("2 images")
    assert found["CONFLICTING_LABELS"].message.startswith("1 image")


def test_check_counts_judges_when_only_counts_are_known() -> None:
    good = [ConceptCount("a", 30, 30), ConceptCount("b", 40, 20)]
    assert check_counts("multi_class", good) == []
    assert check_counts("multi_label", good) == []
    assert has_errors(check_counts("multi_class", good[:1]))
    assert has_errors(check_counts("multi_label", []))
    assert has_errors(check_counts("multi_label", [ConceptCount("a", 30, 0)]))
    assert not has_errors(check_counts("multi_label", [ConceptCount("a", 30, 0)], closed_environment=True, images=60))
    assert not has_errors(check_counts("regression", [ConceptCount("a", numbers=30)]))
    assert has_errors(check_counts("regression", [ConceptCount("a", numbers=1)]))
    assert has_errors(check_counts("regression", good))


def test_many_concepts_are_told_in_one_sentence_when_the_same_is_wrong_with_each() -> None:
    lacking = [ConceptCount(name, 30) for name in "abcdefgh"]
    [found] = check_counts("multi_label", lacking)
    assert found.message.startswith("a, b, c, d, e and 3 others have no negative images: label some images as not")
    assert (found.concept, found.concepts) == (None, tuple("abcdefgh"))
    some = [*lacking[:2], ConceptCount("{}", 30, 30), ConceptCount("none"), ConceptCount("x", 1, 9)]
    told = [finding.message for finding in check_counts("multi_label", some) if finding.severity is Severity.ERROR]
    assert told[:2] == ["no image is labelled with none", "x has one image; at least 2 are needed to train"]
    assert told[2].startswith("a and b have no negative images")
    [closed] = check_counts("multi_label", lacking[:1], closed_environment=True, images=30)
    assert closed.message == "a has no negative images: every image shows it"


def test_refusal_says_what_was_left_out_when_every_picture_shows_two_concepts() -> None:
    labels = np.array([[1, 1, 0]] * 4 + [[0, 0, 1]] * 3, np.float32)
    with pytest.raises(TrainingError) as refused:
        fit(make_set(np.eye(7, dtype=np.float32), labels), TrainOptions("multi_class"))
    assert refused.value.reason == "NO_POSITIVES"
    assert "no image is labelled with any of c0 and c1" in str(refused.value)
    assert "left out: 4 images of several of the model's concepts at once" in str(refused.value)


def test_fit_reports_and_stops_when_asked() -> None:
    features, truth = clusters(20, 3, 16, distance=3)
    data = make_set(features, np.eye(3)[truth])
    seen: list[Progress] = []
    fit(data, TrainOptions("multi_class"), progress=seen.append)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert {progress.stage for progress in seen} == {"evaluating", "fitting"}
    with pytest.raises(TrainingError) as stopped:
        fit(data, TrainOptions("multi_class"), cancelled=lambda: len(seen) > 0)
    assert stopped.value.reason == "TRAINING_CANCELLED"


@pytest.mark.parametrize(
    "change",
    [
        {"features": np.full((4, 2), np.nan, np.float32)},
        {"features": np.zeros((3, 2), np.float32)},
        {"labels": np.full((4, 2), 2, np.float32)},
        {"labels": np.zeros((4, 3), np.float32)},
        {"targets": np.zeros(3, np.float32)},
        {"group_ids": ("a",)},
    ],
)
def test_training_set_refuses_when_parts_do_not_fit(change: dict[str, object]) -> None:
    whole = make_set(np.zeros((4, 2), np.float32), np.zeros((4, 2)))
    with pytest.raises(TrainingError):
        replace(whole, **change)


def test_fit_refuses_when_labels_are_of_the_other_kind() -> None:
    numbers = make_set(np.zeros((4, 2), np.float32), targets=np.zeros(4))
    with pytest.raises(TrainingError):
        fit(numbers, TrainOptions("multi_class"))
    with pytest.raises(TrainingError):
        fit(make_set(np.zeros((4, 2), np.float32), np.zeros((4, 1))), TrainOptions("regression"))


def test_evaluation_survives_when_written_as_json() -> None:
    features, truth = clusters(10, 6, 16, distance=4)
    evaluation = fit(make_set(features, np.eye(6)[truth]), TrainOptions("multi_class")).evaluation
    assert evaluation.top5_accuracy is not None
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert set(evaluation.summary()) == {"accuracy", "macro_f1", "macro_precision", "macro_recall"}
