"""Whether a fine-tuned network is better than the head on the same held-out pictures. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.fine_tune.job import Floats, Ints
from lensmith_vision.fine_tune.outcome import NetworkResult
from lensmith_vision.heads import INTERVAL_COVERAGE, Head
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.preflight import Finding, Severity
from lensmith_vision.report import Decisions, ThresholdAim, evaluate, fit_temperature, thresholds_of
from lensmith_vision.training import Fitted

__all__ = ["BETTER", "NOT_BETTER", "Judgement", "judge"]

BETTER, NOT_BETTER = "FINE_TUNED", "FINE_TUNING_NOT_BETTER"
"""Reasons of the finding that says what came out."""

_GAIN = 0.01
"""What a network must win: part of the chance to be right, or of the mean error. It costs a pass of its own for every
picture, where heads share one."""

_SURE = 1.64
"""Standard errors of its gain that it must win: chance alone gives as much to one network in twenty."""


@dataclass(frozen=True)
class Judgement:
    """What comes of a fine-tuning.

    Attributes:
        fitted: The head on the network, or the head that was there before, with a finding that says why.
        kept: Whether it is the network.
        gain: What the network wins: chance to be right, or part of the mean error.
        pictures: Held-out pictures that both were asked about.
    """

    fitted: Fitted
    kept: bool
    gain: float
    pictures: int


def judge(before: Fitted, result: NetworkResult, rows: Ints, space: str, aim: ThresholdAim, groups: Ints) -> Judgement:
    """Hold a network against the head that was fitted on the same pictures and folds.

    The network is kept where it wins at least a point, and more than chance gives to one in twenty: its mean gain over
    the pictures must exceed 1.64 standard errors of that mean.

    Args:
        before: The head on unchanged features, with its scores.
        result: What fine-tuning came to.
        rows: Row of each picture of the job in the scores of `before`.
        space: Space of the network.
        aim: What thresholds are chosen for.
        groups: Group of near copies of each picture of the job.
    """
    held_out = rows[result.rows]
    known = before.out_of_fold.rows(held_out)
    head, decisions = _head(before.head, result, known, space, aim)
    gains = _goodness(known, decisions.scores) - _goodness(known, known.scores)
    if known.targets is not None:
        gains /= max(float(np.abs(known.scores[:, 0] - known.targets).mean()), 1e-9)
    gain, error = float(gains.mean()), float(gains.std()) / math.sqrt(len(gains))
    if not gain >= max(_GAIN, _SURE * error):
        finding = Finding(NOT_BETTER, Severity.WARNING, _text(known, decisions, kept=False))
        return Judgement(replace(before, findings=(*before.findings, finding)), False, gain, len(gains))
    decisions = replace(decisions, groups=groups[result.rows])
    predictions = replace(known, scores=decisions.scores, evaluated=len(held_out), interval=head.interval)
    finding = Finding(BETTER, Severity.HINT, _text(known, decisions, kept=True))
    fitted = replace(
        before,
        head=head,
        evaluation=evaluate(head, decisions, 0.0, aim),
        out_of_fold=predictions,
        findings=(*before.findings, finding),
        input_count=len(rows),
    )
    return Judgement(fitted, True, gain, len(gains))


def _head(
    before: Head, result: NetworkResult, known: OutOfFoldPredictions, space: str, aim: ThresholdAim
) -> tuple[Head, Decisions]:
    """Make the classifier a head of the network's space, calibrated on the held-out pictures."""
    width = len(before.concepts)
    temperature = 1.0
    if known.labels is not None:
        temperature = fit_temperature(before.type, result.logits, known.labels)
    head = Head(
        before.type,
        space,
        before.concepts,
        (result.kernel / temperature).astype(np.float32),
        (result.bias / temperature).astype(np.float32),
        np.full(width, 0.0 if known.labels is None else 0.5, np.float32),
        before.value_range,
        familiarity=result.familiarity,
    )
    scores = head.activate((result.logits / temperature).astype(np.float32))
    decisions = Decisions(scores, known.folds, labels=known.labels, targets=known.targets)
    if known.targets is None:
        return replace(head, thresholds=thresholds_of(decisions, aim)), decisions
    residuals = np.sort(np.abs(scores[:, 0] - known.targets))
    rank = min(len(residuals), math.ceil((len(residuals) + 1) * INTERVAL_COVERAGE))
    return replace(head, interval=float(residuals[rank - 1])), decisions


def _goodness(known: OutOfFoldPredictions, scores: Floats) -> npt.NDArray[np.float64]:
    """How good scores are, picture by picture: the chance given to what is true, or minus the error of a number."""
    if known.targets is not None:
        errors: npt.NDArray[np.float64] = np.abs(scores[:, 0] - known.targets).astype(np.float64)
        return -errors
    labels = np.asarray(known.labels)
    seen = np.ones(labels.shape, np.bool_) if known.type != "multi_class" else labels == 1
    seen &= np.isfinite(labels)
    right = np.where(labels == 1, scores, 1 - scores).astype(np.float64)
    chances: npt.NDArray[np.float64] = np.where(seen, right, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return chances


def _text(known: OutOfFoldPredictions, decisions: Decisions, *, kept: bool) -> str:
    ours, before, what = _figure(known, decisions.scores), _figure(known, known.scores), f"{len(known.ids)} held-out"
    if known.targets is not None:
        figures = f"is off by {ours:.3g} on average, a head by {before:.3g}, on the same {what} images"
    elif known.type == "multi_class":
        figures = f"is right in {ours:.1%} of {what} images, a head in {before:.1%} of the same"
    else:
        figures = f"gives what is true a chance of {ours:.1%}, a head {before:.1%}, on the same {what} images"
    end = "" if kept else ": that is no sure gain, so the head was kept"
    return f"the fine-tuned network {figures}{end}"


def _figure(known: OutOfFoldPredictions, scores: Floats) -> float:
    if known.targets is not None:
        return float(np.abs(scores[:, 0] - known.targets).mean())
    if known.type == "multi_class":
        return float((scores.argmax(axis=1) == np.asarray(known.labels).argmax(axis=1)).mean())
    return float(_goodness(known, scores).mean())
