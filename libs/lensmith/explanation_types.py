"""What explanations and exports give: plain immutable values."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from lensmith.errors import LensmithError
from lensmith.types import Annotation, ConceptScore


class HeatMapMethod(StrEnum):
    """What the values of heat maps are; the mean of them is the logit in the first two."""

    CLASS_ACTIVATION = "class-activation"
    SHARED_CONTRIBUTION = "shared-contribution"
    GRADIENT = "gradient"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Region:
    """A part of a picture as fractions of its width and height, from the upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class HeatMap:
    """Which parts of a picture speak for a concept, and which against it.

    Attributes:
        values: What each cell says, row by row from the upper left; above 0 it speaks for the concept.
        region: The part of the picture that the cells cover.
        overlay: The map drawn over the picture, the bytes of a PNG; empty unless it was asked for.
    """

    rows: int
    columns: int
    values: tuple[float, ...]
    region: Region
    overlay: bytes = field(repr=False)


@dataclass(frozen=True)
class ConceptExplanation:
    """Why a model answers as it does about one concept; `logit` is the mean of the map's values."""

    concept: ConceptScore
    logit: float
    heat_map: HeatMap


@dataclass(frozen=True)
class NearestInput:
    """A training picture that is like the one asked about; `similarity` is the cosine of their vectors."""

    id: str
    similarity: float
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class Explanation:
    """The explanation of the answer about one picture, or an error.

    Attributes:
        concepts: By falling score.
        number: Of a regression model.
        nearest: Training pictures most like it, the most alike first.
        nearest_error: Why they are missing though they were asked for.
    """

    id: str
    concepts: tuple[ConceptExplanation, ...]
    number: float | None
    error: LensmithError | None
    nearest: tuple[NearestInput, ...] = ()
    nearest_error: LensmithError | None = None


@dataclass(frozen=True)
class Explanations:
    """Explanations in the order of the pictures, and the version that gave them."""

    model_version: str
    method: HeatMapMethod
    items: tuple[Explanation, ...]


@dataclass(frozen=True)
class ExportedVersion:
    """The archive of a version on this machine."""

    path: Path
    size_bytes: int
    sha256: str
