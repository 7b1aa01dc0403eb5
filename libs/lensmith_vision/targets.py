"""How large numbers may be that a head learns to measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import TrainingError

__all__ = ["MAX_NUMBER", "check_targets"]

MAX_NUMBER = 1e15
"""Of a number in either direction: squares of larger ones, added up in single precision, are soon infinite."""


def check_targets(targets: npt.NDArray[np.float32], ids: Sequence[str]) -> None:
    """Refuse numbers that cannot be added up; NaN is unknown and passes.

    Raises:
        TrainingError: TRAINING_NUMBER_OUT_OF_RANGE; names the first of the pictures.
    """
    beyond = np.flatnonzero(np.abs(targets) > MAX_NUMBER)
    if len(beyond):
        first = ids[int(beyond[0])]
        raise TrainingError(
            "TRAINING_NUMBER_OUT_OF_RANGE",
            f"the number of {first} is {targets[beyond[0]]:g}, and of {len(beyond)} images beyond what can be learnt: "
            f"numbers lie between {-MAX_NUMBER:g} and {MAX_NUMBER:g}; take another unit",
            {"input": first, "images": str(len(beyond)), "max": f"{MAX_NUMBER:g}"},
        )
