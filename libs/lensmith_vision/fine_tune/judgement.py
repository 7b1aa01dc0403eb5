"""Whether a fine-tuned network is better than the head on the same held-out pictures. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.fine_tune.job import TESTED, Floats, Ints
from lensmith_vision.fine_tune.outcome import NetworkResult
from lensmith_vision.fine_tune.rival import Rival
from lensmith_vision.heads import Head
from lensmith_vision.numbers import interval_of_errors
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


def judge(rival: Rival, result: NetworkResult, rows: Ints, space: str, aim: ThresholdAim, groups: Ints) -> Judgement:
    """Hold a network against the head that was fitted on the same pictures and folds.

    The network is kept where it wins at least a point, and more than chance gives to one in twenty: its mean gain over
    the pictures must exceed 1.64 standard errors of that mean. Pictures that the version is evaluated on have no say in
    that; whichever is kept, its figures are those on the same ones of them.

    Args:
        rival: The head on unchanged features, with its scores.
        result: What fine-tuning came to.
        rows: Row of each picture of the job in the scores of the rival.
        space: Space of the network.
        aim: What thresholds are chosen for.
        groups: Group of near copies of each picture of the job.
    """
    before = rival.fitted
    held_out = rival.known.rows(rows[result.rows])
    tested = rival.known.rows(rows[result.tested]) if len(result.tested) else None
    network = _network(before.head, result, held_out, space, aim)
    gains = _goodness(held_out, network.decisions.scores) - _goodness(held_out, held_out.scores)
    if held_out.targets is not None:
        gains /= max(float(np.abs(held_out.scores[:, 0] - held_out.targets).mean()), 1e-9)
    gain, error = float(gains.mean()), _error_of_mean(gains, groups[result.rows])
    kept = gain >= max(_GAIN, _SURE * error)
    text = _text(held_out, network.decisions.scores, f"{len(gains)} held-out images")
    if not kept:
        text += ": that is no sure gain, so the head was kept"
    if tested is not None:
        text += f"; on the images of the evaluation it {_text(tested, network.tested, f'{len(tested.ids)} images')}"
    if not kept:
        finding = Finding(NOT_BETTER, Severity.WARNING, f"the fine-tuned network {text}")
        return Judgement(replace(before, findings=(*before.findings, finding)), False, gain, len(gains))
    finding = Finding(BETTER, Severity.HINT, f"the fine-tuned network {text}")
    if tested is None:
        decisions, predictions = replace(network.decisions, groups=groups[result.rows]), held_out
    else:
        decisions, predictions = _of_tests(network, tested, groups[result.tested]), tested
    fitted = replace(
        _as_evaluated(before, network.head, decisions, predictions, aim),
        findings=(*before.findings, finding),
        input_count=_learnt(rival.known.rows(rows)),
    )
    return Judgement(fitted, True, gain, len(gains))


def _error_of_mean(values: npt.NDArray[np.float64], groups: Ints) -> float:
    """Standard error of a mean [n]; near copies, which share a group, say little more than one of them."""
    own = np.unique(groups, return_inverse=True)[1]
    return float(np.linalg.norm(np.bincount(own, weights=values - values.mean()))) / len(values)


def _as_evaluated(
    before: Fitted, head: Head, decisions: Decisions, known: OutOfFoldPredictions, aim: ThresholdAim
) -> Fitted:
    """Put a network's head, and its decisions about the pictures that it is evaluated on, in the place of a head's."""
    predictions = replace(
        known, scores=decisions.scores, folds=decisions.folds, evaluated=len(known.ids), interval=head.interval
    )
    return replace(before, head=head, evaluation=evaluate(head, decisions, 0.0, aim), out_of_fold=predictions)


@dataclass(frozen=True, eq=False)
class _Network:
    """A network as a version would have it.

    Attributes:
        head: For its features, calibrated on the held-out pictures.
        decisions: Its scores of them.
        tested: Its scores [t, c] of pictures to evaluate on that were in no fold.
    """

    head: Head
    decisions: Decisions
    tested: Floats


def _network(
    before: Head, result: NetworkResult, known: OutOfFoldPredictions, space: str, aim: ThresholdAim
) -> _Network:
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
    scores, tested = (
        head.activate((logits / temperature).astype(np.float32)) for logits in (result.logits, result.tested_logits)
    )
    decisions = Decisions(scores, known.folds, labels=known.labels, targets=known.targets)
    if known.targets is None:
        head = replace(head, thresholds=thresholds_of(decisions, aim))
    else:
        head = replace(head, interval=interval_of_errors(np.abs(scores[:, 0] - known.targets)))
    return _Network(head, decisions, tested)


def _of_tests(network: _Network, tested: OutOfFoldPredictions, groups: Ints) -> Decisions:
    """What a network decides about pictures that neither it nor its thresholds have seen."""
    return Decisions(
        network.tested,
        np.zeros(len(groups), np.int64),
        labels=tested.labels,
        targets=tested.targets,
        groups=groups,
        thresholds=network.head.thresholds,
        method=tested.method,
    )


def _learnt(known: OutOfFoldPredictions) -> int:
    """How many pictures of a job the network that is kept has learnt from."""
    return int((known.folds != TESTED).sum()) if known.method == "test_set" else len(known.ids)


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


def _text(known: OutOfFoldPredictions, scores: Floats, images: str) -> str:
    """Say how network and head do on the same pictures, by what they are chosen by, too."""
    ours, before = (abs(float(_goodness(known, some).mean())) for some in (scores, known.scores))
    if known.targets is not None:
        return f"is off by {ours:.3g} on average, a head by {before:.3g}, on the same {images}"
    chances = f"gives what is true a chance of {ours:.1%}, a head {before:.1%}"
    if known.type != "multi_class":
        return f"{chances}, on the same {images}"
    truth = np.asarray(known.labels).argmax(axis=1)
    right, others = (float((some.argmax(axis=1) == truth).mean()) for some in (scores, known.scores))
    return f"is right in {right:.1%} of {images}, a head in {others:.1%} of the same; it {chances}"
