"""What the SDK says of models, how they are trained, and what came of a training."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from lensmith.errors import LensmithError
from lensmith.evaluation_types import EvaluationMethod, EvaluationSummary


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


class TrainingMode(StrEnum):
    """What is trained: a head on the vectors of the base model, or the whole network."""

    HEAD = "head"
    FINE_TUNE = "fine-tune"


class Severity(StrEnum):
    """How grave a finding is."""

    HINT = "hint"
    WARNING = "warning"
    ERROR = "error"


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
    """Something that can be trained and asked. Its `etag` is another one after each change and each new version."""

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
    etag: str = ""


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about the data a version was trained on."""

    reason: str
    severity: Severity
    message: str
    concept: str


@dataclass(frozen=True)
class ModelVersion:
    """One training of a model.

    `network_space` is the space of its own network and `network_size_bytes` how large that is, of a fine-tuned version;
    else they are empty and 0, and it is served by its base model and a head.
    """

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
    network_space: str = ""
    network_size_bytes: int = 0
