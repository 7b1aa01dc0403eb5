"""Training of heads: labelled features in, a calibrated head and its honest evaluation out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse
from threadpoolctl import threadpool_limits

from lensmith_vision.classes import Tier, fit_classes
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import Evaluation
from lensmith_vision.familiarity import Familiarity, learn_familiarity, sample_of
from lensmith_vision.folds import groups_of, stratified_group_folds
from lensmith_vision.heads import INTERVAL_COVERAGE, Head, HeadType
from lensmith_vision.labels import fit_labels
from lensmith_vision.numbers import fit_numbers
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.preflight import ConceptCount, Finding, Severity, check_counts, has_errors
from lensmith_vision.refit import ClassMemory, Pictures, Refitted, is_large, refit_classes
from lensmith_vision.report import Decisions, ThresholdAim, evaluate, thresholds_of
from lensmith_vision.ridge import RidgeFit
from lensmith_vision.threads import give_memory_back
from lensmith_vision.transforms import transformed

__all__ = [
    "Fitted",
    "HeadAgain",
    "Progress",
    "TrainOptions",
    "TrainingSet",
    "deal_folds",
    "fit",
    "fit_head_again",
    "group_copies",
    "predictions_of",
    "preflight",
    "take_part",
]

_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Labelled features of one space, one row for each picture.

    Attributes:
        space: Id of the space.
        concepts: Ids of the concepts, in the order of the columns of ``labels``; one concept for regression.
        ids: Id of each picture, for messages.
        features: [n, d] float32.
        group_ids: Equal for pictures of equal bytes, such as their SHA-256.
        labels: [n, c] float32: 1 positive, 0 negative, NaN unknown. None for regression.
        targets: [n] float32, NaN unknown, for regression. None otherwise.
    """

    space: str
    concepts: tuple[str, ...]
    ids: tuple[str, ...]
    features: npt.NDArray[np.float32]
    group_ids: tuple[str, ...]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if self.features.ndim != 2 or len(self.features) != rows or len(self.group_ids) != rows:
            raise TrainingError(
                "TRAINING_SET_INVALID", "features, ids and group_ids must have one row for each picture"
            )
        if not np.isfinite(self.features).all():
            raise TrainingError("TRAINING_SET_INVALID", "features must be finite")
        if self.labels is not None and self.labels.shape != (rows, len(self.concepts)):
            raise TrainingError("TRAINING_SET_INVALID", "labels must be [pictures, concepts]")
        if self.labels is not None and not (np.isnan(self.labels) | (self.labels == 0) | (self.labels == 1)).all():
            raise TrainingError("TRAINING_SET_INVALID", "labels must be 1, 0 or NaN")
        if self.targets is not None and self.targets.shape != (rows,):
            raise TrainingError("TRAINING_SET_INVALID", "targets must be [pictures]")

    def rows(self, chosen: npt.NDArray[np.bool_]) -> TrainingSet:
        """Return the pictures that a mask [n] chooses."""
        if chosen.all():
            return self
        index = np.flatnonzero(chosen)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            features=self.features[index],
            group_ids=tuple(self.group_ids[row] for row in index),
            labels=None if self.labels is None else self.labels[index],
            targets=None if self.targets is None else self.targets[index],
        )


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        type: Type of the head.
        closed_environment: multi_label only: a picture without a label for a concept counts as its negative.
        folds: Parts of the out-of-fold evaluation; fewer where there are fewer groups of pictures.
        seed: The same seed and set give the same head.
        value_range: For regression, the range of answers; the range seen in training when left out.
        tier: multi_class only: ``linear`` heads cost kilobytes, ``kernel`` heads up to 6 MB; ``auto`` takes the
            kernel tier where it wins at least one point of the chance to be right, out of fold.
        thresholds: What the concepts' thresholds are chosen for.
    """

    type: HeadType
    closed_environment: bool = False
    folds: int = 5
    seed: int = 0
    value_range: tuple[float, float] | None = None
    tier: Tier = "auto"
    thresholds: ThresholdAim = field(default_factory=ThresholdAim)


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


def preflight(data: TrainingSet, type: HeadType, *, closed_environment: bool = False) -> list[Finding]:
    """Judge a training set: what refuses the training, what will make it suffer, what would help.

    Raises:
        TrainingError: The set has no labels of the kind that the type needs.
    """
    options = TrainOptions(type, closed_environment)
    return _judged(*take_part(data, options), options)


def _judged(taken: TrainingSet, left_out: dict[str, str], options: TrainOptions) -> list[Finding]:
    environment, images = options.closed_environment, len(taken.ids)
    findings = check_counts(options.type, _counts(taken), closed_environment=environment, images=images)
    return findings + _left_out_findings(left_out) + _duplicate_findings(taken)


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
        findings = _allowed(_judged(taken, left_out, options))
        if taken.labels is None:
            return None
        classes = taken.labels.argmax(axis=1)
        again = refit_classes(memory, taken.ids, taken.group_ids, taken.features, classes)
        if again is None or not again.carries:
            return None
        head = _head_again(taken, options, again, again.memory.thresholds)
    return HeadAgain(head, tuple(findings), len(taken.ids), left_out, again.memory)


def _allowed(findings: list[Finding]) -> list[Finding]:
    """Return findings without errors.

    Raises:
        TrainingError: There is one.
    """
    if has_errors(findings):
        first = next(finding for finding in findings if finding.severity is Severity.ERROR)
        raise TrainingError(first.reason, first.message, {"concept": first.concept} if first.concept else None)
    return findings


def _fit(data: TrainingSet, options: TrainOptions, report: _Reporter, memory: ClassMemory | None) -> Fitted:
    taken, left_out = take_part(data, options)
    findings = _allowed(_judged(taken, left_out, options))
    report(0.02, "evaluating")
    if memory is not None and taken.labels is not None:
        classes = taken.labels.argmax(axis=1)
        again = refit_classes(memory, taken.ids, taken.group_ids, taken.features, classes)
        if again is not None:
            return _fitted_again(taken, options, again, findings, left_out, report)
    groups = group_copies(taken)
    folds = deal_folds(taken, groups, options)
    give_memory_back()
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
    if data.labels is None:
        raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
    width = len(data.concepts)
    fitted = fit_classes(
        data.features,
        data.labels.argmax(axis=1),
        width,
        groups,
        folds,
        tier=options.tier,
        seed=options.seed,
        step=lambda part: report(0.1 + 0.7 * part, "evaluating"),
    )
    give_memory_back()
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
    decisions = Decisions(_scores(head, fitted.logits), folds, labels=data.labels)
    head = replace(head, thresholds=thresholds_of(decisions, options.thresholds))
    evaluation = evaluate(head, replace(decisions, groups=groups), fitted.shrinkage, options.thresholds)
    head = replace(head, familiarity=_familiarity(data, head, folds, options.seed))
    report(1.0, "fitting")
    predictions = predictions_of(data, head, replace(decisions, groups=groups))
    memory = None
    if fitted.sums is not None and head.familiarity is not None:
        classes = data.labels.argmax(axis=1)
        pictures = Pictures(data.ids, data.group_ids, classes, groups, folds, decisions.scores)
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
    decisions = Decisions(
        pictures.scores[places], pictures.folds[places], labels=data.labels, groups=pictures.groups[places]
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
    for start in range(0, len(logits), _BLOCK):
        logits[start : start + _BLOCK] = head.activate(logits[start : start + _BLOCK])
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
    residuals = np.sort(np.abs(decisions.scores[:, 0] - data.targets))
    # Conformal: with one more picture, the rank that nine of ten stay within (Vovk et al. 2005).
    rank = min(len(residuals), math.ceil((len(residuals) + 1) * INTERVAL_COVERAGE))
    return replace(head, interval=float(residuals[rank - 1])), decisions


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
        evaluated=len(data.ids),
        interval=head.interval,
    )


def _familiarity(data: TrainingSet, head: Head, folds: npt.NDArray[np.int64], seed: int) -> Familiarity:
    rows = sample_of(len(folds), seed)
    return learn_familiarity(transformed(data.features[rows], head.transform), folds[rows])


def take_part(data: TrainingSet, options: TrainOptions) -> tuple[TrainingSet, dict[str, str]]:
    """Choose the rows that a type of head can learn from, and say why the others are left out."""
    if options.type == "regression":
        if data.targets is None:
            raise TrainingError("TRAINING_SET_INVALID", "a regression needs targets")
        known = np.isfinite(data.targets)
        reasons = np.where(known, "", "NO_NUMBER")
    else:
        if data.labels is None:
            raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
        positives = (data.labels == 1).sum(axis=1)
        if options.type == "multi_class":
            known = positives == 1
            reasons = np.where(known, "", np.where(positives > 1, "SEVERAL_CONCEPTS", "NO_CONCEPT"))
        else:
            known = np.asarray(np.isfinite(data.labels).any(axis=1), dtype=np.bool_)
            reasons = np.where(known, "", "NO_LABEL")
    left_out = {data.ids[row]: str(reasons[row]) for row in np.flatnonzero(~known)}
    taken = data.rows(known)
    closed = options.type == "multi_class" or options.closed_environment
    # A second copy of many labels of many concepts is only made where it says something else.
    if taken.labels is not None and closed and np.isnan(taken.labels).any():
        taken = replace(taken, labels=np.nan_to_num(taken.labels, nan=0.0))
    return taken, left_out


def _counts(data: TrainingSet) -> list[ConceptCount]:
    if data.targets is not None and data.labels is None:
        return [ConceptCount(concept, numbers=len(data.ids)) for concept in data.concepts]
    labels = data.labels if data.labels is not None else np.empty((0, len(data.concepts)), np.float32)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    rows = zip(data.concepts, positives.tolist(), negatives.tolist(), strict=True)
    return [ConceptCount(concept, positive, negative) for concept, positive, negative in rows]


_LEFT_OUT_TEXTS = {
    "SEVERAL_CONCEPTS": "left out: {} of several of the model's concepts at once",
    "NO_CONCEPT": "left out: {} of none of the model's concepts",
    "NO_LABEL": "left out: {} without a label for any of the model's concepts",
    "NO_NUMBER": "left out: {} without a number",
}


def _left_out_findings(left_out: dict[str, str]) -> list[Finding]:
    findings = []
    for reason, text in _LEFT_OUT_TEXTS.items():
        count = sum(1 for value in left_out.values() if value == reason)
        if count:
            severity = Severity.WARNING if reason == "SEVERAL_CONCEPTS" else Severity.HINT
            findings.append(
                Finding(f"LEFT_OUT_{reason}", severity, text.format("1 image" if count == 1 else f"{count} images"))
            )
    return findings


def _duplicate_findings(data: TrainingSet) -> list[Finding]:
    first: dict[str, int] = {}
    copies = conflicts = 0
    for row, group in enumerate(data.group_ids):
        original = first.setdefault(group, row)
        if original != row:
            copies += 1
            conflicts += _conflict(data, original, row)
    findings = []
    if copies:
        text = f"{copies} images have the same bytes as another one; they count once in the evaluation's split"
        findings.append(Finding("DUPLICATE_IMAGES", Severity.HINT, text))
    if conflicts:
        text = f"{conflicts} images have the same bytes as another one but another label"
        findings.append(Finding("CONFLICTING_LABELS", Severity.WARNING, text))
    return findings


def _conflict(data: TrainingSet, left: int, right: int) -> bool:
    values = data.labels if data.labels is not None else data.targets
    if values is None:
        return False
    one, other = np.atleast_1d(values[left]), np.atleast_1d(values[right])
    return bool(((one != other) & np.isfinite(one) & np.isfinite(other)).any())


def group_copies(data: TrainingSet, split: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Group copies; near copies too, unless the pictures are so alike that hardly anything could be held out.

    Scans of one machine may all be near copies of each other, and what tells them apart is the very thing to learn.

    Args:
        data: The pictures.
        split: [n], where it is decided who is held out: then enough of the others must be left.
    """
    near = groups_of(data.features, data.group_ids)
    if split is not None:
        if (~np.isin(near, near[split])).sum() * 2 >= (~split).sum():
            return near
    elif np.bincount(near).max() * 2 <= len(near) and (data.targets is not None or _rarest(data, near) >= 2):
        return near
    return np.unique(np.asarray(data.group_ids), return_inverse=True)[1].astype(np.int64)


def _rarest(data: TrainingSet, groups: npt.NDArray[np.int64]) -> int:
    """Count the groups of the rarest side of any concept: with one alone, nothing is left to learn it from."""
    strata = scipy.sparse.csr_array(_strata(data))
    member = scipy.sparse.csr_array((np.ones(len(groups), np.float32), (groups, np.arange(len(groups)))))
    counts = (member @ strata).astype(np.bool_).sum(axis=0)
    return int(min(counts[counts > 0], default=0))


def deal_folds(data: TrainingSet, groups: npt.NDArray[np.int64], options: TrainOptions) -> npt.NDArray[np.int64]:
    """Deal groups of copies into folds, concepts spread evenly.

    Raises:
        TrainingError: There is one group only.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise TrainingError("TOO_FEW_IMAGES", "all images are copies of one picture; nothing can be held out")
    return stratified_group_folds(_strata(data), groups, max(2, min(options.folds, count)), options.seed)


def _strata(data: TrainingSet) -> npt.NDArray[np.float32]:
    if data.targets is not None:
        # Quarters of the values, so that every fold sees small and large ones.
        edges = np.quantile(data.targets, [0.25, 0.5, 0.75])
        return np.eye(4, dtype=np.float32)[np.searchsorted(edges, data.targets, side="left")]
    labels = data.labels if data.labels is not None else np.empty((len(data.ids), 0), np.float32)
    if (np.einsum("nc->n", labels) == 1).all():
        # Where concepts exclude each other, the negatives of one are the positives of the rest.
        return labels
    return np.concatenate([labels == 1, labels == 0], axis=1).astype(np.float32)


class _Reporter:
    """Tells progress and notices cancellation at the same points."""

    def __init__(self, progress: Callable[[Progress], None] | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress, self._cancelled = progress, cancelled

    def __call__(self, fraction: float, stage: str) -> None:
        if self._cancelled is not None and self._cancelled():
            raise TrainingError("TRAINING_CANCELLED", "the training was cancelled")
        if self._progress is not None:
            self._progress(Progress(fraction, stage))
