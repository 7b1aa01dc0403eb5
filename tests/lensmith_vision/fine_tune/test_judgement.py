"""The head stays unless the network is surely better on the same held-out pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensmith_vision.familiarity import Familiarity
from lensmith_vision.fine_tune.judgement import BETTER, NOT_BETTER, judge
from lensmith_vision.fine_tune.outcome import NetworkResult
from lensmith_vision.heads import load, save
from lensmith_vision.report import ThresholdAim
from lensmith_vision.training import Fitted, TrainingSet, TrainOptions, fit

ROWS, DIM = 90, 8


def _before(kind: str) -> Fitted:
    generator = np.random.default_rng(0)
    truth = np.arange(ROWS) % 3
    features = generator.normal(size=(ROWS, DIM)).astype(np.float32) + np.eye(3, DIM)[truth].astype(np.float32)
    ids = tuple(f"{row:03}" for row in range(ROWS))
    labels, targets, concepts = np.eye(3, dtype=np.float32)[truth], None, ("a", "b", "c")
    if kind == "regression":
        labels, targets, concepts = None, truth.astype(np.float32), ("a",)
    return fit(TrainingSet("base", concepts, ids, features, ids, labels, targets), TrainOptions(kind))


def _result(before: Fitted, sharpness: float) -> NetworkResult:
    """What a network that knows the truth more or less sharply says about two folds."""
    known = before.out_of_fold
    rows = np.flatnonzero(known.folds < 2)
    truth = (known.labels if known.labels is not None else known.targets[:, None])[rows]
    noise = np.random.default_rng(1).normal(size=truth.shape)
    logits = truth + noise / 20 if known.labels is None and sharpness else sharpness * (truth - 0.5) + noise
    width = truth.shape[1]
    familiarity = Familiarity(np.zeros(4, np.float32), np.zeros((1, 4), np.float32), 1.0, 2.0)
    kernel, bias = np.ones((4, width), np.float32), np.zeros(width, np.float32)
    return NetworkResult(rows, logits.astype(np.float32), kernel, bias, familiarity, (3, 4))


@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_network_is_kept_when_it_is_surely_better(kind: str) -> None:
    before = _before(kind)
    result = _result(before, 8.0)
    rows = np.arange(ROWS)
    judged = judge(before, result, rows, "own-space", ThresholdAim(), rows)
    assert judged.kept
    assert judged.pictures == len(result.rows)
    head = load(save(judged.fitted.head))
    assert (head.space, head.dim, head.concepts) == ("own-space", 4, before.head.concepts)
    assert judged.fitted.out_of_fold.ids == tuple(before.out_of_fold.ids[row] for row in result.rows)
    assert judged.fitted.evaluation.input_count == len(result.rows)
    assert [finding.reason for finding in judged.fitted.findings][-1] == BETTER
    if kind == "multi_class":
        assert judged.fitted.evaluation.accuracy > before.evaluation.accuracy
    if kind == "regression":
        assert 0 < head.interval < before.head.interval


@pytest.mark.parametrize("kind", ["multi_class", "multi_label", "regression"])
def test_head_is_kept_and_said_so_when_the_network_is_no_better(kind: str) -> None:
    before = _before(kind)
    rows = np.arange(ROWS)
    judged = judge(before, _result(before, 0.0), rows, "own-space", ThresholdAim(), rows)
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
    result = replace(_result(before, 8.0), rows=rows, logits=logits.astype(np.float32))
    judged = judge(before, result, np.arange(ROWS), "own", ThresholdAim(), np.arange(ROWS))
    assert judged.gain > 0.01
    assert not judged.kept
