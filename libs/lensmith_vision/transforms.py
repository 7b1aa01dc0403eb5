"""What is done to features before a head looks at them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import Features, floats, widen

__all__ = ["TRANSFORMS", "Transform", "gathered", "transformed"]

Transform = Literal["none", "unit", "root"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)

_SHORTEST = 1e-6
_ROWS = 128


def transformed(features: Features, transform: Transform) -> npt.NDArray[np.float32]:
    """Transform features [n, d].

    ``unit`` brings each picture to length 1, so that contrast no longer counts; ``root`` before takes the square root
    of each value, with its sign, so that large responses no longer drown the many small ones. Neither needs anything of
    the training set: heads with the same transform share one product.
    """
    units = floats(features)
    if transform == "none":
        return units
    if units is features:
        units = units.copy()
    for start in range(0, len(units), _ROWS):
        _transform(units[start : start + _ROWS], transform)
    return units


def gathered(
    features: Features,
    rows: npt.NDArray[np.int64],
    transform: Transform,
    origin: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Transform some rows of features [n, d], measured from an origin if there is one; gives [m, d]."""
    inputs = np.empty((len(rows), features.shape[1]), np.float32)
    # What was read is still near the processor in each next step.
    for start in range(0, len(rows), _ROWS):
        part = inputs[start : start + _ROWS]
        if features.dtype == np.float16:
            widen(np.asarray(features[rows[start : start + _ROWS]], np.float16), part)
        else:
            # Rows are in range; being told what to do if not, take writes where it should at once.
            np.take(features, rows[start : start + _ROWS], axis=0, out=part, mode="clip")
        _transform(part, transform)
        if origin is not None:
            part -= origin
    return inputs


def _transform(units: npt.NDArray[np.float32], transform: Transform) -> None:
    if transform == "none":
        return
    if transform == "root":
        if units.size and units.min() < 0:
            signs = units.copy()
            np.sqrt(np.abs(units, out=units), out=units)
            np.copysign(units, signs, out=units)
        else:
            np.sqrt(units, out=units)
    lengths = np.sqrt(np.vecdot(units, units))
    units *= (1 / np.maximum(lengths, np.float32(_SHORTEST)))[:, None]
