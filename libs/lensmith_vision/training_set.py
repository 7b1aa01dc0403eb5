"""What a head learns from: labelled features, how to train on them, and which of them can take part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lensmith_vision.classes import Tier
from lensmith_vision.errors import TrainingError
from lensmith_vision.halves import Features, all_finite
from lensmith_vision.heads import HeadType
from lensmith_vision.report import ThresholdAim
from lensmith_vision.targets import check_targets
from lensmith_vision.threads import in_threads

__all__ = ["NO_CONCEPT", "SEVERAL_CONCEPTS", "TrainOptions", "TrainingSet", "take_part"]

NO_CONCEPT, SEVERAL_CONCEPTS = -1, -2
"""Instead of the place of a picture's one concept."""

_ROWS = 512
_Matrix = TypeVar("_Matrix", npt.NDArray[np.float32], Features)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Labelled features of one space, one row for each picture.

    Attributes:
        space: Id of the space.
        concepts: Ids of the concepts, in the order of the columns of ``labels``; one concept for regression.
        ids: Id of each picture, for messages.
        features: [n, d] float32, or float16 where memory counts.
        group_ids: Equal for pictures of equal bytes, such as their SHA-256.
        labels: [n, c] float32: 1 positive, 0 negative, NaN unknown. None for regression, or where `shown` says it all.
        targets: [n] float32, NaN unknown, for regression. None otherwise.
        shown: [n], for multi_class instead of labels, which take as many times the memory as there are concepts: the
            place of the concept that a picture shows, `NO_CONCEPT` or `SEVERAL_CONCEPTS`.
    """

    space: str
    concepts: tuple[str, ...]
    ids: tuple[str, ...]
    features: Features
    group_ids: tuple[str, ...]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None
    shown: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if self.features.ndim != 2 or len(self.features) != rows or len(self.group_ids) != rows:
            raise TrainingError(
                "TRAINING_SET_INVALID", "features, ids and group_ids must have one row for each picture"
            )
        if not _all_of(self.features, all_finite):
            raise TrainingError("TRAINING_SET_INVALID", "features must be finite")
        if self.labels is not None and self.labels.shape != (rows, len(self.concepts)):
            raise TrainingError("TRAINING_SET_INVALID", "labels must be [pictures, concepts]")
        if self.labels is not None and not _all_of(self.labels, _judged):
            raise TrainingError("TRAINING_SET_INVALID", "labels must be 1, 0 or NaN")
        if self.targets is not None and self.targets.shape != (rows,):
            raise TrainingError("TRAINING_SET_INVALID", "targets must be [pictures]")
        if self.targets is not None:
            check_targets(self.targets, self.ids)
        if self.shown is not None:
            self._check_shown(self.shown)

    def _check_shown(self, shown: npt.NDArray[np.int64]) -> None:
        if self.labels is not None or shown.shape != (len(self.ids),):
            raise TrainingError("TRAINING_SET_INVALID", "what pictures show must be [pictures], without labels")
        if len(shown) and not SEVERAL_CONCEPTS <= int(shown.min()) <= int(shown.max()) < len(self.concepts):
            raise TrainingError("TRAINING_SET_INVALID", "what pictures show must be places of concepts")

    @cached_property
    def classes(self) -> npt.NDArray[np.int64] | None:
        """The concept of each picture [n], where each is labelled with one and no more; None otherwise."""
        labels, shown = self.labels, self.shown
        if shown is not None:
            return shown if len(shown) and int(shown.min()) >= 0 else None
        if labels is None or not labels.size:
            return None
        found = np.empty(len(labels), np.int64)

        def find(start: int) -> bool:
            shown = labels[start : start + _ROWS] == 1
            found[start : start + _ROWS] = shown.argmax(axis=1)
            return bool((np.count_nonzero(shown, axis=1) == 1).all())

        return found if all(in_threads(find, range(0, len(labels), _ROWS))) else None

    @cached_property
    def complete(self) -> bool:
        """Whether no label is unknown."""
        if self.shown is not None:
            return True
        return self.labels is not None and _all_of(self.labels, lambda block: not np.isnan(block.sum()))

    def rows(self, chosen: npt.NDArray[np.bool_]) -> TrainingSet:
        """Return the pictures that a mask [n] chooses."""
        if chosen.all():
            return self
        index = np.flatnonzero(chosen)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            features=self.features[index],
            group_ids=tuple(self.group_ids[row] for row in index),
            labels=None if self.labels is None else self.labels[index],
            targets=None if self.targets is None else self.targets[index],
            shown=None if self.shown is None else self.shown[index],
        )


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        type: Type of the head.
        closed_environment: multi_label only: a picture without a label for a concept counts as its negative.
        folds: Parts of the out-of-fold evaluation; fewer where there are fewer groups of pictures.
        seed: The same seed and set give the same head.
        value_range: For regression, the range of answers; the range seen in training when left out.
        tier: multi_class only: ``linear`` heads cost kilobytes, ``kernel`` heads up to 6 MB; ``auto`` takes the
            kernel tier where it wins at least one point of the chance to be right, out of fold.
        thresholds: What the concepts' thresholds are chosen for.
    """

    type: HeadType
    closed_environment: bool = False
    folds: int = 5
    seed: int = 0
    value_range: tuple[float, float] | None = None
    tier: Tier = "auto"
    thresholds: ThresholdAim = field(default_factory=ThresholdAim)


def take_part(data: TrainingSet, options: TrainOptions) -> tuple[TrainingSet, dict[str, str]]:
    """Choose the rows that a type of head can learn from, and say why the others are left out."""
    if options.type == "regression":
        if data.targets is None:
            raise TrainingError("TRAINING_SET_INVALID", "a regression needs targets")
        known = np.isfinite(data.targets)
        reasons = np.where(known, "", "NO_NUMBER")
    else:
        if options.type == "multi_class":
            return _exclusive(data)
        if data.labels is None:
            raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
        known = np.asarray(np.isfinite(data.labels).any(axis=1), dtype=np.bool_)
        reasons = np.where(known, "", "NO_LABEL")
    left_out = {data.ids[row]: str(reasons[row]) for row in np.flatnonzero(~known)}
    taken = data.rows(known)
    # A second copy of many labels of many concepts is only made where it says something else.
    if taken.labels is not None and options.closed_environment and not taken.complete:
        taken = replace(taken, labels=np.nan_to_num(taken.labels, nan=0.0))
    return taken, left_out


def _exclusive(data: TrainingSet) -> tuple[TrainingSet, dict[str, str]]:
    """Choose the pictures that show one concept; the others are its negatives, whatever was said of them."""
    shown = data.classes
    if shown is None:
        shown = data.shown if data.shown is not None else _shown(data.labels)
        reasons = {NO_CONCEPT: "NO_CONCEPT", SEVERAL_CONCEPTS: "SEVERAL_CONCEPTS"}
        left_out = {data.ids[row]: reasons[int(shown[row])] for row in np.flatnonzero(shown < 0)}
        taken, shown = data.rows(shown >= 0), shown[shown >= 0]
    else:
        taken, left_out = data, {}
    return (taken if taken.complete else replace(taken, labels=None, shown=shown)), left_out


def _shown(labels: npt.NDArray[np.float32] | None) -> npt.NDArray[np.int64]:
    if labels is None:
        raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
    positives = (labels == 1).sum(axis=1)
    one = np.where(positives == 1, (labels == 1).argmax(axis=1) if labels.shape[1] else 0, NO_CONCEPT)
    return np.where(positives > 1, SEVERAL_CONCEPTS, one)


def _all_of(matrix: _Matrix, holds: Callable[[_Matrix], bool]) -> bool:
    """Whether all blocks of rows hold, looked at side by side and without a second copy."""
    return all(in_threads(lambda start: holds(matrix[start : start + _ROWS]), range(0, len(matrix), _ROWS)))


def _judged(block: npt.NDArray[np.float32]) -> bool:
    return bool(((block == 0) | (block == 1) | np.isnan(block)).all())
