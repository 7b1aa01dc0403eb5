"""From scores to answers: which concepts are shown, in which order, and which count as predicted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_api.internal.v1.serving_service_pb2 import ServedModel
from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_api.v1.inference_service_pb2 import PredictRequest
from lensmith_platform.errors import InternalError, InvalidInputError
from lensmith_vision.card import Card
from lensmith_vision.errors import PackError
from lensmith_vision.general import ConceptSums, hierarchy
from lensmith_vision.pack import kept_logits, scores_of_logits

__all__ = ["Selection", "ServedVersion", "native_scores"]

_NAMED_IN_ERROR = 10


@dataclass(frozen=True, eq=False)
class ServedVersion:
    """A version as registry describes it, made ready for many answers.

    Attributes:
        served: Registry's description.
        concepts: Own ids of its concepts, in the order of its outputs.
        display_names: Their names for people.
        thresholds: [c], the score from which each counts as predicted.
        all: Columns of all concepts.
        sums: How its concepts are made of the classes of its base model, of a version of General; else None.
    """

    served: ServedModel
    concepts: tuple[str, ...]
    display_names: tuple[str, ...]
    thresholds: npt.NDArray[np.float64]
    all: npt.NDArray[np.intp]
    sums: ConceptSums | None

    @classmethod
    def of(cls, served: ServedModel) -> "ServedVersion":
        """Read a description.

        Raises:
            InternalError: It does not fit together.
        """
        concepts = tuple(served.concepts)
        names = tuple(served.display_names) or concepts
        thresholds = np.asarray(served.thresholds, np.float64) if served.thresholds else np.full(len(concepts), 0.5)
        if not len(concepts) == len(names) == len(thresholds):
            raise InternalError("MODEL_INVALID", f"{served.name}: concepts, names and thresholds differ in number")
        try:
            sums = hierarchy().sums_of(concepts) if served.taxonomy else None
        except PackError as error:
            raise InternalError(error.reason, f"{served.name}: {error}") from error
        return cls(served, concepts, names, thresholds, np.arange(len(concepts)), sums)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a request wants to see of a version's scores.

    Attributes:
        version: The version.
        indexes: Columns to show, of all concepts.
        min_value: Scores below are left out.
        most: Most concepts for a picture; 0: all.
    """

    version: ServedVersion
    indexes: npt.NDArray[np.intp]
    min_value: float
    most: int

    @classmethod
    def of(cls, request: PredictRequest, version: ServedVersion) -> "Selection":
        """Read a request.

        Raises:
            InvalidInputError: Concepts were selected and the version knows none of them.
        """
        wanted = set(request.select_concepts)
        indexes = version.all
        if wanted:
            pairs = enumerate(zip(version.concepts, version.display_names, strict=True))
            found = [index for index, (concept, name) in pairs if concept in wanted or name in wanted]
            if not found:
                raise _none_known(wanted, version.served.name)
            indexes = np.asarray(found, np.intp)
        return cls(version, indexes, request.min_value, request.max_concepts)

    def columns(self, scores: npt.NDArray[np.float32]) -> list[int]:
        """Choose what to show of one picture.

        Args:
            scores: [c], one of each concept of the version.

        Returns:
            Columns of the selected concepts by falling score; equal ones in the version's own order.
        """
        values = scores[self.indexes].astype(np.float64)
        order = np.argsort(-values, kind="stable")
        if self.min_value > 0:
            order = order[values[order] >= self.min_value]
        if self.most:
            order = order[: self.most]
        chosen: list[int] = self.indexes[order].tolist()
        return chosen

    def concept_scores(self, scores: npt.NDArray[np.float32]) -> list[ConceptScore]:
        """Make the answer about one picture, in the order of `columns`."""
        return [self.score(column, scores) for column in self.columns(scores)]

    def score(self, column: int, scores: npt.NDArray[np.float32]) -> ConceptScore:
        """Make the answer about one concept of one picture."""
        value = float(scores[column])
        return ConceptScore(
            concept=self.version.concepts[column],
            display_name=self.version.display_names[column],
            value=value,
            predicted=value >= self.version.thresholds[column],
        )


def _none_known(wanted: set[str], name: str) -> InvalidInputError:
    shown = ", ".join(repr(text) for text in sorted(wanted)[:_NAMED_IN_ERROR])
    more = f" and {len(wanted) - _NAMED_IN_ERROR} more" if len(wanted) > _NAMED_IN_ERROR else ""
    return InvalidInputError(
        "SELECT_CONCEPTS_UNKNOWN",
        f"{name} answers none of the selected concepts {shown}{more}; ids and names are case-sensitive",
        metadata={"model_version": name},
        field_violations=[("select_concepts", "none of them is a concept of the version")],
    )


def native_scores(logits: npt.NDArray[np.float32], card: Card, version: ServedVersion) -> npt.NDArray[np.float32]:
    """Turn logits of a base model's own classifier into scores of its public model's concepts.

    Args:
        logits: [n, k].
        card: The card of the base model.
        version: The version of the public model.

    Returns:
        [n, c].

    Raises:
        InternalError: The numbers of logits and concepts differ.
    """
    concepts = len(version.concepts)
    try:
        if version.sums is not None:
            return version.sums.probabilities(kept_logits(card, logits), version.served.temperature)
        scores = scores_of_logits(card, logits)
    except PackError as error:
        raise InternalError(error.reason, str(error)) from error
    if scores.shape[1] != concepts:
        raise InternalError("MODEL_INVALID", f"{card.id} names {scores.shape[1]} concepts, registry knows {concepts}")
    return scores
