"""What versions answered about single inputs when they were evaluated, in pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_api.v1.evaluation_pb2 import ChangedInput, EvaluatedInput, EvaluatedScore, InputChange
from lensmith_api.v1.model_service_pb2 import EvaluatedInputOrder, ListEvaluatedInputsRequest
from lensmith_platform.errors import InvalidInputError
from lensmith_registry.version_store import VersionRow
from lensmith_vision import judging
from lensmith_vision.comparison import Comparison
from lensmith_vision.judging import Answers
from lensmith_vision.out_of_fold import OutOfFoldPredictions

__all__ = ["Filter", "Places", "changed_page_of", "column_of", "places_of", "shown"]

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]

_SCORES = 5


@dataclass(frozen=True)
class Filter:
    """Which inputs, and in which order; columns are -1 where any will do."""

    wrong_only: bool
    actual: int
    predicted: int
    least_confident_first: bool

    @classmethod
    def of(cls, row: VersionRow, request: ListEvaluatedInputsRequest) -> Filter:
        """Read a request.

        Raises:
            InvalidInputError: A concept that is none of the version's, or an unknown order.
        """
        if request.order not in EvaluatedInputOrder.values():
            raise InvalidInputError("ORDER_UNKNOWN", "order must be one of " + ", ".join(EvaluatedInputOrder.keys()))
        actual, predicted = request.actual_concept, request.predicted_concept
        return cls(
            request.wrong_only,
            column_of(row, actual, "actual_concept") if actual else -1,
            column_of(row, predicted, "predicted_concept") if predicted else -1,
            request.order == EvaluatedInputOrder.EVALUATED_INPUT_ORDER_LEAST_CONFIDENT,
        )


def column_of(row: VersionRow, concept: str, field: str) -> int:
    """Find a concept among those of a version.

    Raises:
        InvalidInputError: CONCEPT_NOT_IN_VERSION.
    """
    try:
        return row.concepts.index(concept)
    except ValueError as error:
        why = f"names {concept[:100]!r}, which is no concept of {row.name}"
        raise InvalidInputError("CONCEPT_NOT_IN_VERSION", f"{field} {why}", field_violations=[(field, why)]) from error


def places_of(row: VersionRow, predictions: OutOfFoldPredictions, chosen: Filter) -> Places:
    """Return the places in the evaluation of the inputs that a filter lets through, in their order."""
    given = _answers(row, predictions)
    wanted = np.ones(len(predictions.ids), np.bool_)
    if chosen.wrong_only:
        wanted &= ~given.correct
    if predictions.labels is not None and chosen.actual >= 0:
        wanted &= predictions.labels[:, chosen.actual] == 1
    if predictions.labels is not None and chosen.predicted >= 0:
        wanted &= given.predicted[:, chosen.predicted]
    rows = np.flatnonzero(wanted)
    order = given.confidence[rows] if chosen.least_confident_first else -given.confidence[rows]
    # Equal ones in the order of the evaluation, which never changes.
    return rows[np.argsort(order, kind="stable")].astype(np.int32)


def shown(row: VersionRow, predictions: OutOfFoldPredictions) -> list[EvaluatedInput]:
    """Return what a version answered about each of some inputs."""
    given = _answers(row, predictions)
    return [_shown(row.app_name, predictions, given, place) for place in range(len(predictions.ids))]


def changed_page_of(
    first: VersionRow,
    other: VersionRow,
    compared: Comparison,
    change: InputChange.ValueType,
    start: int,
    size: int,
) -> tuple[int, list[ChangedInput]]:
    """Return how many inputs changed in a way, and a page of them: broken ones first, then the surest wrong answers.

    Raises:
        InvalidInputError: An unknown change.
    """
    if change not in InputChange.values():
        raise InvalidInputError("CHANGE_UNKNOWN", "change must be one of " + ", ".join(InputChange.keys()))
    broken, fixed = np.flatnonzero(compared.broken), np.flatnonzero(compared.fixed)
    broken = broken[np.argsort(-compared.other_answers.confidence[broken], kind="stable")]
    fixed = fixed[np.argsort(-compared.first_answers.confidence[fixed], kind="stable")]
    rows: list[tuple[InputChange.ValueType, int]] = []
    if change != InputChange.INPUT_CHANGE_FIXED:
        rows += [(InputChange.INPUT_CHANGE_BROKEN, place) for place in broken.tolist()]
    if change != InputChange.INPUT_CHANGE_BROKEN:
        rows += [(InputChange.INPUT_CHANGE_FIXED, place) for place in fixed.tolist()]
    page = [
        ChangedInput(
            change=kind,
            first=_shown(first.app_name, compared.first, compared.first_answers, place),
            other=_shown(other.app_name, compared.other, compared.other_answers, place),
        )
        for kind, place in rows[start : start + size]
    ]
    return len(rows), page


def _answers(row: VersionRow, predictions: OutOfFoldPredictions) -> Answers:
    return judging.answers(predictions, np.asarray(row.thresholds, dtype=np.float32))


def _shown(app: str, predictions: OutOfFoldPredictions, given: Answers, place: int) -> EvaluatedInput:
    shown = EvaluatedInput(
        input=f"apps/{app}/inputs/{predictions.ids[place]}",
        correct=bool(given.correct[place]),
        confidence=float(given.confidence[place]),
        fold=int(predictions.folds[place]),
    )
    scores = predictions.scores[place]
    if predictions.targets is not None:
        shown.actual_number, shown.predicted_number = float(predictions.targets[place]), float(scores[0])
        return shown
    if predictions.labels is None:
        raise ValueError("a classification has labels")
    actual = np.flatnonzero(predictions.labels[place] == 1)
    best = np.argsort(-scores, kind="stable")[:_SCORES]
    told = [*best.tolist(), *(column for column in actual.tolist() if column not in best)]
    shown.actual_concepts.extend(_names(predictions, actual))
    shown.predicted_concepts.extend(_names(predictions, np.flatnonzero(given.predicted[place])))
    shown.scores.extend(
        EvaluatedScore(concept=predictions.concepts[column], value=float(scores[column])) for column in told
    )
    return shown


def _names(predictions: OutOfFoldPredictions, columns: Ints) -> Iterable[str]:
    return (predictions.concepts[column] for column in columns.tolist())
