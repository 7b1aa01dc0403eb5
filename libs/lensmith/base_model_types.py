"""What the SDK says of base models, and of moving an app from one to another."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lensmith.errors import LensmithError


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


@dataclass(frozen=True)
class BaseModel:
    """A network that models are trained on top of.

    Attributes:
        space: Id of the space of its vectors.
        dimensions: Length of its vectors.
        input_side: Side of the square picture it sees, in pixels.
        views: Of a picture, that make one vector: 1, or more where it also looks at parts of the picture.
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
    views: int
    licence: str
    source: str
    sha256: str
    size_bytes: int
    rank: int
    model: str
    created_at: datetime | None


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
