"""The head stays unless the network is surely better on the same held-out pictures."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.familiarity import Familiarity
from lensmith_vision.fine_tune.job import TESTED
from lensmith_vision.fine_tune.judgement import BETTER, NOT_BETTER, judge
from lensmith_vision.fine_tune.outcome import NetworkResult
from lensmith_vision.fine_tune.rival import Rival, rival_of
from lensmith_vision.heads import load, save
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.report import ThresholdAim
from lensmith_vision.training import Fitted, TrainingSet, TrainOptions, fit

ROWS, DIM = 90, 8


def _before(kind: str) -> Fitted:
    return fit(_data(kind), TrainOptions(kind))


def _data(kind: str) -> TrainingSet:
    generator = np.random.default_rng(0)
    truth = np.arange(ROWS) % 3
    features = generator.normal(size=(ROWS, DIM)).astype(np.float32) + np.eye(3, DIM)[truth].astype(np.float32)
    ids = tuple(f"{row:03}" for row in range(ROWS))
    labels, targets, concepts = np.eye(3, dtype=np.float32)[truth], None, ("a", "b", "c")
    if kind == "regression":
        labels, targets, concepts = None, truth.astype(np.float32), ("a",)
    if kind == "multi_class":
        return TrainingSet("base", concepts, ids, features, ids, shown=truth)
    return TrainingSet("base", concepts, ids, features, ids, labels, targets)


def _result(known: OutOfFoldPredictions, sharpness: float) -> NetworkResult:
    """What a network that knows the truth more or less sharply says about two folds, and about tests."""
    rows, tested = (np.flatnonzero(chosen) for chosen in ((known.folds >= 0) & (known.folds < 2), known.folds < 0))
    truth = known.labels if known.labels is not None else known.targets[:, None]
    noise = np.random.default_rng(1).normal(size=truth.shape)
    logits = truth + noise / 20 if known.labels is None and sharpness else sharpness * (truth - 0.5) + noise
    logits = logits.astype(np.float32)
    width = truth.shape[1]
    familiarity = Familiarity(np.zeros(4, np.float32), np.zeros((1, 4), np.float32), 1.0, 2.0)
    kernel, bias = np.ones((4, width), np.float32), np.zeros(width, np.float32)
    return NetworkResult(rows, logits[rows], kernel, bias, familiarity, (3, 4), tested, logits[tested])


@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_network_is_kept_when_it_is_surely_better(kind: str) -> None:
    before = _before(kind)
    result = _result(before.out_of_fold, 8.0)
    rows = np.arange(ROWS)
    judged = judge(Rival(before, before.out_of_fold), result, rows, "own-space", ThresholdAim(), rows)
    assert judged.kept
    assert judged.pictures == len(result.rows)
    head = load(save(judged.fitted.head))
    assert (head.space, head.dim, head.concepts) == ("own-space", 4, before.head.concepts)
    assert judged.fitted.out_of_fold.ids == tuple(before.out_of_fold.ids[row] for row in result.rows)
    assert judged.fitted.evaluation.input_count == len(result.rows)
    assert [finding.reason for finding in judged.fitted.findings][-1] == BETTER
    if kind == "multi_class":
        assert judged.fitted.evaluation.accuracy > before.evaluation.accuracy
        # Told by what it was chosen, too: it may be right less often.
        (chance,) = re.findall(r"gives what is true a chance of ([\d.]+)%", judged.fitted.findings[-1].message)
        right = (judged.fitted.out_of_fold.scores * judged.fitted.out_of_fold.labels).sum(axis=1).mean()
        assert float(chance) == pytest.approx(100 * right, abs=0.06)
    if kind == "regression":
        assert 0 < head.interval < before.head.interval


def test_head_is_kept_when_the_network_is_better_on_one_of_two_scenes_only() -> None:
    before = _before("multi_class")
    rows, known = np.arange(ROWS), before.out_of_fold
    better = _result(known, 8.0)
    scene = np.arange(len(better.rows)) % 4 == 0
    result = replace(better, logits=np.where(scene[:, None], better.logits, np.log(known.scores[better.rows])))
    assert judge(Rival(before, known), result, rows, "own-space", ThresholdAim(), rows).kept
    # However often either was photographed.
    groups = np.full(ROWS, 1)
    groups[better.rows[scene]] = 0
    assert not judge(Rival(before, known), result, rows, "own-space", ThresholdAim(), groups).kept


@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_head_is_kept_and_said_so_when_the_network_is_no_better(kind: str) -> None:
    before = _before(kind)
    rows = np.arange(ROWS)
    rival = Rival(before, before.out_of_fold)
    judged = judge(rival, _result(rival.known, 0.0), rows, "own-space", ThresholdAim(), rows)
    assert not judged.kept
    assert judged.fitted.head is before.head
    assert judged.fitted.evaluation is before.evaluation
    finding = judged.fitted.findings[-1]
    assert finding.reason == NOT_BETTER
    assert "the head was kept" in finding.message


def test_head_is_kept_when_the_gain_may_be_chance() -> None:
    before = _before("multi_class")
    # Too few to calibrate on, so scores stay as they are: one picture is won and another, nearly as much, is lost.
    rows = np.flatnonzero(before.out_of_fold.folds < 2)[:12]
    scores, labels = before.out_of_fold.scores[rows], before.out_of_fold.labels[rows]
    right = (scores * labels).sum(axis=1)
    won = int(right.argmin())
    lost = int(np.abs(right - (1 - right[won] - 0.15)).argmin())
    logits = np.log(np.maximum(scores, 1e-6))
    logits[won], logits[lost] = 20 * labels[won], -20 * labels[lost]
    result = replace(_result(before.out_of_fold, 8.0), rows=rows, logits=logits.astype(np.float32))
    judged = judge(Rival(before, before.out_of_fold), result, np.arange(ROWS), "own", ThresholdAim(), np.arange(ROWS))
    assert judged.gain > 0.01
    assert not judged.kept


@pytest.mark.parametrize("method", ["test_set", "split"])
@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_tests_make_figures_and_no_choice_when_there_are_some(kind: str, method: str) -> None:
    data, options = _data(kind), TrainOptions(kind)
    marked = np.arange(ROWS) % 5 == 0 if method == "test_set" else np.zeros(ROWS, np.bool_)
    fitted = fit_and_evaluate(data, marked, options, method)
    rival = rival_of(data, fitted, options)
    asked = set(fitted.out_of_fold.ids)
    in_no_fold = {uid for uid, fold in zip(rival.known.ids, rival.known.folds, strict=True) if fold == TESTED}
    assert in_no_fold == asked
    assert len(rival.known.ids) == ROWS
    knowing, guessing = _result(rival.known, 8.0), _result(rival.known, 0.0)
    rows = np.arange(ROWS)

    # Right about everything that it is chosen by, it is kept, however wrong about the tests; and it is told so.
    result = replace(knowing, tested_logits=guessing.tested_logits)
    kept = judge(rival, result, rows, "own-space", ThresholdAim(), rows)
    assert kept.kept
    assert (kept.pictures, kept.fitted.input_count) == (len(knowing.rows), ROWS if method == "split" else ROWS - 18)
    assert kept.fitted.evaluation.evaluation_method == method
    assert kept.fitted.out_of_fold.ids == tuple(rival.known.ids[row] for row in knowing.tested)
    assert set(kept.fitted.out_of_fold.ids) == asked
    figure = {"multi_class": "accuracy", "multi_label": "macro_roc_auc", "regression": "r2"}[kind]
    better = judge(rival, knowing, rows, "own-space", ThresholdAim(), rows).fitted
    assert getattr(kept.fitted.evaluation, figure) < getattr(better.evaluation, figure)
    np.testing.assert_array_equal(kept.fitted.head.thresholds, better.head.thresholds)
    assert kept.fitted.head.interval == better.head.interval

    # Right about nothing but the tests, it is not, and the figures are those of the head on the same pictures.
    lost = judge(rival, replace(guessing, tested_logits=knowing.tested_logits), rows, "own-space", ThresholdAim(), rows)
    assert not lost.kept
    assert lost.fitted.evaluation is fitted.evaluation
    assert f"on the images of the evaluation it {'is' if kind != 'multi_label' else 'gives'}" in (
        lost.fitted.findings[-1].message
    )
