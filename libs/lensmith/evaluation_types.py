"""What the SDK tells of how good versions are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lensmith.errors import LensmithError


class EvaluationMethod(StrEnum):
    """On which pictures a version is evaluated: each out of its fold, those marked `test`, or one fifth."""

    OUT_OF_FOLD = "out-of-fold"
    TEST_SET = "test-set"
    SPLIT = "split"


class InputChange(StrEnum):
    """How an input changed between two versions."""

    FIXED = "fixed"
    BROKEN = "broken"


class ComparisonVerdict(StrEnum):
    """What a comparison says of the other version; undecided where the difference may be chance."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


class LearningCurveState(StrEnum):
    """How far a learning curve has come."""

    QUEUED = "queued"
    READY = "ready"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether it will not change by itself any more."""
        return self is not LearningCurveState.QUEUED


@dataclass(frozen=True)
class Interval:
    """Between which values a figure lies with a chance of 95 %, had the pictures been drawn anew."""

    low: float
    high: float


@dataclass(frozen=True)
class CooccurrenceCell:
    """Inputs that show two concepts, and those predicted to."""

    concept: str
    other: str
    count: int
    predicted_count: int


@dataclass(frozen=True)
class CalibrationBin:
    """Of the scores from `low` to `high`: how many, their mean, and the part that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ResidualBin:
    """How many errors (predicted less true) lie from `low` to `high`."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class EvaluationSummary:
    """The figures of an evaluation that fit in one line; None where they have no meaning."""

    accuracy: float | None
    macro_f1: float | None
    macro_precision: float | None
    macro_recall: float | None
    r2: float | None
    mean_absolute_error: float | None


@dataclass(frozen=True)
class ConceptEvaluation:
    """How good one concept of a version is, out of fold."""

    concept: str
    positives: int
    negatives: int
    precision: float
    recall: float
    f1: float
    roc_auc: float | None
    average_precision: float | None
    threshold: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfusionCell:
    """Inputs of one concept that were taken for another (or rightly for itself)."""

    actual: str
    predicted: str
    count: int


@dataclass(frozen=True)
class Evaluation:
    """How good a version is on pictures that it was not fitted on.

    Attributes:
        intervals: 95 % intervals by the name of the figure, from drawing the pictures anew `resamples` times.
        other_thresholds: Whether it was computed at thresholds other than those of the training.
    """

    method: str
    input_count: int
    accuracy: float | None
    top5_accuracy: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    expected_calibration_error: float | None
    concepts: tuple[ConceptEvaluation, ...]
    confusion: tuple[ConfusionCell, ...]
    r2: float | None
    mean_absolute_error: float | None
    root_mean_squared_error: float | None
    evaluation_method: EvaluationMethod | None = None
    micro_precision: float | None = None
    micro_recall: float | None = None
    micro_f1: float | None = None
    macro_roc_auc: float | None = None
    macro_average_precision: float | None = None
    median_absolute_error: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    resamples: int = 0
    calibration: tuple[CalibrationBin, ...] = ()
    cooccurrence: tuple[CooccurrenceCell, ...] = ()
    residuals: tuple[ResidualBin, ...] = ()
    other_thresholds: bool = False


@dataclass(frozen=True)
class CurvePoint:
    """What holds where scores at or above a threshold count as predicted."""

    threshold: float
    precision: float
    recall: float
    false_positive_rate: float


@dataclass(frozen=True)
class ConceptCurve:
    """Precision-recall and ROC curve of a concept, by falling threshold."""

    concept: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class EvaluatedInput:
    """What a version answered about one input when it was evaluated.

    Attributes:
        input: uid of the input, which may have been deleted since.
        confidence: The highest score (multi-class), the distance of the doubtful score from its threshold
            (multi-label), or the absolute error (regression).
        scores: The highest scores and those of the actual concepts, by concept.
    """

    input: str
    correct: bool
    confidence: float
    actual_concepts: tuple[str, ...]
    predicted_concepts: tuple[str, ...]
    scores: Mapping[str, float]
    actual_number: float | None
    predicted_number: float | None


@dataclass(frozen=True)
class ConceptComparison:
    """F1 of one concept in two versions, on the common pictures."""

    concept: str
    positives: int
    f1: float
    other_f1: float
    difference_interval: Interval | None


@dataclass(frozen=True)
class VersionComparison:
    """Two versions of a model on the same pictures.

    Attributes:
        figure: `accuracy`, `macro_f1` or `mean_absolute_error`.
        value: Of the first version.
        other_value: Of the other version.
        difference_interval: Of the difference, other less first.
        p_value: Chance of so uneven a change if neither were better, near copies taken together.
        fixed_count: Inputs wrong before and right now (regression: nearer by now).
        broken_count: Inputs right before and wrong now (regression: farther off now).
    """

    version: int
    other_version: int
    input_count: int
    only_first_count: int
    only_other_count: int
    figure: str
    value: float
    other_value: float
    difference_interval: Interval | None
    p_value: float
    verdict: ComparisonVerdict
    fixed_count: int
    broken_count: int
    concepts: tuple[ConceptComparison, ...]


@dataclass(frozen=True)
class ChangedInput:
    """An input that two versions answer differently."""

    change: InputChange
    first: EvaluatedInput
    other: EvaluatedInput


@dataclass(frozen=True)
class LearningCurvePoint:
    """A figure with so many images, and the range of it."""

    images: int
    value: float
    range: Interval | None


@dataclass(frozen=True)
class ConceptLearningCurve:
    """F1 of one concept as measured on parts of its images, and as expected with more."""

    concept: str
    points: tuple[LearningCurvePoint, ...]
    expected: tuple[LearningCurvePoint, ...]


@dataclass(frozen=True)
class LearningCurve:
    """What more images would bring: as measured on parts of those there are, and as expected with more."""

    state: LearningCurveState
    error: LensmithError | None
    figure: str
    points: tuple[LearningCurvePoint, ...]
    expected: tuple[LearningCurvePoint, ...]
    concepts: tuple[ConceptLearningCurve, ...]
    created_at: datetime | None
    ended_at: datetime | None
