"""From out-of-fold scores to calibration, thresholds and the evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse

from lensmith_vision import metrics
from lensmith_vision.bootstrap import Interval, Resamples, interval_of, rank_intervals
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import ConceptEvaluation, ConfusionCell, CooccurrenceCell, Evaluation, defined
from lensmith_vision.figures import calibration_bins, count_intervals, regression_intervals, residual_bins
from lensmith_vision.fitting import log_loss
from lensmith_vision.heads import Head, HeadType
from lensmith_vision.out_of_fold import EvaluationMethod
from lensmith_vision.threads import in_threads

__all__ = ["Decisions", "ThresholdAim", "evaluate", "fit_temperature", "thresholds_of"]

_COOLEST, _HOTTEST = 0.25, 8.0
_FEW_TO_CALIBRATE = 20
_MOST_CELLS = 10_000
_FEWEST_BLOCKS, _MOST_BLOCKS = 32, 128
_BLOCK_DRAWS = 4_000_000
_COLUMNS = 16
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Decisions:
    """Out-of-fold scores beside the truth.

    Attributes:
        scores: [n, c], or [n, 1] values for regression.
        folds: [n].
        labels: [n, c] with NaN unknown, 0, 1.
        targets: [n] for regression.
        groups: [n], near copies share a number; None: every picture stands for itself.
        thresholds: [c] that were chosen without these pictures; None: to be chosen on the other folds.
        method: On which pictures they were made.
    """

    scores: npt.NDArray[np.float32]
    folds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None
    groups: npt.NDArray[np.int64] | None = None
    thresholds: npt.NDArray[np.float32] | None = None
    method: EvaluationMethod = "out_of_fold"


@dataclass(frozen=True)
class ThresholdAim:
    """What thresholds are chosen for: the best F1, or the most recall (precision) at so much precision (recall).

    Attributes:
        least_precision: Precision to keep, 0 to 1.
        least_recall: Recall to keep, 0 to 1; not together with the other.
    """

    least_precision: float | None = None
    least_recall: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.least_precision, self.least_recall) if value is not None]
        if len(given) > 1 or any(not 0 < value <= 1 for value in given):
            raise TrainingError("THRESHOLD_AIM_INVALID", "give a precision or a recall to keep, above 0 and up to 1")


def fit_temperature(type: HeadType, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> float:
    """Find the number to divide logits by so that scores mean what they say; 1 where there is too little to tell."""
    if len(logits) < _FEW_TO_CALIBRATE:
        return 1.0

    def loss(exponent: float) -> float:
        return log_loss(type, (logits / math.exp(exponent)).astype(np.float32), labels)

    bounds = (math.log(_COOLEST), math.log(_HOTTEST))
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return math.exp(float(found.x))


def thresholds_of(
    decisions: Decisions, aim: ThresholdAim, rows: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """Choose a threshold for each concept, over all rows or some."""
    labels = decisions.labels
    if labels is None:
        raise ValueError("thresholds need labels")

    def threshold(_column: int, own: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> float:
        known = np.isfinite(own) if rows is None else rows & np.isfinite(own)
        ranking = metrics.Ranking(own[known] == 1, scores[known])
        if aim.least_precision is not None:
            return ranking.threshold_of_precision(aim.least_precision)
        if aim.least_recall is not None:
            return ranking.threshold_of_recall(aim.least_recall)
        return ranking.best_f1_threshold()

    return np.asarray(_by_column(threshold, labels, decisions.scores), dtype=np.float32)


def _by_column(
    work: Callable[[int, npt.NDArray[np.float32], npt.NDArray[np.float32]], _Result],
    labels: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
) -> list[_Result]:
    """Work on each column's labels and scores, in threads, some columns laid out at a time: in rows they are far."""

    def on_some(start: int) -> list[_Result]:
        own = np.ascontiguousarray(labels[:, start : start + _COLUMNS].T)
        scored = np.ascontiguousarray(scores[:, start : start + _COLUMNS].T)
        return [work(start + turn, *pair) for turn, pair in enumerate(zip(own, scored, strict=True))]

    return [result for some in in_threads(on_some, range(0, labels.shape[1], _COLUMNS)) for result in some]


def evaluate(head: Head, decisions: Decisions, penalty: float, aim: ThresholdAim) -> Evaluation:
    """Compute all figures of a head from its decisions about pictures that it was not fitted on."""
    rows = len(decisions.folds)
    groups = np.arange(rows) if decisions.groups is None else decisions.groups
    resamples = Resamples(groups)
    if decisions.targets is not None:
        return _evaluate_numbers(decisions, decisions.targets, penalty, resamples)
    labels = decisions.labels
    if labels is None:
        raise ValueError("an evaluation needs labels or targets")
    predicted = _predicted(head, decisions, aim)
    intervals = count_intervals(labels, predicted, resamples)
    blocks = _BLOCK_DRAWS // (2 * resamples.count * max(1, len(head.concepts)))
    blocks = max(_FEWEST_BLOCKS, min(_MOST_BLOCKS, blocks))

    def judged(
        column: int, own: npt.NDArray[np.float32], all_scores: npt.NDArray[np.float32]
    ) -> tuple[metrics.Binary, ConceptEvaluation]:
        known = np.isfinite(own)
        truth, scores = own[known] == 1, all_scores[known]
        count = metrics.binary(truth, predicted[known, column])
        concept = _concept(head.concepts[column], truth, scores, count, float(head.thresholds[column]))
        figures = (_or_nan(concept.roc_auc), _or_nan(concept.average_precision))
        ranks = rank_intervals(truth, scores, figures, resamples, column, blocks)
        both = {"roc_auc": ranks.roc_auc, "average_precision": ranks.average_precision}
        return count, replace(concept, intervals=_known(intervals.concepts[column] | both))

    each = _by_column(judged, labels, decisions.scores)
    counts, concepts = [count for count, _ in each], [concept for _, concept in each]
    together = sum(counts[1:], counts[0])
    whole = _whole(head, decisions, labels, resamples)
    return Evaluation(
        method_text(decisions),
        rows,
        resamples.group_count,
        penalty,
        macro_precision=defined(metrics.mean_defined([count.precision for count in counts])),
        macro_recall=defined(metrics.mean_defined([count.recall for count in counts])),
        macro_f1=defined(metrics.mean_defined([count.f1 for count in counts])),
        micro_precision=defined(together.precision),
        micro_recall=defined(together.recall),
        micro_f1=defined(together.f1),
        macro_roc_auc=defined(metrics.mean_defined([_or_nan(concept.roc_auc) for concept in concepts])),
        macro_average_precision=defined(
            metrics.mean_defined([_or_nan(concept.average_precision) for concept in concepts])
        ),
        accuracy=whole.accuracy,
        top5_accuracy=whole.top5_accuracy,
        expected_calibration_error=whole.expected_calibration_error,
        concepts=tuple(concepts),
        confusion=whole.confusion,
        evaluation_method=decisions.method,
        intervals=_known(intervals.whole | whole.intervals),
        resamples=resamples.count,
        calibration=calibration_bins(whole.confidence, whole.right),
        cooccurrence=_cooccurrence(head, labels, predicted),
    )


def method_text(decisions: Decisions) -> str:
    """Say in words on which pictures an evaluation was made."""
    if decisions.method == "test_set":
        return f"{len(decisions.folds)} images marked as test, none of them trained on"
    if decisions.method == "split":
        return "80/20 split"
    return f"{int(decisions.folds.max()) + 1}-fold out-of-fold"


def _evaluate_numbers(
    decisions: Decisions, numbers: npt.NDArray[np.float32], penalty: float, resamples: Resamples
) -> Evaluation:
    values = decisions.scores[:, 0].astype(np.float64)
    targets = numbers.astype(np.float64)
    return Evaluation(
        method_text(decisions),
        len(values),
        resamples.group_count,
        penalty,
        r2=defined(metrics.r_squared(targets, values)),
        mean_absolute_error=defined(metrics.mean_absolute_error(targets, values)),
        root_mean_squared_error=defined(metrics.root_mean_squared_error(targets, values)),
        median_absolute_error=defined(float(np.median(np.abs(values - targets)))),
        evaluation_method=decisions.method,
        intervals=_known(regression_intervals(targets, values, resamples)),
        resamples=resamples.count,
        residuals=residual_bins(values - targets),
    )


def _predicted(head: Head, decisions: Decisions, aim: ThresholdAim) -> npt.NDArray[np.bool_]:
    """Decide: the highest score (multi_class), or thresholds that were chosen on other pictures (multi_label)."""
    scores = decisions.scores
    if head.type == "multi_class":
        winners: npt.NDArray[np.bool_] = np.zeros(scores.shape, dtype=np.bool_)
        winners[np.arange(len(scores)), scores.argmax(axis=1)] = True
        return winners
    if decisions.thresholds is not None:
        above: npt.NDArray[np.bool_] = scores >= decisions.thresholds
        return above
    predicted = np.zeros(scores.shape, dtype=np.bool_)
    for fold in range(int(decisions.folds.max()) + 1):
        held_out = decisions.folds == fold
        predicted[held_out] = scores[held_out] >= thresholds_of(decisions, aim, ~held_out)
    return predicted


def _concept(
    concept: str,
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
    count: metrics.Binary,
    threshold: float,
) -> ConceptEvaluation:
    ranking = metrics.Ranking(truth, scores)
    return ConceptEvaluation(
        concept=concept,
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        precision=defined(count.precision) or 0.0,
        recall=defined(count.recall) or 0.0,
        f1=defined(count.f1) or 0.0,
        threshold=threshold,
        roc_auc=defined(ranking.roc_auc()),
        average_precision=defined(ranking.average_precision()),
    )


@dataclass(frozen=True)
class _Whole:
    confidence: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    accuracy: float | None = None
    top5_accuracy: float | None = None
    expected_calibration_error: float | None = None
    confusion: tuple[ConfusionCell, ...] = ()
    intervals: dict[str, Interval | None] = field(default_factory=dict)


def _whole(head: Head, decisions: Decisions, labels: npt.NDArray[np.float32], resamples: Resamples) -> _Whole:
    scores = decisions.scores
    if head.type == "multi_label":
        known = np.isfinite(labels)
        confidence, right = scores[known].astype(np.float64), labels[known] == 1
        error = metrics.expected_calibration_error(confidence, right)
        return _Whole(confidence, right, expected_calibration_error=defined(error))
    truth = labels.argmax(axis=1)
    best = scores.argmax(axis=1)
    matrix = metrics.confusion_matrix(truth, best, len(head.concepts))
    actual, guessed = np.nonzero(matrix)
    most = np.argsort(-matrix[actual, guessed], kind="stable")[:_MOST_CELLS]
    cells = [
        ConfusionCell(
            head.concepts[actual[place]], head.concepts[guessed[place]], int(matrix[actual[place], guessed[place]])
        )
        for place in np.sort(most)
    ]
    confidence, right = scores.max(axis=1).astype(np.float64), best == truth
    among_five = metrics.in_top_k(truth, scores, 5)
    # In single precision as the weights are, or a second copy of those is made.
    shown = np.stack([np.ones(len(truth)), right, among_five], axis=1).astype(np.float32)
    drawn = resamples.sums(scipy.sparse.csr_array(shown))
    groups = resamples.group_count
    intervals = {"accuracy": interval_of(drawn[1] / np.maximum(drawn[0], 1), groups)}
    if len(head.concepts) > 5:
        intervals["top5_accuracy"] = interval_of(drawn[2] / np.maximum(drawn[0], 1), groups)
    return _Whole(
        confidence,
        right,
        accuracy=float(right.mean()),
        top5_accuracy=float(among_five.mean()) if len(head.concepts) > 5 else None,
        expected_calibration_error=defined(metrics.expected_calibration_error(confidence, right)),
        confusion=tuple(cells),
        intervals=intervals,
    )


def _cooccurrence(
    head: Head, labels: npt.NDArray[np.float32], predicted: npt.NDArray[np.bool_]
) -> tuple[CooccurrenceCell, ...]:
    if head.type != "multi_label":
        return ()
    shown = scipy.sparse.csr_array(labels == 1, dtype=np.float32)
    found = scipy.sparse.csr_array(predicted, dtype=np.float32)
    both, both_found = (shown.T @ shown).toarray(), (found.T @ found).toarray()
    first, second = np.nonzero(np.triu(both + both_found, 1))
    most = np.lexsort((-both_found[first, second], -both[first, second]))[:_MOST_CELLS]
    return tuple(
        CooccurrenceCell(head.concepts[one], head.concepts[other], int(both[one, other]), int(both_found[one, other]))
        for one, other in zip(first[most], second[most], strict=True)
    )


def _known(intervals: dict[str, Interval | None]) -> dict[str, Interval]:
    return {name: interval for name, interval in intervals.items() if interval is not None}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
