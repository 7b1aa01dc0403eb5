"""From out-of-fold scores to calibration, thresholds and the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize

from lensmith_vision import metrics
from lensmith_vision.evaluation import ConceptEvaluation, ConfusionCell, Evaluation, defined
from lensmith_vision.fitting import log_loss
from lensmith_vision.heads import Head, HeadType

__all__ = ["Decisions", "evaluate", "fit_temperature", "thresholds_of"]

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


def fit_temperature(type: HeadType, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> float:
    """Find the number to divide logits by so that scores mean what they say; 1 where there is too little to tell."""
    if len(logits) < _FEW_TO_CALIBRATE:
        return 1.0

    def loss(exponent: float) -> float:
        return log_loss(type, (logits / math.exp(exponent)).astype(np.float32), labels)

    bounds = (math.log(_COOLEST), math.log(_HOTTEST))
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    return math.exp(float(found.x))


def thresholds_of(decisions: Decisions, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float32]:
    """Choose for each concept the threshold with the best F1, over all rows or some."""
    labels = decisions.labels
    if labels is None:
        raise ValueError("thresholds need labels")
    chosen = np.ones(len(labels), dtype=np.bool_) if rows is None else rows
    values = []
    for column in range(labels.shape[1]):
        known = chosen & np.isfinite(labels[:, column])
        truth = labels[known, column] == 1
        values.append(metrics.best_f1_threshold(truth, decisions.scores[known, column]))
    return np.asarray(values, dtype=np.float32)


def evaluate(head: Head, decisions: Decisions, penalty: float, groups: int) -> Evaluation:
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
    predicted = _predicted(head, decisions)
    counts, concepts = [], []
    for column, concept in enumerate(head.concepts):
        known = np.isfinite(labels[:, column])
        truth = labels[known, column] == 1
        count = metrics.binary(truth, predicted[known, column])
        counts.append(count)
        scores = decisions.scores[known, column]
        concepts.append(_concept(concept, truth, scores, count, float(head.thresholds[column])))
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


def _predicted(head: Head, decisions: Decisions) -> npt.NDArray[np.bool_]:
    """Decide: the highest score (multi_class), or thresholds that were chosen on the other folds (multi_label)."""
    scores = decisions.scores
    if head.type == "multi_class":
        winners: npt.NDArray[np.bool_] = np.eye(scores.shape[1], dtype=np.bool_)[scores.argmax(axis=1)]
        return winners
    predicted = np.zeros(scores.shape, dtype=np.bool_)
    for fold in range(int(decisions.folds.max()) + 1):
        held_out = decisions.folds == fold
        predicted[held_out] = scores[held_out] >= thresholds_of(decisions, ~held_out)
    return predicted


def _concept(
    concept: str,
    truth: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float32],
    count: metrics.Binary,
    threshold: float,
) -> ConceptEvaluation:
    return ConceptEvaluation(
        concept=concept,
        positives=int(truth.sum()),
        negatives=int((~truth).sum()),
        precision=defined(count.precision) or 0.0,
        recall=defined(count.recall) or 0.0,
        f1=defined(count.f1) or 0.0,
        threshold=threshold,
        roc_auc=defined(metrics.roc_auc(truth, scores)),
        average_precision=defined(metrics.average_precision(truth, scores)),
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
