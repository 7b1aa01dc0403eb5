"""What a version says about pictures, beyond its scores: how sure a number is, and whether a picture is unfamiliar."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_api.v1.inference_service_pb2 import Prediction, PredictionInterval, Unfamiliarity
from lensmith_inference.answers import Selection
from lensmith_platform.errors import OK
from lensmith_vision.familiarity import UNFAMILIAR
from lensmith_vision.heads import INTERVAL_COVERAGE, Head

__all__ = ["Scores"]


@dataclass(frozen=True, eq=False)
class Scores:
    """Of the pictures that were seen, a row each.

    Attributes:
        values: [n, c] scores, or [n, 1] numbers.
        unfamiliar: [n] from 0 to 1; None where the version remembers no training pictures.
        head: Which gave them; None: the base model's own classifier.
    """

    values: npt.NDArray[np.float32]
    unfamiliar: npt.NDArray[np.float32] | None = None
    head: Head | None = None

    def __len__(self) -> int:
        return len(self.values)

    def prediction(self, query_id: str, row: int, selection: Selection) -> Prediction:
        """Make the answer about one picture.

        Args:
            query_id: What the caller calls it.
            row: Its row.
            selection: What the caller wants to see.
        """
        answer = Prediction(id=query_id, status=OK, unfamiliar=self._unfamiliarity(row))
        if self.head is None or self.head.type != "regression":
            answer.concepts.extend(selection.concept_scores(self.values[row]))
            return answer
        answer.number = float(self.values[row, 0])
        if self.head.interval is not None and self.head.value_range is not None:
            low, high = self.head.value_range
            answer.interval.CopyFrom(
                PredictionInterval(
                    low=max(low, answer.number - self.head.interval),
                    high=min(high, answer.number + self.head.interval),
                    coverage=INTERVAL_COVERAGE,
                )
            )
        return answer

    def _unfamiliarity(self, row: int) -> Unfamiliarity | None:
        if self.unfamiliar is None:
            return None
        value = float(self.unfamiliar[row])
        return Unfamiliarity(value=value, predicted=value > UNFAMILIAR)
