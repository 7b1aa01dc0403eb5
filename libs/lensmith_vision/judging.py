"""What follows from stored scores without pictures and without training: other thresholds, curves, right and wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision import metrics
from lensmith_vision.bootstrap import Interval, Resamples
from lensmith_vision.errors import VisionError
from lensmith_vision.evaluation import ConceptEvaluation, Evaluation, defined
from lensmith_vision.figures import Cells, count_intervals
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.report import Decisions, ThresholdAim, thresholds_of

__all__ = ["Answers", "Curve", "answers", "at_thresholds", "choose_thresholds", "curve"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_CURVE_POINTS = 101
_RANK_FIGURES = frozenset({"roc_auc", "average_precision"})


@dataclass(frozen=True, eq=False)
class Answers:
    """What a version answered about each picture.

    Attributes:
        predicted: [n, c], whether each concept is predicted; [n, 1] without meaning for regression.
        correct: [n].
        confidence: [n]: the highest score (multi_class); the distance of the doubtful score from its threshold
            (multi_label); the absolute error (regression).
    """

    predicted: Bools
    correct: Bools
    confidence: Floats


@dataclass(frozen=True, eq=False)
class Curve:
    """Points by falling threshold, each [p].

    Attributes:
        thresholds: Scores at or above count as predicted.
        precision: Of the predicted, the share that is right.
        recall: Of the positives, the share that is predicted.
        false_positive_rate: Of the negatives, the share that is predicted.
    """

    thresholds: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    false_positive_rate: npt.NDArray[np.float64]


def choose_thresholds(predictions: OutOfFoldPredictions, aim: ThresholdAim) -> Floats:
    """Choose a threshold for each concept, [c].

    Raises:
        VisionError: ``NO_THRESHOLDS``: a regression has none.
    """
    _require_concepts(predictions)
    return thresholds_of(Decisions(predictions.scores, predictions.folds, labels=predictions.labels), aim)


def at_thresholds(evaluation: Evaluation, predictions: OutOfFoldPredictions, thresholds: Floats) -> Evaluation:
    """Compute the figures that thresholds move anew: what is `predicted` counts, also where the highest score wins.

    Args:
        evaluation: As it was stored.
        predictions: The scores behind it.
        thresholds: [c].

    Raises:
        VisionError: ``NO_THRESHOLDS``, or ``THRESHOLD_TOO_LOW``: so low scores were not stored.
    """
    labels = _require_concepts(predictions)
    stands = _standing(evaluation, predictions, thresholds)
    cells = Cells.of(labels, predictions.scores >= thresholds)
    negatives = (labels == 0).sum(axis=0).tolist()
    counts = [
        metrics.Binary(right, false, missed, negative - false)
        for right, missed, false, negative in zip(*cells.counts(), negatives, strict=True)
    ]
    resamples = Resamples(predictions.groups)
    intervals = count_intervals(cells, resamples)
    concepts = tuple(
        concept if stays else _moved(concept, count, float(threshold), own)
        for concept, stays, count, threshold, own in zip(
            evaluation.concepts, stands, counts, thresholds, intervals.concepts, strict=True
        )
    )
    figures = [concept if stays else count for concept, stays, count in zip(concepts, stands, counts, strict=True)]
    together = sum(counts[1:], counts[0])
    return replace(
        evaluation,
        concepts=concepts,
        macro_precision=defined(metrics.mean_defined([one.precision for one in figures])),
        macro_recall=defined(metrics.mean_defined([one.recall for one in figures])),
        macro_f1=defined(metrics.mean_defined([one.f1 for one in figures])),
        micro_precision=defined(together.precision),
        micro_recall=defined(together.recall),
        micro_f1=defined(together.f1),
        intervals=_merged(evaluation.intervals, intervals.whole, frozenset({"accuracy", "top5_accuracy"})),
        resamples=resamples.count,
    )


def _standing(evaluation: Evaluation, predictions: OutOfFoldPredictions, thresholds: Floats) -> Bools:
    """Tell the concepts [c] whose threshold is below what is stored, and stays: what training counted stands."""
    low = np.asarray((thresholds <= predictions.floor) & (predictions.floor > 0), np.bool_)
    known = np.array([concept.threshold for concept in evaluation.concepts])
    if bool((low & ~np.isclose(thresholds, known, rtol=1e-4, atol=0)).any()):
        raise VisionError(
            "THRESHOLD_TOO_LOW",
            f"of so many pictures and concepts only scores above {predictions.floor:.4f} are stored",
            {"least": f"{predictions.floor:.6f}"},
        )
    return low


def _moved(
    concept: ConceptEvaluation, count: metrics.Binary, threshold: float, intervals: dict[str, Interval | None]
) -> ConceptEvaluation:
    return replace(
        concept,
        precision=defined(count.precision) or 0.0,
        recall=defined(count.recall) or 0.0,
        f1=defined(count.f1) or 0.0,
        threshold=threshold,
        intervals=_merged(concept.intervals, intervals, _RANK_FIGURES),
    )


def curve(predictions: OutOfFoldPredictions, column: int) -> Curve | None:
    """Return precision-recall and ROC curve of a concept in at most 101 points; None without both sides.

    Raises:
        VisionError: ``NO_THRESHOLDS``: a regression has none.
    """
    labels = _require_concepts(predictions)[:, column]
    known = np.isfinite(labels)
    truth, scores = labels[known] == 1, predictions.scores[known, column]
    # Of low scores only those of positives were stored: alone they would all be found, and nothing else.
    scores = np.where(scores > predictions.floor, scores, 0)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    hits = np.cumsum(truth[order])
    # Only where the next score is another one, a threshold lies.
    ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    recall = hits[ends] / positives
    false = (ends + 1 - hits[ends]) / negatives
    # Steps of equal length along the ROC curve keep its shape, whatever the scores are.
    places = np.searchsorted(recall + false, np.linspace(0, 2, _CURVE_POINTS), side="left")
    chosen = np.unique(np.clip(places, 0, len(ends) - 1))
    kept = ends[chosen]
    return Curve(ordered[kept], hits[kept] / (kept + 1), recall[chosen], false[chosen])


def answers(predictions: OutOfFoldPredictions, thresholds: Floats) -> Answers:
    """Say what was predicted about each picture, and whether that is right.

    Args:
        predictions: The scores.
        thresholds: [c]; without meaning for regression.
    """
    scores = predictions.scores
    if predictions.targets is not None:
        errors = np.abs(scores[:, 0] - predictions.targets)
        within = errors <= (np.inf if predictions.interval is None else predictions.interval)
        return Answers(np.ones((len(errors), 1), np.bool_), within, errors)
    labels = _require_concepts(predictions)
    if predictions.type == "multi_class":
        best = scores.argmax(axis=1)
        predicted = np.zeros(scores.shape, np.bool_)
        predicted[np.arange(len(best)), best] = True
        return Answers(predicted, labels[np.arange(len(best)), best] == 1, scores.max(axis=1))
    predicted = scores >= thresholds
    wrong = np.isfinite(labels) & (predicted != (labels == 1))
    distance = np.abs(scores - thresholds)
    correct = ~wrong.any(axis=1)
    # Of a wrong answer the worst, of a right one the one that was nearest to being wrong.
    worst = np.where(wrong, distance, 0).max(axis=1)
    nearest = np.where(np.isfinite(labels), distance, 1).min(axis=1)
    return Answers(predicted, correct, np.where(correct, nearest, worst).astype(np.float32))


def _require_concepts(predictions: OutOfFoldPredictions) -> Floats:
    if predictions.labels is None:
        raise VisionError("NO_THRESHOLDS", "a regression predicts a number: it has neither thresholds nor curves")
    return predictions.labels


def _merged(
    before: Mapping[str, Interval], now: dict[str, Interval | None], kept: frozenset[str]
) -> dict[str, Interval]:
    """Keep the intervals that no threshold moves, and take the others as they are now."""
    old = {name: interval for name, interval in before.items() if name in kept}
    return {**old, **{name: interval for name, interval in now.items() if interval is not None}}
