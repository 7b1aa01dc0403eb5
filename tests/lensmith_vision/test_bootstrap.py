"""Intervals against the plain bootstrap, and scores behind an evaluation through their file."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith_vision import metrics, out_of_fold
from lensmith_vision.bootstrap import Resamples, interval_of, rank_intervals
from lensmith_vision.errors import VisionError
from lensmith_vision.evaluation import Evaluation
from lensmith_vision.figures import Cells, count_intervals
from lensmith_vision.heads import Head
from lensmith_vision.out_of_fold import Outline, OutOfFoldPredictions
from lensmith_vision.report import Decisions, ThresholdAim, evaluate


def _scored(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Softmax scores that are right more often than not, and labels."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, width, rows)
    logits = random.standard_normal((rows, width)).astype(np.float32)
    logits[np.arange(rows), classes] += 2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores.astype(np.float32), np.eye(width, dtype=np.float32)[classes]


def _head(type_: str, width: int) -> Head:
    concepts = tuple(f"c{column}" for column in range(width))
    half = np.full(width, 0.5, np.float32)
    return Head(type_, "space", concepts, np.zeros((4, width), np.float32), np.zeros(width, np.float32), half)


def test_intervals_are_those_of_drawing_pictures_again_and_again_when_pictures_differ() -> None:
    scores, labels = _scored(300, 4)
    truth, own = labels[:, 0] == 1, scores[:, 0]
    random = np.random.default_rng(1)
    drawn = [random.integers(0, 300, 300) for _ in range(2000)]
    wanted = {
        "roc_auc": np.quantile([metrics.roc_auc(truth[rows], own[rows]) for rows in drawn], [0.025, 0.975]),
        "average_precision": np.quantile(
            [metrics.average_precision(truth[rows], own[rows]) for rows in drawn], [0.025, 0.975]
        ),
    }
    # Beside a concept that nothing is known of.
    rankings = [metrics.Ranking.of(truth, own), metrics.Ranking.of(np.zeros(300, np.bool_), own)]
    found, nothing = rank_intervals(rankings, Resamples(np.arange(300)))
    assert (nothing.roc_auc, nothing.average_precision) == (None, None)
    assert found.roc_auc == pytest.approx(wanted["roc_auc"], abs=0.02)
    assert found.average_precision == pytest.approx(wanted["average_precision"], abs=0.03)
    accurate = [(scores[rows].argmax(axis=1) == labels[rows].argmax(axis=1)).mean() for rows in drawn]
    decisions = Decisions(scores, np.arange(300) % 5, labels=labels)
    evaluation = evaluate(_head("multi_class", 4), decisions, 0.1, ThresholdAim())
    assert evaluation.intervals["accuracy"] == pytest.approx(np.quantile(accurate, [0.025, 0.975]), abs=0.015)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_figures_are_those_of_scikit_learn_when_it_is_there() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = _scored(400, 5)
    evaluation = evaluate(
        _head("multi_class", 5), Decisions(scores, np.arange(400) % 5, labels=labels), 0.1, ThresholdAim()
    )
    actual, taken = labels.argmax(axis=1), scores.argmax(axis=1)
    for name, average in (("macro", "macro"), ("micro", "micro")):
        told = sklearn.precision_recall_fscore_support(actual, taken, average=average)[:3]
        mine = [getattr(evaluation, f"{name}_{figure}") for figure in ("precision", "recall", "f1")]
        assert mine == pytest.approx(told)
    assert evaluation.macro_roc_auc == pytest.approx(sklearn.roc_auc_score(labels, scores, average="macro"))
    assert evaluation.macro_average_precision == pytest.approx(sklearn.average_precision_score(labels, scores))
    assert evaluation.accuracy == pytest.approx(sklearn.accuracy_score(actual, taken))


def test_intervals_are_wider_when_pictures_are_copies_of_each_other() -> None:
    scores, labels = _scored(60, 3)
    many, groups = np.repeat(np.arange(60), 5), np.repeat(np.arange(60), 5)

    def judged(groups: np.ndarray | None) -> Evaluation:
        decisions = Decisions(scores[many], np.arange(300) % 5, labels=labels[many], groups=groups)
        return evaluate(_head("multi_class", 3), decisions, 0.1, ThresholdAim())

    plain, grouped = judged(None), judged(groups)
    assert plain.accuracy == grouped.accuracy

    def width(evaluation: Evaluation) -> float:
        low, high = evaluation.intervals["accuracy"]
        return high - low

    assert width(grouped) > 1.7 * width(plain)


def test_ten_right_of_ten_do_not_promise_that_all_will_be() -> None:
    assert interval_of(np.ones(200), 10) == (pytest.approx(0.6915, abs=1e-3), 1.0)
    assert interval_of(np.full(200, np.nan)) is None


def test_means_over_concepts_promise_no_more_than_their_pictures_when_all_are_right() -> None:
    classes = np.arange(20) % 4
    whole = count_intervals(Cells.of_classes(classes, classes, 4), Resamples(np.arange(20))).whole
    assert whole == dict.fromkeys(whole, (pytest.approx(0.025 ** (1 / 20)), 1.0))


@pytest.mark.parametrize("positives", [1, 2, 5])
def test_the_area_under_roc_lies_in_its_interval_when_positives_are_few(positives: int) -> None:
    random, truth = np.random.default_rng(0), np.arange(100) < positives
    # Half the width of a bell between two of them: 64 of 100 pairs are in order.
    drawn = [(random.standard_normal(100) + 0.5 * truth).astype(np.float32) for _ in range(200)]
    rankings = [metrics.Ranking.of(truth, scores) for scores in drawn]
    found = [one.roc_auc for one in rank_intervals(rankings, Resamples(np.arange(100)))]
    assert np.mean([low <= 0.638 <= high for low, high in found]) > 0.9


def test_nothing_right_of_a_few_does_not_promise_that_nothing_will_be() -> None:
    truth, scores = np.asarray([True, True, False, False]), np.asarray([0.1, 0.2, 0.3, 0.4], np.float32)
    (found,) = rank_intervals([metrics.Ranking.of(truth, scores)], Resamples(np.arange(4)))
    assert found.roc_auc == (0.0, pytest.approx(1 - 0.025**0.5))


def test_two_right_of_two_promise_as_much_as_two_can() -> None:
    decisions = Decisions(np.eye(2, dtype=np.float32), np.arange(2), classes=np.arange(2))
    evaluation = evaluate(_head("multi_class", 2), decisions, 0.1, ThresholdAim())
    assert evaluation.intervals["accuracy"] == (pytest.approx(0.025**0.5), 1.0)


def _predictions(rows: int, width: int, type_: str = "multi_class") -> OutOfFoldPredictions:
    scores, labels = _scored(rows, width)
    return OutOfFoldPredictions(
        type=type_,
        method="out_of_fold",
        ids=tuple(f"input-{row}" for row in range(rows)),
        concepts=tuple(f"c{column}" for column in range(width)),
        scores=scores,
        folds=np.arange(rows) % 5,
        groups=np.arange(rows) // 2,
        labels=labels,
    )


def test_scores_come_back_as_they_were_when_the_set_is_small() -> None:
    one = _predictions(50, 4, "multi_label")
    one.labels[3, 2] = np.nan
    back = out_of_fold.load(out_of_fold.save(one))
    assert (back.ids, back.concepts, back.evaluated) == (one.ids, one.concepts, 50)
    np.testing.assert_array_equal(back.scores, one.scores)
    np.testing.assert_array_equal(back.labels, one.labels)
    np.testing.assert_array_equal(back.folds, one.folds)
    np.testing.assert_array_equal(back.groups, one.groups)


def test_what_matters_is_kept_when_the_set_is_large() -> None:
    one = _predictions(20_000, 300)
    data = out_of_fold.save(one)
    assert len(data) < 16e6
    back = out_of_fold.load(data)
    np.testing.assert_allclose(back.scores[one.labels == 1], one.scores[one.labels == 1], atol=1e-4)
    kept = one.scores > back.floor + 1e-4
    np.testing.assert_allclose(back.scores[kept], one.scores[kept], atol=1e-4)
    assert (back.scores.max(axis=1) > one.scores.max(axis=1) - 1e-4).all()
    assert out_of_fold.outline(data) == Outline("multi_class", one.concepts)
    for bad in (
        data[:-4],
        data.replace(b'"rows\\": 20000', b'"rows\\": 20001'),
        data.replace(b"input-3\n", b"input-4\n"),
    ):
        with pytest.raises(VisionError, match="out-of-fold"):
            out_of_fold.outline(bad)


def test_damaged_scores_are_refused() -> None:
    data = out_of_fold.save(_predictions(20, 3))
    assert out_of_fold.outline(data).concepts == ("c0", "c1", "c2")
    for bad in (
        b"",
        data[:-4],
        data.replace(b'"rows\\": 20', b'"rows\\": 21'),
        data.replace(b"input-3\n", b"input-4\n"),
    ):
        for read in (out_of_fold.load, out_of_fold.outline):
            with pytest.raises(VisionError) as caught:
                read(bad)
            assert caught.value.reason == "OUT_OF_FOLD_INVALID"
