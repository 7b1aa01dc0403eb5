"""Between figures of the vision library and protobuf messages."""

from __future__ import annotations

from collections.abc import Mapping

from lensmith_api.v1.evaluation_pb2 import (
    CalibrationBin,
    ComparisonVerdict,
    ConceptComparison,
    ConceptCurve,
    ConceptEvaluation,
    ConfusionCell,
    CooccurrenceCell,
    CurvePoint,
    Evaluation,
    Interval,
    ResidualBin,
    VersionComparison,
)
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod
from lensmith_vision import evaluation as vision_evaluation
from lensmith_vision.comparison import Comparison
from lensmith_vision.judging import Curve

__all__ = ["comparison_to_proto", "curve_to_proto", "evaluation_to_proto"]

_METHODS: dict[str, EvaluationMethod.ValueType] = {
    "out_of_fold": EvaluationMethod.EVALUATION_METHOD_OUT_OF_FOLD,
    "test_set": EvaluationMethod.EVALUATION_METHOD_TEST_SET,
    "split": EvaluationMethod.EVALUATION_METHOD_SPLIT,
}
_VERDICTS: dict[str, ComparisonVerdict.ValueType] = {
    "better": ComparisonVerdict.COMPARISON_VERDICT_BETTER,
    "worse": ComparisonVerdict.COMPARISON_VERDICT_WORSE,
    "undecided": ComparisonVerdict.COMPARISON_VERDICT_UNDECIDED,
}


def evaluation_to_proto(
    name: str, figures: vision_evaluation.Evaluation, *, other_thresholds: bool = False
) -> Evaluation:
    """Show an evaluation to callers; figures that do not exist stay unset."""
    return Evaluation(
        name=name,
        method=figures.method,
        input_count=figures.input_count,
        accuracy=figures.accuracy,
        top5_accuracy=figures.top5_accuracy,
        macro_precision=figures.macro_precision,
        macro_recall=figures.macro_recall,
        macro_f1=figures.macro_f1,
        micro_precision=figures.micro_precision,
        micro_recall=figures.micro_recall,
        micro_f1=figures.micro_f1,
        macro_roc_auc=figures.macro_roc_auc,
        macro_average_precision=figures.macro_average_precision,
        expected_calibration_error=figures.expected_calibration_error,
        concepts=[_concept(row) for row in figures.concepts],
        confusion=[
            ConfusionCell(actual=cell.actual, predicted=cell.predicted, count=cell.count) for cell in figures.confusion
        ],
        r2=figures.r2,
        mean_absolute_error=figures.mean_absolute_error,
        root_mean_squared_error=figures.root_mean_squared_error,
        median_absolute_error=figures.median_absolute_error,
        evaluation_method=_METHODS[figures.evaluation_method],
        intervals=_intervals(figures.intervals),
        resamples=figures.resamples,
        calibration=[
            CalibrationBin(
                low=bar.low, high=bar.high, count=bar.count, confidence=bar.confidence, accuracy=bar.accuracy
            )
            for bar in figures.calibration
        ],
        cooccurrence=[
            CooccurrenceCell(
                concept=cell.concept, other=cell.other, count=cell.count, predicted_count=cell.predicted_count
            )
            for cell in figures.cooccurrence
        ],
        residuals=[ResidualBin(low=bar.low, high=bar.high, count=bar.count) for bar in figures.residuals],
        other_thresholds=other_thresholds,
    )


def _concept(row: vision_evaluation.ConceptEvaluation) -> ConceptEvaluation:
    return ConceptEvaluation(
        concept=row.concept,
        positives=row.positives,
        negatives=row.negatives,
        precision=row.precision,
        recall=row.recall,
        f1=row.f1,
        roc_auc=row.roc_auc,
        average_precision=row.average_precision,
        threshold=row.threshold,
        intervals=_intervals(row.intervals),
    )


def _intervals(intervals: Mapping[str, tuple[float, float]]) -> dict[str, Interval]:
    return {name: Interval(low=low, high=high) for name, (low, high) in intervals.items()}


def curve_to_proto(concept: str, curve: Curve) -> ConceptCurve:
    """Show the curves of a concept to callers."""
    points = zip(
        curve.thresholds.tolist(),
        curve.precision.tolist(),
        curve.recall.tolist(),
        curve.false_positive_rate.tolist(),
        strict=True,
    )
    return ConceptCurve(
        concept=concept,
        points=[
            CurvePoint(threshold=threshold, precision=precision, recall=recall, false_positive_rate=false)
            for threshold, precision, recall, false in points
        ],
    )


def comparison_to_proto(first: str, other: str, compared: Comparison) -> VersionComparison:
    """Show a comparison to callers.

    Args:
        first: Resource name of the first version.
        other: Resource name of the other version.
        compared: What came out.
    """
    return VersionComparison(
        model_version=first,
        other_model_version=other,
        input_count=len(compared.other.ids),
        only_first_count=compared.only_first,
        only_other_count=compared.only_other,
        figure=compared.figure,
        value=compared.value,
        other_value=compared.other_value,
        difference_interval=_interval(compared.interval),
        p_value=compared.p_value,
        verdict=_VERDICTS[compared.verdict],
        fixed_count=int(compared.fixed.sum()),
        broken_count=int(compared.broken.sum()),
        concepts=[
            ConceptComparison(
                concept=row.concept,
                positives=row.positives,
                f1=row.f1,
                other_f1=row.other_f1,
                difference_interval=_interval(row.interval),
            )
            for row in compared.concepts
        ],
    )


def _interval(interval: tuple[float, float] | None) -> Interval | None:
    return None if interval is None else Interval(low=interval[0], high=interval[1])
