"""Messages about evaluations to values and back."""

from collections.abc import Mapping

from lensmith import _convert, types
from lensmith import evaluation_types as told
from lensmith._training_settings import EVALUATION
from lensmith_api.v1 import evaluation_pb2 as pb

VERDICT = {
    pb.COMPARISON_VERDICT_UNSPECIFIED: told.ComparisonVerdict.UNDECIDED,
    pb.COMPARISON_VERDICT_BETTER: told.ComparisonVerdict.BETTER,
    pb.COMPARISON_VERDICT_WORSE: told.ComparisonVerdict.WORSE,
    pb.COMPARISON_VERDICT_UNDECIDED: told.ComparisonVerdict.UNDECIDED,
}
CHANGE = {
    pb.INPUT_CHANGE_UNSPECIFIED: told.InputChange.BROKEN,
    pb.INPUT_CHANGE_FIXED: told.InputChange.FIXED,
    pb.INPUT_CHANGE_BROKEN: told.InputChange.BROKEN,
}
CHANGE_TO_PROTO = {
    told.InputChange.FIXED: pb.INPUT_CHANGE_FIXED,
    told.InputChange.BROKEN: pb.INPUT_CHANGE_BROKEN,
}
CURVE_STATE = {
    pb.LEARNING_CURVE_STATE_UNSPECIFIED: told.LearningCurveState.QUEUED,
    pb.LEARNING_CURVE_STATE_QUEUED: told.LearningCurveState.QUEUED,
    pb.LEARNING_CURVE_STATE_READY: told.LearningCurveState.READY,
    pb.LEARNING_CURVE_STATE_FAILED: told.LearningCurveState.FAILED,
}


def evaluation(message: pb.Evaluation) -> types.Evaluation:
    """How good a version is."""
    optional = _convert.optional
    return types.Evaluation(
        method=message.method,
        input_count=message.input_count,
        accuracy=optional(message, "accuracy"),
        top5_accuracy=optional(message, "top5_accuracy"),
        macro_precision=optional(message, "macro_precision"),
        macro_recall=optional(message, "macro_recall"),
        macro_f1=optional(message, "macro_f1"),
        expected_calibration_error=optional(message, "expected_calibration_error"),
        concepts=tuple(concept_evaluation(item) for item in message.concepts),
        confusion=tuple(
            types.ConfusionCell(actual=cell.actual, predicted=cell.predicted, count=cell.count)
            for cell in message.confusion
        ),
        r2=optional(message, "r2"),
        mean_absolute_error=optional(message, "mean_absolute_error"),
        root_mean_squared_error=optional(message, "root_mean_squared_error"),
        evaluation_method=EVALUATION.get(message.evaluation_method),
        micro_precision=optional(message, "micro_precision"),
        micro_recall=optional(message, "micro_recall"),
        micro_f1=optional(message, "micro_f1"),
        macro_roc_auc=optional(message, "macro_roc_auc"),
        macro_average_precision=optional(message, "macro_average_precision"),
        median_absolute_error=optional(message, "median_absolute_error"),
        intervals=intervals(message.intervals),
        resamples=message.resamples,
        calibration=tuple(
            told.CalibrationBin(bar.low, bar.high, bar.count, bar.confidence, bar.accuracy)
            for bar in message.calibration
        ),
        cooccurrence=tuple(
            told.CooccurrenceCell(cell.concept, cell.other, cell.count, cell.predicted_count)
            for cell in message.cooccurrence
        ),
        residuals=tuple(told.ResidualBin(bar.low, bar.high, bar.count) for bar in message.residuals),
        other_thresholds=message.other_thresholds,
    )


def concept_evaluation(message: pb.ConceptEvaluation) -> types.ConceptEvaluation:
    """How good one concept is."""
    return types.ConceptEvaluation(
        concept=message.concept,
        positives=message.positives,
        negatives=message.negatives,
        precision=message.precision,
        recall=message.recall,
        f1=message.f1,
        roc_auc=_convert.optional(message, "roc_auc"),
        average_precision=_convert.optional(message, "average_precision"),
        threshold=message.threshold,
        intervals=intervals(message.intervals),
    )


def interval(message: pb.Interval) -> told.Interval:
    """An interval."""
    return told.Interval(message.low, message.high)


def intervals(messages: Mapping[str, pb.Interval]) -> dict[str, told.Interval]:
    """Intervals by the name of their figure."""
    return {name: interval(messages[name]) for name in sorted(messages)}


def curve(message: pb.ConceptCurve) -> told.ConceptCurve:
    """Curves of a concept."""
    return told.ConceptCurve(
        concept=message.concept,
        points=tuple(
            told.CurvePoint(point.threshold, point.precision, point.recall, point.false_positive_rate)
            for point in message.points
        ),
    )


def evaluated_input(message: pb.EvaluatedInput) -> told.EvaluatedInput:
    """What was answered about one input."""
    return told.EvaluatedInput(
        input=_convert.last_part(message.input),
        correct=message.correct,
        confidence=message.confidence,
        actual_concepts=tuple(message.actual_concepts),
        predicted_concepts=tuple(message.predicted_concepts),
        scores={score.concept: score.value for score in message.scores},
        actual_number=_convert.optional(message, "actual_number"),
        predicted_number=_convert.optional(message, "predicted_number"),
    )


def changed_input(message: pb.ChangedInput) -> told.ChangedInput:
    """An input that two versions answer differently."""
    return told.ChangedInput(CHANGE[message.change], evaluated_input(message.first), evaluated_input(message.other))


def comparison(message: pb.VersionComparison) -> told.VersionComparison:
    """Two versions on the same pictures."""
    return told.VersionComparison(
        version=int(_convert.last_part(message.model_version)),
        other_version=int(_convert.last_part(message.other_model_version)),
        input_count=message.input_count,
        only_first_count=message.only_first_count,
        only_other_count=message.only_other_count,
        figure=message.figure,
        value=message.value,
        other_value=message.other_value,
        difference_interval=interval(message.difference_interval) if message.HasField("difference_interval") else None,
        p_value=message.p_value,
        verdict=VERDICT[message.verdict],
        fixed_count=message.fixed_count,
        broken_count=message.broken_count,
        concepts=tuple(
            told.ConceptComparison(
                concept=row.concept,
                positives=row.positives,
                f1=row.f1,
                other_f1=row.other_f1,
                difference_interval=interval(row.difference_interval) if row.HasField("difference_interval") else None,
            )
            for row in message.concepts
        ),
    )


def learning_curve(message: pb.LearningCurve) -> told.LearningCurve:
    """What more images would bring."""
    return told.LearningCurve(
        state=CURVE_STATE[message.state],
        error=_convert.error(message.error),
        figure=message.figure,
        points=tuple(point(item) for item in message.points),
        expected=tuple(point(item) for item in message.expected),
        concepts=tuple(
            told.ConceptLearningCurve(
                row.concept,
                tuple(point(item) for item in row.points),
                tuple(point(item) for item in row.expected),
            )
            for row in message.concepts
        ),
        created_at=_convert.moment(message.create_time),
        ended_at=_convert.moment(message.end_time),
    )


def point(message: pb.LearningCurvePoint) -> told.LearningCurvePoint:
    """A point of a learning curve."""
    return told.LearningCurvePoint(
        images=message.images,
        value=message.value,
        range=interval(message.range) if message.HasField("range") else None,
    )
