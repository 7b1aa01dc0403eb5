"""From out-of-fold scores to calibration, thresholds and the evaluation."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.sparse

from lensmith_vision import metrics
from lensmith_vision.bootstrap import Interval, RankIntervals, Resamples, interval_of, rank_intervals
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation import ConceptEvaluation, ConfusionCell, CooccurrenceCell, Evaluation, defined
from lensmith_vision.figures import Cells, calibration_bins, count_intervals, regression_intervals, residual_bins
from lensmith_vision.heads import Head, HeadType
from lensmith_vision.losses import log_loss
from lensmith_vision.out_of_fold import EvaluationMethod
from lensmith_vision.threads import in_threads

__all__ = ["Decisions", "ThresholdAim", "evaluate", "fit_temperature", "thresholds_of"]

_COOLEST, _HOTTEST = 0.25, 8.0
_FEW_TO_CALIBRATE = 20
_MOST_CELLS = 10_000
_FEWEST_BLOCKS, _MOST_BLOCKS = 32, 128
_BLOCK_DRAWS = 4_000_000
_COLUMNS = 16
_ROWS = 2048


@dataclass(frozen=True, eq=False)
class Decisions:
    """Out-of-fold scores beside the truth.

    Attributes:
        scores: [n, c], or [n, 1] values for regression.
        folds: [n].
        labels: [n, c] with NaN unknown, 0, 1; needed where classes are not given.
        targets: [n] for regression.
        groups: [n], near copies share a number; None: every picture stands for itself.
        thresholds: [c] that were chosen without these pictures; None: to be chosen on the other folds.
        method: On which pictures they were made.
        classes: [n], where each picture is labelled with one concept and no other; None: labels say it all.
    """

    scores: npt.NDArray[np.float32]
    folds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None
    groups: npt.NDArray[np.int64] | None = None
    thresholds: npt.NDArray[np.float32] | None = None
    method: EvaluationMethod = "out_of_fold"
    classes: npt.NDArray[np.int64] | None = None

    @cached_property
    def rankings(self) -> list[metrics.Ranking]:
        """Of each concept, over all pictures."""
        return rank_concepts(self)

    @cached_property
    def best(self) -> npt.NDArray[np.int64]:
        """The concept with the highest score of each picture."""
        starts = range(0, len(self.scores), _ROWS)
        parts = in_threads(lambda row: self.scores[row : row + _ROWS].argmax(axis=1), starts)
        best: npt.NDArray[np.int64] = np.concatenate(parts)
        return best


def rank_concepts(
    decisions: Decisions, rows: npt.NDArray[np.bool_] | None = None, *, for_precision: bool = False
) -> list[metrics.Ranking]:
    """Rank the pictures by each concept's scores, over all rows or some."""
    labels, scores, classes = decisions.labels, decisions.scores, decisions.classes
    members = None if classes is None or rows is not None else _members(classes, scores.shape[1])

    def rank_some(start: int) -> list[metrics.Ranking]:
        scored = _columns_of(scores, start)
        if members is not None:
            some = members[start : start + _COLUMNS]
            found = [np.sort(own[shown]) for own, shown in zip(scored, some, strict=True)]
            scored.sort(axis=1)
            return [
                metrics.Ranking(own, positives, for_precision=for_precision)
                for own, positives in zip(scored, found, strict=True)
            ]
        rankings = []
        if labels is None:
            raise ValueError("concepts are ranked by labels or classes")
        for own, truth in zip(scored, _columns_of(labels, start), strict=True):
            known = np.isfinite(truth) if rows is None else rows & np.isfinite(truth)
            rankings.append(metrics.Ranking.of(truth[known] == 1, own[known], for_precision=for_precision))
        return rankings

    return [ranking for some in in_threads(rank_some, range(0, scores.shape[1], _COLUMNS)) for ranking in some]


def _members(classes: npt.NDArray[np.int64], width: int) -> list[npt.NDArray[np.int64]]:
    """The rows of each class."""
    return np.split(np.argsort(classes, kind="stable"), np.cumsum(np.bincount(classes, minlength=width))[:-1])


def _columns_of(matrix: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.float32]:
    """Lay out some columns [k, n], some rows at a time: what is read of a row stays at hand until all of it is."""
    columns = np.empty((min(_COLUMNS, matrix.shape[1] - start), len(matrix)), np.float32)
    for row in range(0, len(matrix), _ROWS):
        columns[:, row : row + _ROWS] = matrix[row : row + _ROWS, start : start + _COLUMNS].T
    return columns


@dataclass(frozen=True)
class ThresholdAim:
    """What thresholds are chosen for: the best F1, or the most recall (precision) at so much precision (recall).

    Attributes:
        least_precision: Precision to keep on new pictures, 0 to 1.
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
    if aim.least_precision is not None:
        rankings = rank_concepts(decisions, rows, for_precision=True)
        found = [ranking.threshold_of_precision(aim.least_precision) for ranking in rankings]
        return np.asarray(found, dtype=np.float32)
    rankings = decisions.rankings if rows is None else rank_concepts(decisions, rows)
    if aim.least_recall is not None:
        found = [ranking.threshold_of_recall(aim.least_recall) for ranking in rankings]
    else:
        found = [ranking.best_f1_threshold() for ranking in rankings]
    return np.asarray(found, dtype=np.float32)


def evaluate(head: Head, decisions: Decisions, penalty: float, aim: ThresholdAim) -> Evaluation:
    """Compute all figures of a head from its decisions about pictures that it was not fitted on."""
    rows = len(decisions.folds)
    groups = np.arange(rows) if decisions.groups is None else decisions.groups
    resamples = Resamples(groups)
    if decisions.targets is not None:
        return _evaluate_numbers(decisions, decisions.targets, penalty, resamples)
    labels = decisions.labels
    if head.type == "multi_class" and decisions.classes is None and labels is not None:
        decisions = replace(decisions, classes=labels.argmax(axis=1))
    cells, predicted = _cells(head, decisions, aim)
    rankings = decisions.rankings
    with ThreadPoolExecutor(1) as executor:
        beside = executor.submit(_whole, head, decisions, resamples)
        intervals = count_intervals(cells, resamples)
        ranks = _rank_intervals(rankings, resamples)
        whole = beside.result()
    counts = [
        metrics.Binary(right, false, missed, ranking.rows - ranking.positives - false)
        for right, missed, false, ranking in zip(*cells.counts(), rankings, strict=True)
    ]
    together = sum(counts[1:], counts[0])
    columns = zip(head.concepts, rankings, counts, head.thresholds.tolist(), intervals.concepts, ranks, strict=True)
    concepts = [_concept(*column) for column in columns]
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
        cooccurrence=() if predicted is None or labels is None else _cooccurrence(head, labels, predicted),
    )


def _cells(head: Head, decisions: Decisions, aim: ThresholdAim) -> tuple[Cells, npt.NDArray[np.bool_] | None]:
    """What is predicted against what is true; the predictions [n, c] too, where pictures may show several concepts."""
    if decisions.classes is not None:
        # The highest score wins.
        return Cells.of_classes(decisions.classes, decisions.best, len(head.concepts)), None
    if decisions.labels is None:
        raise ValueError("an evaluation needs labels, classes or targets")
    predicted = _predicted(decisions, aim)
    return Cells.of(decisions.labels, predicted), predicted


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


def _predicted(decisions: Decisions, aim: ThresholdAim) -> npt.NDArray[np.bool_]:
    """Decide by thresholds that were chosen on other pictures."""
    scores = decisions.scores
    if decisions.thresholds is not None:
        above: npt.NDArray[np.bool_] = scores >= decisions.thresholds
        return above
    predicted = np.zeros(scores.shape, dtype=np.bool_)
    for fold in range(int(decisions.folds.max()) + 1):
        held_out = decisions.folds == fold
        predicted[held_out] = scores[held_out] >= thresholds_of(decisions, aim, ~held_out)
    return predicted


def _rank_intervals(rankings: list[metrics.Ranking], resamples: Resamples) -> list[RankIntervals]:
    blocks = _BLOCK_DRAWS // (2 * resamples.count * max(1, len(rankings)))
    blocks = max(_FEWEST_BLOCKS, min(_MOST_BLOCKS, blocks))

    def of_some(start: int) -> list[RankIntervals]:
        return rank_intervals(rankings[start : start + _COLUMNS], resamples, blocks, start)

    return [ranks for some in in_threads(of_some, range(0, len(rankings), _COLUMNS)) for ranks in some]


def _concept(
    concept: str,
    ranking: metrics.Ranking,
    count: metrics.Binary,
    threshold: float,
    intervals: dict[str, Interval | None],
    ranks: RankIntervals,
) -> ConceptEvaluation:
    both = {"roc_auc": ranks.roc_auc, "average_precision": ranks.average_precision}
    return ConceptEvaluation(
        concept=concept,
        positives=ranking.positives,
        negatives=ranking.rows - ranking.positives,
        precision=defined(count.precision) or 0.0,
        recall=defined(count.recall) or 0.0,
        f1=defined(count.f1) or 0.0,
        threshold=threshold,
        roc_auc=defined(ranking.roc_auc()),
        average_precision=defined(ranking.average_precision()),
        intervals=_known(intervals | both),
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


def _whole(head: Head, decisions: Decisions, resamples: Resamples) -> _Whole:
    scores, labels, truth = decisions.scores, decisions.labels, decisions.classes
    if truth is None:
        if labels is None:
            raise ValueError("there is nothing to hold scores against")
        known = np.isfinite(labels)
        confidence, right = scores[known].astype(np.float64), labels[known] == 1
        error = metrics.expected_calibration_error(confidence, right)
        return _Whole(confidence, right, expected_calibration_error=defined(error))
    best = decisions.best
    matrix = metrics.confusion_matrix(truth, best, len(head.concepts))
    actual, guessed = np.nonzero(matrix)
    most = np.argsort(-matrix[actual, guessed], kind="stable")[:_MOST_CELLS]
    shown = actual[np.sort(most)], guessed[np.sort(most)]
    cells = [
        ConfusionCell(head.concepts[one], head.concepts[other], count)
        for one, other, count in zip(*(side.tolist() for side in (*shown, matrix[shown])), strict=True)
    ]
    confidence, right = scores[np.arange(len(best)), best].astype(np.float64), best == truth
    among_five, wrong = right.copy(), np.flatnonzero(~right)
    among_five[wrong] = metrics.in_top_k(truth, scores, 5, wrong)
    drawn = resamples.sums(scipy.sparse.csr_array(np.stack([np.ones(len(truth)), right, among_five], axis=1)))
    # A draw may be of nothing where there are two or three pictures.
    count = np.where(drawn[0] > 0, drawn[0], np.nan)
    groups = resamples.group_count
    intervals = {"accuracy": interval_of(drawn[1] / count, groups)}
    if len(head.concepts) > 5:
        intervals["top5_accuracy"] = interval_of(drawn[2] / count, groups)
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
