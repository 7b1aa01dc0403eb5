"""What the SDK takes and returns: plain immutable values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from os import PathLike

from lensmith.errors import LensmithError
from lensmith.evaluation_types import CalibrationBin, CooccurrenceCell, Interval, ResidualBin

Json = object
"""Anything that JSON can say."""

ImageSource = str | bytes | PathLike[str]
"""A picture: a URL (`http://…`, `https://…`), the path of a file, or the bytes of one."""


class ModelType(StrEnum):
    """What a model answers."""

    MULTI_CLASS = "multi-class"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"


class VersionState(StrEnum):
    """How far a version has come."""

    QUEUED = "queued"
    TRAINING = "training"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether it will not change any more."""
        return self in (VersionState.READY, VersionState.FAILED, VersionState.CANCELLED)


class HeadTier(StrEnum):
    """How costly a head is to ask: kilobytes, or megabytes where that wins a point; `auto` decides out of fold."""

    AUTO = "auto"
    LINEAR = "linear"
    KERNEL = "kernel"


class EvaluationMethod(StrEnum):
    """On which pictures a version is evaluated: each out of its fold, those marked `test`, or one fifth."""

    OUT_OF_FOLD = "out-of-fold"
    TEST_SET = "test-set"
    SPLIT = "split"


class TrainingMode(StrEnum):
    """What is trained: a head on the vectors of the base model, or the whole network."""

    HEAD = "head"
    FINE_TUNE = "fine-tune"


class UpgradeState(StrEnum):
    """How far an upgrade has come."""

    EMBEDDING = "embedding"
    TRAINING = "training"
    SWITCHING = "switching"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether it will not change any more."""
        return self in (UpgradeState.DONE, UpgradeState.FAILED, UpgradeState.CANCELLED)


class ModelUpgradeOutcome(StrEnum):
    """What becomes of one model in an upgrade."""

    WAITING = "waiting"
    TRAINING = "training"
    TRAINED = "trained"
    UPGRADED = "upgraded"
    KEPT = "kept"


class InputStatus(StrEnum):
    """How far an input has come."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class Severity(StrEnum):
    """How grave a finding is."""

    HINT = "hint"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class App:
    """A tenant."""

    id: str
    uid: str
    display_name: str
    description: str
    base_model: str
    created_at: datetime | None


@dataclass(frozen=True)
class Key:
    """A key, without its secret."""

    uid: str
    prefix: str
    description: str
    scopes: tuple[str, ...]
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. `secret` is shown once and stored nowhere; empty when a repeated call found it made."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Identity:
    """Whose key this is and what it may do."""

    app: str
    key: Key
    effective_scopes: tuple[str, ...]
    operator: bool


@dataclass(frozen=True)
class Concept:
    """A word of the app's taxonomy, with how many inputs carry it."""

    id: str
    display_name: str
    description: str
    positive_count: int
    negative_count: int
    number_count: int


@dataclass(frozen=True)
class Annotation:
    """What is said about one concept in one input: positive, negative, or a number."""

    concept: str
    positive: bool = True
    number: float | None = None


@dataclass(frozen=True)
class NewInput:
    """A picture to add."""

    image: ImageSource
    id: str = ""
    annotations: Sequence[Annotation] = ()
    metadata: Mapping[str, Json] | None = None
    test: bool = False


@dataclass(frozen=True)
class ConceptScore:
    """How likely one concept is, 0 to 1; `predicted` where the version's threshold is reached."""

    concept: str
    display_name: str
    value: float
    predicted: bool


@dataclass(frozen=True)
class Input:
    """A picture of the app.

    `general_concepts` is what the public model General saw in it when it was embedded, by falling score, and
    `general_version` which version of it; both are empty until then, and in lists that did not ask for them.
    """

    id: str
    uid: str
    status: InputStatus
    error: LensmithError | None
    sha256: str
    size_bytes: int
    mime_type: str
    width: int
    height: int
    metadata: Mapping[str, Json]
    test: bool
    annotations: tuple[Annotation, ...]
    created_at: datetime | None
    general_concepts: tuple[ConceptScore, ...] = ()
    general_version: str = ""


@dataclass(frozen=True)
class InputResult:
    """What became of one picture to add: an input, or an error."""

    input: Input | None
    duplicate: bool
    error: LensmithError | None


@dataclass(frozen=True)
class InputCounts:
    """Inputs by status."""

    pending: int
    ready: int
    failed: int


@dataclass(frozen=True)
class BaseModel:
    """A network that models are trained on top of.

    Attributes:
        space: Id of the space of its vectors.
        dimensions: Length of its vectors.
        input_side: Side of the square picture it sees, in pixels.
        source: Where its weights come from.
        sha256: Of its ONNX file.
        rank: An app without a choice of its own gets the highest.
        model: Public model that its own classifier became, as `main/{model}`; empty where it has none.
    """

    id: str
    version: str
    display_name: str
    description: str
    space: str
    dimensions: int
    input_side: int
    licence: str
    source: str
    sha256: str
    size_bytes: int
    rank: int
    model: str
    created_at: datetime | None


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. What is None is as the model says, and what that does not say as the platform does.

    Attributes:
        tier: Which kind of head to make.
        best_f1: Choose the thresholds of the concepts for the best F1 score.
        min_precision: Choose them for the most recall at so much precision, above 0 and at most 1.
        min_recall: Choose them for the most precision at so much recall, above 0 and at most 1.
        evaluation: On which pictures the version is evaluated.
        mode: What is trained.
        max_epochs: Most passes over the pictures while fine-tuning.
    """

    tier: HeadTier | None = None
    best_f1: bool = False
    min_precision: float | None = None
    min_recall: float | None = None
    evaluation: EvaluationMethod | None = None
    mode: TrainingMode | None = None
    max_epochs: int | None = None


@dataclass(frozen=True)
class Model:
    """Something that can be trained and asked."""

    name: str
    id: str
    display_name: str
    description: str
    type: ModelType
    concepts: tuple[str, ...]
    closed_environment: bool
    negative_concept: str
    min_value: float | None
    max_value: float | None
    production_version: int
    pinned: bool
    latest_version: int
    imported: bool
    created_at: datetime | None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    retrain_after_annotations: int = 0
    retrain_error: LensmithError | None = None


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about the data a version was trained on."""

    reason: str
    severity: Severity
    message: str
    concept: str


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
class ModelVersion:
    """One training of a model."""

    name: str
    number: int
    state: VersionState
    error: LensmithError | None
    fraction: float
    stage: str
    progress: str
    base_model: str
    concepts: tuple[str, ...]
    thresholds: tuple[float, ...]
    input_count: int
    findings: tuple[Finding, ...]
    summary: EvaluationSummary
    note: str
    production: bool
    upgrade: int
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tier: HeadTier | None = None
    dataset_sha256: str = ""


@dataclass(frozen=True)
class ModelUpgrade:
    """One model in an upgrade: versions and their `figure` (`accuracy`, `macro_f1` or `r2`) before and after."""

    model: str
    outcome: ModelUpgradeOutcome
    from_version: int
    to_version: int
    figure: str
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True)
class Upgrade:
    """Moving an app to another base model."""

    name: str
    number: int
    state: UpgradeState
    error: LensmithError | None
    from_base_model: str
    base_model: str
    force: bool
    input_count: int
    embedded_input_count: int
    failed_input_count: int
    models: tuple[ModelUpgrade, ...]
    message: str
    actor: str
    created_at: datetime | None
    switched_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True)
class UpgradeCheck:
    """The base model of an app (None before it is used), the best one installed, and the number of what runs (or 0)."""

    base_model: BaseModel | None
    best_base_model: BaseModel | None
    upgradable: bool
    running: int


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
class Unfamiliarity:
    """How unlike the pictures that the version was trained on a picture is, 0 to 1; `predicted` above 0.5."""

    value: float
    predicted: bool


@dataclass(frozen=True)
class PredictionInterval:
    """Where the true number lies in `coverage` (0 to 1) of the cases, as seen out of fold."""

    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class Prediction:
    """The answer about one picture: concepts by falling score, or a number, or an error.

    Attributes:
        unfamiliar: None where the version remembers no training pictures.
        interval: Of a number; None where the version does not know it.
    """

    id: str
    concepts: tuple[ConceptScore, ...]
    number: float | None
    error: LensmithError | None
    unfamiliar: Unfamiliarity | None = None
    interval: PredictionInterval | None = None

    @property
    def best(self) -> ConceptScore | None:
        """The likeliest concept."""
        return self.concepts[0] if self.concepts else None


@dataclass(frozen=True)
class Predictions:
    """Answers in the order of the pictures, and the version that gave them."""

    model_version: str
    items: tuple[Prediction, ...]


@dataclass(frozen=True)
class Embedding:
    """The vector of one picture, or an error."""

    id: str
    vector: tuple[float, ...]
    error: LensmithError | None


@dataclass(frozen=True)
class Embeddings:
    """Vectors in the order of the pictures, and their space."""

    space: str
    items: tuple[Embedding, ...]


@dataclass(frozen=True)
class UsageRow:
    """Operations of one kind, model and key on one day."""

    day: str
    operation: str
    model: str
    key_uid: str
    count: int
