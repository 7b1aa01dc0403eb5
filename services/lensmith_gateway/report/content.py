"""What a report says; as JSON it is exactly this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "Advice",
    "Calibration",
    "CalibrationBin",
    "ConceptRow",
    "Confusion",
    "ConfusionPair",
    "Example",
    "CurvePoint",
    "Figure",
    "Learning",
    "Look",
    "Range",
    "Report",
    "Residual",
    "Verdict",
]


@dataclass(frozen=True, slots=True)
class Range:
    """Between which values a figure lies with a chance of 95 %."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The report in two sentences.

    Attributes:
        level: `dependable`, `useful`, `beginning`, `guessing` or `unknown`.
        headline: how good it is.
        sentences: what that means.
    """

    level: str
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all pictures.

    Attributes:
        key: its name in the evaluation, such as `accuracy`.
        label: its name in the trade.
        text: the figure as people write it.
        words: what it means.
    """

    key: str
    label: str
    value: float
    text: str
    words: str
    interval: Range | None = None


@dataclass(frozen=True, slots=True)
class ConceptRow:
    """How good one concept is.

    Attributes:
        pictures: pictures that show it.
        right_words: what its precision means.
        found_words: what its recall means.
    """

    concept: str
    display_name: str
    pictures: int
    precision: float
    recall: float
    f1: float
    threshold: float
    right_words: str
    found_words: str
    precision_interval: Range | None = None
    recall_interval: Range | None = None
    average_precision: float | None = None


@dataclass(frozen=True, slots=True)
class ConfusionPair:
    """One concept taken for another."""

    actual: str
    predicted: str
    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """What was taken for what: a matrix where it can be read, and the most frequent mistakes.

    Attributes:
        names: display names of rows (what it is) and columns (what it was taken for); empty: too many to read.
        rows: counts.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    pairs: tuple[ConfusionPair, ...]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Of the scores between two values: how many, their mean, and the part that was right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a score of 0.9 is right nine times of ten."""

    error: float
    words: str
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class Residual:
    """Answers that were off by so much."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """How good it is with so many pictures.

    Attributes:
        expected: whether it is what is expected, rather than measured.
    """

    images: int
    value: float
    interval: Range
    expected: bool


@dataclass(frozen=True, slots=True)
class Learning:
    """What more pictures would bring.

    Attributes:
        figure: what is told: `accuracy`, `macro_f1` or `mean_absolute_error`.
        words: what is expected of twice as many.
        helped: things that gain most, each with what is expected.
        top: largest value of the chart.
    """

    figure: str
    words: str
    points: tuple[CurvePoint, ...]
    helped: tuple[str, ...]
    top: float


@dataclass(frozen=True, slots=True)
class Look:
    """A picture worth a look.

    Attributes:
        input: resource name.
        sentence: what there is to see; empty where that was said of all.
        file: name of its file; empty where nobody noted one.
        picture: data URI of the picture, small; empty where it could not be had.
    """

    input: str
    sentence: str
    file: str = ""
    picture: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Advice:
    """Something to fix or to know about the data.

    Attributes:
        kind: machine-readable reason.
        severity: `error`, `warning` or `hint`.
        message: one sentence.
        count: how many there are of the kind.
        looks: some of the pictures.
    """

    kind: str
    severity: str
    message: str
    count: int = 1
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One picture that the version was examined on.

    Attributes:
        input: resource name.
        sentence: what it is and what the model said.
        file: name of its file; empty where nobody noted one.
        picture: data URI of the picture, small; empty where it could not be had.
        heat_map: data URI of the same with what spoke for the answer; empty where there is none.
    """

    input: str
    correct: bool
    actual: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float
    sentence: str
    actual_number: float | None = None
    predicted_number: float | None = None
    file: str = ""
    picture: str = field(default="", repr=False)
    heat_map: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """The whole report.

    Attributes:
        facts: what the version is, name and value, for the table at the end.
        notes: what is missing from the report, and why.
    """

    name: str
    title: str
    description: str
    type: str
    what: str
    version: int
    production: bool
    created: str
    verdict: Verdict
    method: str
    figures: tuple[Figure, ...]
    concepts: tuple[ConceptRow, ...]
    confusion: Confusion | None
    calibration: Calibration | None
    residuals: tuple[Residual, ...]
    learning: Learning | None
    advice: tuple[Advice, ...]
    wrong: tuple[Example, ...]
    right: tuple[Example, ...]
    cautions: tuple[str, ...]
    facts: Mapping[str, str]
    licence: str
    notes: tuple[str, ...]
