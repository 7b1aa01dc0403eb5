"""Training of heads: labelled features in, a calibrated head and its honest evaluation out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from lensmith_vision.classes import fit_classes
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import Evaluation
from lensmith_vision.familiarity import Familiarity, learn_familiarity, sample_of
from lensmith_vision.heads import Head
from lensmith_vision.held_out_groups import deal_folds, group_copies
from lensmith_vision.labels import fit_labels
from lensmith_vision.numbers import fit_numbers, interval_of_errors
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.preflight import Finding
from lensmith_vision.refit import ClassMemory, Pictures, Refitted, is_large, kept_scores, refit_classes
from lensmith_vision.report import Decisions, evaluate, thresholds_of
from lensmith_vision.ridge import RidgeFit
from lensmith_vision.set_findings import allowed_findings, judged
from lensmith_vision.threads import give_memory_back, in_threads
from lensmith_vision.training_set import TrainingSet, TrainOptions, take_part
from lensmith_vision.transforms import transformed

__all__ = [
    "Fitted",
    "HeadAgain",
    "Progress",
    "TrainOptions",
    "TrainingSet",
    "fit",
    "fit_head_again",
    "predictions_of",
]

_BLOCK = 512


@dataclass(frozen=True)
class Progress:
    """How far a training has come: the part done from 0 to 1, and what is being done."""

    fraction: float
    stage: str


@dataclass(frozen=True)
class Fitted:
    """The outcome of a training.

    Attributes:
        head: Fitted on all pictures that took part.
        evaluation: On pictures that it was not fitted on.
        out_of_fold: The scores behind it, picture by picture.
        findings: What preflight said, warnings and hints only.
        left_out: Reason for each picture that took no part, by its id.
        input_count: Pictures that took part.
        memory: What makes the next fit of nearly the same pictures a small one; None where a whole fit is due again.
    """

    head: Head
    evaluation: Evaluation
    out_of_fold: OutOfFoldPredictions
    findings: tuple[Finding, ...]
    input_count: int
    left_out: dict[str, str] = field(default_factory=dict)
    memory: ClassMemory | None = None


def fit(
    data: TrainingSet,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    memory: ClassMemory | None = None,
) -> Fitted:
    """Train a head and evaluate it out of fold.

    The strength of regularisation is chosen by the loss out of fold, the scores are calibrated and the thresholds
    chosen on the same out-of-fold scores, and the head itself is fitted on everything.

    Args:
        data: The labelled features.
        options: Type and seed.
        progress: Told how far it has come, from the calling thread.
        cancelled: Asked between steps; True ends the training.
        memory: What an earlier fit of the same concepts with the same options left.

    Raises:
        TrainingError: Refused by preflight (the reason of the first error), or ``TRAINING_CANCELLED``.
    """
    # Folds run side by side instead, see `in_threads`.
    with threadpool_limits(1, user_api="blas"):
        return _fit(data, options, _Reporter(progress, cancelled), memory)


@dataclass(frozen=True)
class HeadAgain:
    """A head for which the evaluation and the thresholds of the one before still stand.

    Attributes:
        head: Fitted on all pictures that took part.
        findings: What preflight said, warnings and hints only.
        input_count: Pictures that took part.
        left_out: Reason for each picture that took no part, by its id.
        memory: For the next fit.
    """

    head: Head
    findings: tuple[Finding, ...]
    input_count: int
    left_out: dict[str, str]
    memory: ClassMemory


def fit_head_again(data: TrainingSet, options: TrainOptions, memory: ClassMemory) -> HeadAgain | None:
    """Fit a head to many pictures of which very few are new; None: its evaluation has to be made anew, see `fit`.

    Raises:
        TrainingError: Refused by preflight, with the reason of the first error.
    """
    if not is_large(len(data.ids), len(data.concepts)):
        return None
    with threadpool_limits(1, user_api="blas"):
        taken, left_out = take_part(data, options)
        findings = allowed_findings(judged(taken, left_out, options))
        classes = taken.classes
        if classes is None:
            return None
        again = refit_classes(memory, taken.ids, taken.group_ids, taken.features, classes)
        if again is None or not again.carries:
            return None
        head = _head_again(taken, options, again, again.memory.thresholds)
    return HeadAgain(head, tuple(findings), len(taken.ids), left_out, again.memory)


def _fit(data: TrainingSet, options: TrainOptions, report: _Reporter, memory: ClassMemory | None) -> Fitted:
    taken, left_out = take_part(data, options)
    findings = allowed_findings(judged(taken, left_out, options))
    report(0.02, "evaluating")
    if memory is not None and taken.classes is not None:
        again = refit_classes(memory, taken.ids, taken.group_ids, taken.features, taken.classes)
        if again is not None:
            return _fitted_again(taken, options, again, findings, left_out, report)
    groups = group_copies(taken)
    folds = deal_folds(taken, groups, options)
    give_memory_back(taken.features.nbytes)
    report(0.08, "evaluating")
    if options.type == "multi_class":
        return _fit_classes(taken, options, groups, folds, findings, left_out, report)
    fitted = _fit_ridge(taken, groups, folds, options.seed, report)
    report(0.8, "fitting")
    head, decisions = _head(taken, options, fitted, folds)
    evaluation = evaluate(head, replace(decisions, groups=groups), fitted.shrinkage, options.thresholds)
    head = replace(head, familiarity=_familiarity(taken, head, folds, options.seed))
    report(1.0, "fitting")
    predictions = predictions_of(taken, head, replace(decisions, groups=groups))
    return Fitted(head, evaluation, predictions, tuple(findings), len(taken.ids), left_out)


def _fit_classes(
    data: TrainingSet,
    options: TrainOptions,
    groups: npt.NDArray[np.int64],
    folds: npt.NDArray[np.int64],
    findings: list[Finding],
    left_out: dict[str, str],
    report: _Reporter,
) -> Fitted:
    width, classes = len(data.concepts), data.classes
    if classes is None:
        raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
    fitted = fit_classes(
        data.features,
        classes,
        width,
        groups,
        folds,
        tier=options.tier,
        seed=options.seed,
        step=lambda part: report(0.1 + 0.7 * part, "evaluating"),
    )
    give_memory_back(data.features.nbytes)
    report(0.8, "fitting")
    head = Head(
        options.type,
        data.space,
        data.concepts,
        fitted.weights,
        fitted.bias,
        np.full(width, 0.5, np.float32),
        transform=fitted.transform,
        kernel=fitted.kernel,
    )
    decisions = Decisions(_scores(head, fitted.logits), folds, labels=data.labels, groups=groups, classes=classes)
    head = replace(head, thresholds=thresholds_of(decisions, options.thresholds))
    with ThreadPoolExecutor(1) as executor:
        familiarity = executor.submit(_familiarity, data, head, folds, options.seed)
        evaluation = evaluate(head, decisions, fitted.shrinkage, options.thresholds)
        head = replace(head, familiarity=familiarity.result())
    report(1.0, "fitting")
    predictions = predictions_of(data, head, decisions)
    memory = None
    if fitted.sums is not None and head.familiarity is not None:
        pictures = Pictures(data.ids, data.group_ids, classes, groups, folds, kept_scores(decisions.scores))
        memory = ClassMemory(fitted.sums, pictures, head.familiarity, head.thresholds)
    return Fitted(head, evaluation, predictions, tuple(findings), len(data.ids), left_out, memory)


def _fitted_again(
    data: TrainingSet,
    options: TrainOptions,
    again: Refitted,
    findings: list[Finding],
    left_out: dict[str, str],
    report: _Reporter,
) -> Fitted:
    """Make a head and its evaluation of a small fit."""
    report(0.5, "evaluating")
    sums, pictures, places = again.memory.sums, again.memory.pictures, again.places
    folds = pictures.folds[places]
    decisions = Decisions(
        sums.held_out(data.features, folds) if pictures.scores is None else pictures.scores[places],
        folds,
        labels=data.labels,
        groups=pictures.groups[places],
        classes=pictures.classes[places],
    )
    head = _head_again(data, options, again, thresholds_of(decisions, options.thresholds))
    report(0.8, "evaluating")
    evaluation = evaluate(head, decisions, sums.shrinkage, options.thresholds)
    report(1.0, "fitting")
    predictions = predictions_of(data, head, decisions)
    memory = replace(again.memory, thresholds=head.thresholds, unevaluated=0)
    return Fitted(head, evaluation, predictions, tuple(findings), len(data.ids), left_out, memory)


def _scores(head: Head, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn logits into scores where they stand: of many pictures and concepts there is no room for a copy."""

    def activate(start: int) -> None:
        logits[start : start + _BLOCK] = head.activate(logits[start : start + _BLOCK])

    in_threads(activate, range(0, len(logits), _BLOCK))
    return logits


def _head_again(data: TrainingSet, options: TrainOptions, again: Refitted, thresholds: npt.NDArray[np.float32]) -> Head:
    return Head(
        options.type,
        data.space,
        data.concepts,
        again.weights,
        again.bias,
        thresholds,
        transform=again.memory.sums.transform,
        familiarity=again.memory.familiarity,
    )


def _fit_ridge(
    data: TrainingSet, groups: npt.NDArray[np.int64], folds: npt.NDArray[np.int64], seed: int, report: _Reporter
) -> RidgeFit:
    def step(part: float) -> None:
        report(0.1 + 0.7 * part, "evaluating")

    if data.targets is not None:
        return fit_numbers(data.features, data.targets, groups, folds, seed=seed, step=step)
    if data.labels is None:
        raise TrainingError("TRAINING_SET_INVALID", "a training set needs labels or targets")
    return fit_labels(data.features, data.labels, groups, folds, seed=seed, step=step)


def _head(
    data: TrainingSet, options: TrainOptions, fitted: RidgeFit, folds: npt.NDArray[np.int64]
) -> tuple[Head, Decisions]:
    """Make a head of a fit, its thresholds (or its interval) chosen on what was held out."""
    weights, bias = fitted.weights.astype(np.float32), fitted.bias.astype(np.float32)
    width = len(data.concepts)
    if data.targets is None:
        half = np.full(width, 0.5, np.float32)
        head = Head(options.type, data.space, data.concepts, weights, bias, half, transform=fitted.transform)
        decisions = Decisions(_scores(head, fitted.values), folds, labels=data.labels)
        return replace(head, thresholds=thresholds_of(decisions, options.thresholds)), decisions
    limits = options.value_range or (float(data.targets.min()), float(data.targets.max()))
    none = np.zeros(width, np.float32)
    head = Head(options.type, data.space, data.concepts, weights, bias, none, limits, transform=fitted.transform)
    decisions = Decisions(head.activate(fitted.values), folds, targets=data.targets)
    return replace(head, interval=interval_of_errors(np.abs(decisions.scores[:, 0] - data.targets))), decisions


def predictions_of(data: TrainingSet, head: Head, decisions: Decisions) -> OutOfFoldPredictions:
    """Lay out what a head answered about the pictures of a set."""
    return OutOfFoldPredictions(
        type=head.type,
        method=decisions.method,
        ids=data.ids,
        concepts=data.concepts,
        scores=decisions.scores,
        folds=decisions.folds,
        groups=np.arange(len(data.ids)) if decisions.groups is None else decisions.groups,
        labels=decisions.labels,
        targets=decisions.targets,
        classes=decisions.classes if head.type == "multi_class" else None,
        evaluated=len(data.ids),
        interval=head.interval,
    )


def _familiarity(data: TrainingSet, head: Head, folds: npt.NDArray[np.int64], seed: int) -> Familiarity:
    rows = sample_of(len(folds), seed)
    found = learn_familiarity(transformed(data.features[rows], head.transform), folds[rows])
    # What its folds took, the evaluation beside it can use.
    give_memory_back(data.features.nbytes)
    return found


class _Reporter:
    """Tells progress and notices cancellation at the same points."""

    def __init__(self, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress, self._cancelled = progress, cancelled

    def __call__(self, fraction: float, stage: str) -> None:
        if self._cancelled is not None and self._cancelled():
            raise TrainingError("TRAINING_CANCELLED", "the training was cancelled")
        if self._progress is not None:
            self._progress(Progress(fraction, stage))
