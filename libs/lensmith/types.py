"""What the SDK takes and returns: plain immutable values.

Those of apps, keys and pictures are made here; those of base models, models, evaluations and predictions have modules
of their own, and are found here as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from os import PathLike

from lensmith.base_model_types import BaseModel, ModelUpgrade, ModelUpgradeOutcome, Upgrade, UpgradeCheck, UpgradeState
from lensmith.errors import LensmithError
from lensmith.evaluation_types import ConceptEvaluation, ConfusionCell, Evaluation, EvaluationMethod, EvaluationSummary
from lensmith.model_types import (
    Finding,
    HeadTier,
    Model,
    ModelType,
    ModelVersion,
    Severity,
    TrainingMode,
    TrainingSettings,
    VersionState,
)
from lensmith.prediction_types import (
    ConceptScore,
    Embedding,
    Embeddings,
    Prediction,
    PredictionInterval,
    Predictions,
    Unfamiliarity,
)

__all__ = [
    "Annotation",
    "App",
    "BaseModel",
    "Concept",
    "ConceptEvaluation",
    "ConceptScore",
    "ConfusionCell",
    "Embedding",
    "Embeddings",
    "Evaluation",
    "EvaluationMethod",
    "EvaluationSummary",
    "Finding",
    "HeadTier",
    "Identity",
    "ImageSource",
    "Input",
    "InputCounts",
    "InputResult",
    "InputStatus",
    "Json",
    "Key",
    "Model",
    "ModelType",
    "ModelUpgrade",
    "ModelUpgradeOutcome",
    "ModelVersion",
    "NewInput",
    "NewKey",
    "Prediction",
    "PredictionInterval",
    "Predictions",
    "Severity",
    "TrainingMode",
    "TrainingSettings",
    "Unfamiliarity",
    "Upgrade",
    "UpgradeCheck",
    "UpgradeState",
    "UsageRow",
    "VersionState",
]

Json = object
"""Anything that JSON can say."""

ImageSource = str | bytes | PathLike[str]
"""A picture: a URL (`http://…`, `https://…`), the path of a file, or the bytes of one."""


class InputStatus(StrEnum):
    """How far an input has come."""

    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


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
class UsageRow:
    """Operations of one kind, model and key on one day."""

    day: str
    operation: str
    model: str
    key_uid: str
    count: int
