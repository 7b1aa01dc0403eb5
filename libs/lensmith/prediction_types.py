"""What the SDK tells of what a model sees in pictures."""

from dataclasses import dataclass

from lensmith.errors import LensmithError


@dataclass(frozen=True)
class ConceptScore:
    """How likely one concept is, 0 to 1; `predicted` where the version's threshold is reached."""

    concept: str
    display_name: str
    value: float
    predicted: bool


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
