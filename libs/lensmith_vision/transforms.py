"""What is done to features before a head looks at them."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["TRANSFORMS", "Transform", "transformed"]

Transform = Literal["none", "unit", "root"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)

_SHORTEST = 1e-6


def transformed(features: npt.NDArray[np.float32], transform: Transform) -> npt.NDArray[np.float32]:
    """Transform features [n, d].

    ``unit`` brings each picture to length 1, so that contrast no longer counts; ``root`` before takes the square root
    of each value, with its sign, so that large responses no longer drown the many small ones. Neither needs anything of
    the training set: heads with the same transform share one product.
    """
    if transform == "none":
        return features
    units: npt.NDArray[np.float32] = np.array(features, copy=True)
    if transform == "root":
        np.abs(units, out=units)
        np.sqrt(units, out=units)
        np.copysign(units, features, out=units)
    lengths = np.sqrt(np.einsum("nd,nd->n", units, units, dtype=np.float64))
    units /= np.maximum(lengths, _SHORTEST).astype(np.float32)[:, None]
    return units
