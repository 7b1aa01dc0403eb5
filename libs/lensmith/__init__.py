"""Lensmith: teach computers to see by your own taxonomy.

    >>> import lensmith
    >>> client = lensmith.Client(key="lsk_…")
    >>> client.predict("trash-sorter", ["bottle.jpg"]).items[0].best.concept
    'glass'

`Client` is for ordinary code, `AsyncClient` for code with an event loop; they have the same methods.
"""

from lensmith._async.client import AsyncClient
from lensmith._sync.client import Client
from lensmith.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineExceededError,
    ForbiddenError,
    InternalError,
    InvalidInputError,
    LensmithError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
    UnauthenticatedError,
    UnavailableError,
)
from lensmith.evaluation_types import ComparisonVerdict, InputChange, LearningCurveState
from lensmith.explanation_types import HeatMapMethod
from lensmith.suggestion_types import SuggestionAction, SuggestionKind, SuggestionState
from lensmith.types import (
    Annotation,
    EvaluationMethod,
    HeadTier,
    InputStatus,
    ModelType,
    NewInput,
    TrainingMode,
    TrainingSettings,
    UpgradeState,
    VersionState,
)

__all__ = [
    "Client",
    "AsyncClient",
    "Annotation",
    "ComparisonVerdict",
    "EvaluationMethod",
    "HeadTier",
    "HeatMapMethod",
    "InputChange",
    "InputStatus",
    "LearningCurveState",
    "ModelType",
    "NewInput",
    "SuggestionAction",
    "SuggestionKind",
    "SuggestionState",
    "TrainingMode",
    "TrainingSettings",
    "UpgradeState",
    "VersionState",
    "LensmithError",
    "AlreadyExistsError",
    "ConflictError",
    "DeadlineExceededError",
    "ForbiddenError",
    "InternalError",
    "InvalidInputError",
    "NotFoundError",
    "PreconditionError",
    "QuotaExceededError",
    "UnauthenticatedError",
    "UnavailableError",
]
