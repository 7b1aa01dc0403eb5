"""Where a version's answer about a picture comes from: its head, or its base model's own classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lensmith_inference.answers import ServedVersion, native_scores
from lensmith_inference.batcher import Seen
from lensmith_platform.errors import InternalError, PreconditionError
from lensmith_vision import explain
from lensmith_vision.card import Card
from lensmith_vision.explain import Classifier, HeatMapMethod
from lensmith_vision.heads import Head

__all__ = ["ClassifierReasons", "HeadReasons", "Reasons"]

Floats = npt.NDArray[np.float32]

_TOLERANCE = 1e-2


class Reasons(Protocol):
    """Answers about a picture, and which parts of it they come from. Both take a while: not for the event loop."""

    @property
    def method(self) -> HeatMapMethod:
        """What the values of the maps are."""
        ...

    def scores(self, seen: Seen) -> Floats:
        """Return the scores [c] of all concepts of the version; the number [1] of a regression model."""
        ...

    def maps(self, seen: Seen, columns: Sequence[int]) -> Floats:
        """Return the maps [len(columns), rows, columns] of some concepts."""
        ...


@dataclass(frozen=True, eq=False)
class HeadReasons:
    """Of a version with a head.

    Attributes:
        head: The head.
    """

    head: Head

    @property
    def method(self) -> HeatMapMethod:
        """See `Reasons.method`."""
        return explain.method_of(self.head)

    def scores(self, seen: Seen) -> Floats:
        """See `Reasons.scores`."""
        if seen.space != self.head.space:
            raise InternalError("MODEL_SPACE_MISMATCH", f"the head is of {self.head.space}, the vector of {seen.space}")
        values: Floats = self.head.scores(seen.features[np.newaxis])[0]
        return values

    def maps(self, seen: Seen, columns: Sequence[int]) -> Floats:
        """See `Reasons.maps`."""
        return explain.head_maps(self.head, _map_of(seen), columns)


@dataclass(frozen=True, eq=False)
class ClassifierReasons:
    """Of a public model, which the classifier of a base model became.

    Attributes:
        version: The version.
        card: Of the base model.
        classifier: Its classifier.
    """

    version: ServedVersion
    card: Card
    classifier: Classifier

    @property
    def method(self) -> HeatMapMethod:
        """See `Reasons.method`."""
        return "class_activation" if self.version.sums is None else "gradient"

    def scores(self, seen: Seen) -> Floats:
        """See `Reasons.scores`."""
        if seen.logits is None:
            raise InternalError("BASE_MODEL_INVALID", f"{self.card.id} gave no logits")
        values: Floats = native_scores(seen.logits[np.newaxis], self.card, self.version)[0]
        return values

    def maps(self, seen: Seen, columns: Sequence[int]) -> Floats:
        """See `Reasons.maps`."""
        sums = self.version.sums
        if sums is None:
            return explain.class_maps(self.classifier, _map_of(seen), columns)
        ends = [*sums.starts[1:], len(sums.leaves)]
        members = [sums.leaves[sums.starts[column] : ends[column]] for column in columns]
        return explain.odds_maps(self.classifier, _map_of(seen), members, self.version.served.temperature)


def _map_of(seen: Seen) -> Floats:
    """The feature map of a picture, of which its features are the mean: without that nothing could be shared out.

    Raises:
        PreconditionError: They are not, as in networks that pool in another way.
    """
    if seen.feature_map is None:
        raise InternalError("BASE_MODEL_INVALID", f"space {seen.space} gave no feature map")
    means = seen.feature_map.mean(axis=(1, 2))
    if not np.allclose(means, seen.features, rtol=_TOLERANCE, atol=_TOLERANCE * float(np.abs(means).max())):
        raise PreconditionError(
            "FEATURES_ARE_NO_MEAN",
            f"the vectors of space {seen.space} are not the mean of the last feature map: "
            "there is no telling which part of a picture an answer comes from",
            metadata={"space": seen.space},
        )
    return seen.feature_map
