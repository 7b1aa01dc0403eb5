"""What is looked through, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import TrainingError
from lensmith_vision.halves import Features
from lensmith_vision.heads import HeadType

__all__ = ["Asked", "Curated", "Kind", "Labels", "Pictures", "Suggestion"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Kind = Literal["WRONG_LABEL", "CONFUSED_CONCEPTS", "FEW_IMAGES", "DUPLICATE", "OUTLIER", "LABEL_NEXT"]
Labels = Mapping[str, bool | float]
"""By id of the concept: whether a picture shows it, or its number."""


@dataclass(frozen=True)
class Asked:
    """A picture without a label that somebody should look at.

    Attributes:
        picture: Its id.
        concept: What the model takes it for.
        value: Whether it shows that, or the number.
        score: How likely that is, 0 to 1.
    """

    picture: str
    concept: str
    value: bool | float
    score: float


@dataclass(frozen=True)
class Suggestion:
    """Something to fix or to add.

    Attributes:
        kind: What it is about.
        message: One sentence for people.
        score: How sure it is, or how much it would help, 0 to 1; to be compared within one kind.
        concept: The concept that it is about.
        other: The suggested concept, or the one that it is confused with; empty: none.
        picture: Id of the picture whose labels would change; empty: none would.
        related: Ids of others to look at.
        current: The labels of the picture that are in doubt, as it has them.
        desired: What they should become; they are taken away where it is empty.
        asked: Pictures without a label that would help against it, once somebody has labelled them.
        few_negatives: Of FEW_IMAGES: what is too few are the pictures that are said not to show the concept; those
            `asked` about may then have labels of other concepts.
    """

    kind: Kind
    message: str
    score: float
    concept: str
    other: str = ""
    picture: str = ""
    related: tuple[str, ...] = ()
    current: Labels = field(default_factory=dict)
    desired: Labels = field(default_factory=dict)
    asked: tuple[Asked, ...] = ()
    few_negatives: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures that took no part in the training: without labels, or kept for testing.

    Attributes:
        ids: Id of each.
        features: [n, d], in half precision where memory counts.
        group_ids: Equal for pictures of equal bytes.
    """

    ids: Sequence[str]
    features: Features
    group_ids: Sequence[str]


@dataclass(frozen=True, eq=False)
class Curated:
    """A training set beside what its model says of it out of fold.

    Attributes:
        type: Of the model.
        concepts: Ids of the concepts, in the order of the columns.
        ids: Id of each picture that took part.
        features: [n, d], in half precision where memory counts.
        group_ids: Equal for pictures of equal bytes.
        groups: [n], equal for copies and near copies.
        given: What was said about each picture, of any concept; the labels that a suggestion may change.
        scores: [n, c] out of fold, calibrated; [n, 1] values for regression. NaN where a picture was never held out.
        labels: [n, c] as trained on: 1, 0, NaN unknown; None for regression.
        targets: [n] for regression.
        negative: Id of the concept that says "none of these"; empty: there is none.

    Raises:
        TrainingError: The parts do not fit together.
    """

    type: HeadType
    concepts: tuple[str, ...]
    ids: tuple[str, ...]
    features: Features
    group_ids: tuple[str, ...]
    groups: Ints
    given: Sequence[Labels]
    scores: Floats
    labels: Floats | None = None
    targets: Floats | None = None
    negative: str = ""

    def __post_init__(self) -> None:
        rows, width = len(self.ids), len(self.concepts)
        lengths = {len(self.features), len(self.group_ids), len(self.groups), len(self.given), len(self.scores)}
        if lengths != {rows} or self.scores.shape != (rows, width):
            raise TrainingError("CURATED_SET_INVALID", "there must be one row for each picture")
        values = self.targets if self.type == "regression" else self.labels
        if values is None or len(values) != rows:
            raise TrainingError("CURATED_SET_INVALID", "there must be labels, or numbers for regression")

    @property
    def truth(self) -> Floats:
        """The labels [n, c] of a classification."""
        if self.labels is None:
            raise TrainingError("CURATED_SET_INVALID", "a regression has numbers, not labels")
        return self.labels

    @property
    def held_out(self) -> Bools:
        """Mark the pictures [n] that have scores."""
        return np.asarray(np.isfinite(self.scores[:, 0]), dtype=np.bool_)

    def rows(self, chosen: Bools) -> Curated:
        """Return the pictures that a mask [n] chooses."""
        if chosen.all():
            return self
        index = np.flatnonzero(chosen)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            features=self.features[index],
            group_ids=tuple(self.group_ids[row] for row in index),
            groups=self.groups[index],
            given=[self.given[row] for row in index.tolist()],
            scores=self.scores[index],
            labels=None if self.labels is None else self.labels[index],
            targets=None if self.targets is None else self.targets[index],
        )

    def current(self, row: int, *concepts: str) -> dict[str, bool | float]:
        """Return the labels of a picture that are in doubt together with those of some concepts.

        Of concepts that exclude each other, all are.
        """
        asked = self.concepts if self.type == "multi_class" else concepts
        return {concept: self.given[row][concept] for concept in asked if concept in self.given[row]}
