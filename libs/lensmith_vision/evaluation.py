"""How good a version is on pictures that it was not fitted on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import cast, get_args

from lensmith_vision.bootstrap import Interval
from lensmith_vision.errors import VisionError
from lensmith_vision.out_of_fold import EvaluationMethod

__all__ = [
    "SCHEMA_VERSION",
    "CalibrationBin",
    "ConceptEvaluation",
    "ConfusionCell",
    "CooccurrenceCell",
    "Evaluation",
    "ResidualBin",
]

SCHEMA_VERSION = 1
"""Raised when what an older reader makes of a document would be wrong. Figures that it does not know are no reason."""


@dataclass(frozen=True)
class ConceptEvaluation:
    """One concept by itself.

    For multi_class, precision, recall and F1 are those of the highest score winning; for multi_label, those of
    thresholds that were chosen on the other folds. ``threshold`` is the one that the head carries.
    Figures that do not exist (the AUC of a concept without negatives) are None; precision, recall and F1 are 0 then.
    ``intervals`` holds 95 % intervals by the name of the figure.
    """

    concept: str
    positives: int
    negatives: int
    precision: float
    recall: float
    f1: float
    threshold: float
    roc_auc: float | None = None
    average_precision: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfusionCell:
    """How many pictures of one concept were taken for one."""

    actual: str
    predicted: str
    count: int


@dataclass(frozen=True)
class CooccurrenceCell:
    """How many pictures show two concepts, and how many are predicted to."""

    concept: str
    other: str
    count: int
    predicted_count: int


@dataclass(frozen=True)
class CalibrationBin:
    """Of the scores from low to high: how many, their mean, and the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ResidualBin:
    """How many errors (predicted less true) lie from low to high."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """All figures of a version, each None where it does not apply to the type of head.

    Attributes:
        method: How it was made, such as ``5-fold out-of-fold``.
        input_count: Pictures evaluated.
        group_count: Groups of exact and near duplicates among them; each stayed in one fold.
        penalty: The strength of regularisation that was chosen.
        evaluation_method: On which pictures it was made.
        intervals: 95 % intervals of the figures over all, by their name.
        resamples: Draws behind the intervals.
        calibration: Of the highest score of each picture (multi_class), or of all scores (multi_label).
        cooccurrence: The most frequent pairs (multi_label).
    """

    method: str
    input_count: int
    group_count: int
    penalty: float
    accuracy: float | None = None
    top5_accuracy: float | None = None
    macro_precision: float | None = None
    macro_recall: float | None = None
    macro_f1: float | None = None
    micro_precision: float | None = None
    micro_recall: float | None = None
    micro_f1: float | None = None
    macro_roc_auc: float | None = None
    expected_calibration_error: float | None = None
    r2: float | None = None
    mean_absolute_error: float | None = None
    root_mean_squared_error: float | None = None
    concepts: tuple[ConceptEvaluation, ...] = ()
    confusion: tuple[ConfusionCell, ...] = ()
    macro_average_precision: float | None = None
    median_absolute_error: float | None = None
    evaluation_method: EvaluationMethod = "out_of_fold"
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    resamples: int = 0
    calibration: tuple[CalibrationBin, ...] = ()
    cooccurrence: tuple[CooccurrenceCell, ...] = ()
    residuals: tuple[ResidualBin, ...] = ()

    def to_json(self) -> str:
        """Write it as plain JSON; None where a figure does not exist, never NaN."""
        # Its parts, of which there may be thousands, are written from where they stand.
        return json.dumps({"schema": SCHEMA_VERSION, **vars(self)}, default=vars, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """Read what :meth:`to_json` wrote.

        Raises:
            VisionError: Not an evaluation, or of a newer schema.
        """
        try:
            document = json.loads(text)
            if document.pop("schema") != SCHEMA_VERSION:
                raise VisionError("EVALUATION_SCHEMA_UNKNOWN", f"only schema {SCHEMA_VERSION} can be read")
            parts = {
                "concepts": tuple(_concept(row) for row in document.pop("concepts")),
                "confusion": tuple(ConfusionCell(**cell) for cell in document.pop("confusion")),
                "calibration": tuple(CalibrationBin(**row) for row in document.pop("calibration", ())),
                "cooccurrence": tuple(CooccurrenceCell(**cell) for cell in document.pop("cooccurrence", ())),
                "residuals": tuple(ResidualBin(**row) for row in document.pop("residuals", ())),
                "intervals": _intervals(document.pop("intervals", {})),
            }
            # Figures that a newer one wrote are passed over.
            known = {one.name for one in fields(cls)}
            evaluation = cls(**{name: value for name, value in {**document, **parts}.items() if name in known})
            if evaluation.evaluation_method not in get_args(EvaluationMethod):
                raise ValueError("its method is unknown")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise VisionError("EVALUATION_INVALID", f"the text is no evaluation: {error}") from error
        for one in fields(evaluation):
            _check_number(one.name, getattr(evaluation, one.name))
        return evaluation

    def summary(self) -> Mapping[str, float]:
        """Return the figures that fit in one line, only those that exist."""
        names = ("accuracy", "macro_f1", "macro_precision", "macro_recall", "r2", "mean_absolute_error")
        values = {name: getattr(self, name) for name in names}
        return {name: cast(float, value) for name, value in values.items() if value is not None}


_NOT_NUMBERS = frozenset(
    {
        "method",
        "evaluation_method",
        "concepts",
        "confusion",
        "calibration",
        "cooccurrence",
        "residuals",
        "intervals",
    }
)


def defined(value: float) -> float | None:
    """Turn a NaN, which JSON cannot say, into None."""
    return None if math.isnan(value) else value


def _concept(row: dict[str, object]) -> ConceptEvaluation:
    intervals = _intervals(row.pop("intervals", {}))
    return ConceptEvaluation(**row, intervals=intervals)  # type: ignore[arg-type]  # checked by whoever wrote it


def _intervals(document: object) -> dict[str, Interval]:
    if not isinstance(document, dict):
        raise TypeError("intervals must be an object")
    return {str(name): (float(low), float(high)) for name, (low, high) in document.items()}


def _check_number(name: str, value: object) -> None:
    numeric = name not in _NOT_NUMBERS
    if numeric and value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise VisionError("EVALUATION_INVALID", f"{name} must be a number")
