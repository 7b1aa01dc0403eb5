"""From out-of-fold scores to calibration, thresholds and the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize

from lensmith_vision import metrics
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import ConceptEvaluation, ConfusionCell, Evaluation, defined
from lensmith_vision.fitting import log_loss
from lensmith_vision.heads import Head, HeadType
from lensmith_vision.threads import in_threads

__all__ = ["Decisions", "ThresholdAim", "evaluate", "fit_temperature", "thresholds_of"]

_COOLEST, _HOTTEST = 0.25, 8.0
_FEW_TO_CALIBRATE = 20


@dataclass(frozen=True, eq=False)
class Decisions:
    """Out-of-fold scores beside the truth.

    Attributes:
        scores: [n, c], or [n, 1] values for regression.
        folds: [n].
        labels: [n, c] with NaN unknown, 0, 1.
        targets: [n] for regression.
    """

    scores: npt.NDArray[np.float32]
    folds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None


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
    chosen = np.ones(len(labels), dtype=np.bool_) if rows is None else rows

    def threshold(column: int) -> float:
        known = chosen & np.isfinite(labels[:, column])
        truth = labels[known, column] == 1
        ranking = metrics.Ranking(truth, decisions.scores[known, column])
        if aim.least_precision is not None:
            return ranking.threshold_of_precision(aim.least_precision)
        if aim.least_recall is not None:
            return ranking.threshold_of_recall(aim.least_recall)
        return ranking.best_f1_threshold()

    return np.asarray(in_threads(threshold, range(labels.shape[1])), dtype=np.float32)


def evaluate(head: Head, decisions: Decisions, penalty: float, groups: int, aim: ThresholdAim) -> Evaluation:
    """Compute all figures of a head from its out-of-fold decisions."""
    method = f"{int(decisions.folds.max()) + 1}-fold out-of-fold"
    rows = len(decisions.folds)
    if decisions.targets is not None:
        values = decisions.scores[:, 0].astype(np.float64)
        targets = decisions.targets.astype(np.float64)
        return Evaluation(
            method,
            rows,
            groups,
            penalty,
            r2=defined(metrics.r_squared(targets, values)),
            mean_absolute_error=defined(metrics.mean_absolute_error(targets, values)),
            root_mean_squared_error=defined(metrics.root_mean_squared_error(targets, values)),
        )
    labels = decisions.labels
    if labels is None:
        raise ValueError("an evaluation needs labels or targets")
    predicted = _predicted(head, decisions, aim)

    def judged(column: int) -> tuple[metrics.Binary, ConceptEvaluation]:
        known = np.isfinite(labels[:, column])
        truth = labels[known, column] == 1
        count = metrics.binary(truth, predicted[known, column])
        scores = decisions.scores[known, column]
        return count, _concept(head.concepts[column], truth, scores, count, float(head.thresholds[column]))

    each = in_threads(judged, range(len(head.concepts)))
    counts, concepts = [count for count, _ in each], [concept for _, concept in each]
    together = sum(counts[1:], counts[0])
    whole = _whole(head, decisions, labels)
    return Evaluation(
        method,
        rows,
        groups,
        penalty,
        macro_precision=defined(metrics.mean_defined([count.precision for count in counts])),
        macro_recall=defined(metrics.mean_defined([count.recall for count in counts])),
        macro_f1=defined(metrics.mean_defined([count.f1 for count in counts])),
        micro_precision=defined(together.precision),
        micro_recall=defined(together.recall),
        micro_f1=defined(together.f1),
        macro_roc_auc=_macro_auc(concepts),
        accuracy=whole.accuracy,
        top5_accuracy=whole.top5_accuracy,
        expected_calibration_error=whole.expected_calibration_error,
        concepts=tuple(concepts),
        confusion=whole.confusion,
    )


def _predicted(head: Head, decisions: Decisions, aim: ThresholdAim) -> npt.NDArray[np.bool_]:
    """Decide: the highest score (multi_class), or thresholds that were chosen on the other folds (multi_label)."""
    scores = decisions.scores
    if head.type == "multi_class":
        winners: npt.NDArray[np.bool_] = np.eye(scores.shape[1], dtype=np.bool_)[scores.argmax(axis=1)]
        return winners
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


def _macro_auc(concepts: list[ConceptEvaluation]) -> float | None:
    values = [concept.roc_auc for concept in concepts if concept.roc_auc is not None]
    return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class _Whole:
    accuracy: float | None = None
    top5_accuracy: float | None = None
    expected_calibration_error: float | None = None
    confusion: tuple[ConfusionCell, ...] = ()


def _whole(head: Head, decisions: Decisions, labels: npt.NDArray[np.float32]) -> _Whole:
    scores = decisions.scores
    if head.type == "multi_label":
        known = np.isfinite(labels)
        confidence = scores[known].astype(np.float64)
        error = metrics.expected_calibration_error(confidence, labels[known] == 1)
        return _Whole(expected_calibration_error=defined(error))
    truth = labels.argmax(axis=1)
    best = scores.argmax(axis=1)
    matrix = metrics.confusion_matrix(truth, best, len(head.concepts))
    cells = [
        ConfusionCell(head.concepts[actual], head.concepts[guess], int(matrix[actual, guess]))
        for actual, guess in zip(*np.nonzero(matrix), strict=True)
    ]
    return _Whole(
        accuracy=defined(metrics.accuracy(truth, scores)),
        top5_accuracy=defined(metrics.top_k_accuracy(truth, scores, 5)) if len(head.concepts) > 5 else None,
        expected_calibration_error=defined(
            metrics.expected_calibration_error(scores.max(axis=1).astype(np.float64), best == truth)
        ),
        confusion=tuple(cells),
    )
