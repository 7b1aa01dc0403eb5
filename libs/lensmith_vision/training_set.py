"""What a head learns from: labelled features, how to train on them, and which of them can take part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lensmith_vision.classes import Tier
from lensmith_vision.errors import TrainingError
from lensmith_vision.heads import HeadType
from lensmith_vision.report import ThresholdAim
from lensmith_vision.threads import in_threads

__all__ = ["TrainOptions", "TrainingSet", "take_part"]

_ROWS = 512


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Labelled features of one space, one row for each picture.

    Attributes:
        space: Id of the space.
        concepts: Ids of the concepts, in the order of the columns of ``labels``; one concept for regression.
        ids: Id of each picture, for messages.
        features: [n, d] float32.
        group_ids: Equal for pictures of equal bytes, such as their SHA-256.
        labels: [n, c] float32: 1 positive, 0 negative, NaN unknown. None for regression.
        targets: [n] float32, NaN unknown, for regression. None otherwise.
    """

    space: str
    concepts: tuple[str, ...]
    ids: tuple[str, ...]
    features: npt.NDArray[np.float32]
    group_ids: tuple[str, ...]
    labels: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if self.features.ndim != 2 or len(self.features) != rows or len(self.group_ids) != rows:
            raise TrainingError(
                "TRAINING_SET_INVALID", "features, ids and group_ids must have one row for each picture"
            )
        if not _all_of(self.features, _finite):
            raise TrainingError("TRAINING_SET_INVALID", "features must be finite")
        if self.labels is not None and self.labels.shape != (rows, len(self.concepts)):
            raise TrainingError("TRAINING_SET_INVALID", "labels must be [pictures, concepts]")
        if self.labels is not None and not _all_of(self.labels, _judged):
            raise TrainingError("TRAINING_SET_INVALID", "labels must be 1, 0 or NaN")
        if self.targets is not None and self.targets.shape != (rows,):
            raise TrainingError("TRAINING_SET_INVALID", "targets must be [pictures]")

    @cached_property
    def classes(self) -> npt.NDArray[np.int64] | None:
        """The concept of each picture [n], where each is labelled with one and no more; None otherwise."""
        labels = self.labels
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
        if data.labels is None:
            raise TrainingError("TRAINING_SET_INVALID", "a classification needs labels")
        if options.type == "multi_class" and data.classes is not None:
            return _one_hot(data, data.classes), {}
        positives = (data.labels == 1).sum(axis=1)
        if options.type == "multi_class":
            known = positives == 1
            reasons = np.where(known, "", np.where(positives > 1, "SEVERAL_CONCEPTS", "NO_CONCEPT"))
        else:
            known = np.asarray(np.isfinite(data.labels).any(axis=1), dtype=np.bool_)
            reasons = np.where(known, "", "NO_LABEL")
    left_out = {data.ids[row]: str(reasons[row]) for row in np.flatnonzero(~known)}
    taken = data.rows(known)
    if options.type == "multi_class" and taken.classes is not None:
        return _one_hot(taken, taken.classes), left_out
    # A second copy of many labels of many concepts is only made where it says something else.
    if taken.labels is not None and options.closed_environment and not taken.complete:
        taken = replace(taken, labels=np.nan_to_num(taken.labels, nan=0.0))
    return taken, left_out


def _one_hot(data: TrainingSet, classes: npt.NDArray[np.int64]) -> TrainingSet:
    """Make other concepts than a picture's own its negatives."""
    if data.complete:
        return data
    labels = np.zeros((len(data.ids), len(data.concepts)), np.float32)
    labels[np.arange(len(labels)), classes] = 1
    return replace(data, labels=labels)


def _all_of(matrix: npt.NDArray[np.float32], holds: Callable[[npt.NDArray[np.float32]], bool]) -> bool:
    """Whether all blocks of rows hold, looked at side by side and without a second copy."""
    return all(in_threads(lambda start: holds(matrix[start : start + _ROWS]), range(0, len(matrix), _ROWS)))


def _finite(block: npt.NDArray[np.float32]) -> bool:
    # A sum of large numbers may overflow where none of them does.
    return bool(np.isfinite(block.sum())) or bool(np.isfinite(block).all())


def _judged(block: npt.NDArray[np.float32]) -> bool:
    return bool(((block == 0) | (block == 1) | np.isnan(block)).all())
