"""Vectors between the numbers of a model, a halfvec of Postgres and the float16 that trainers read."""

from collections.abc import Sequence

import numpy as np

MAX_DIMENSIONS = 4000
"""A halfvec is stored in one page."""

_HALFVEC_HEADER = 4
_LARGEST = float(np.finfo(np.float16).max)


def storable(vector: Sequence[float], dimensions: int) -> list[float] | None:
    """Return a vector's numbers if they can be kept as float16 numbers of a space of this length, else None."""
    values = np.fromiter(vector, np.float64, len(vector))
    if len(values) != dimensions or not 0 < dimensions <= MAX_DIMENSIONS:
        return None
    # Written so that NaN fails as well.
    if not bool((np.abs(values) <= _LARGEST).all()):
        return None
    numbers: list[float] = values.tolist()
    return numbers


def float16_from_halfvec(sent: bytes) -> bytes:
    """Turn what Postgres sends (a header, then big-endian float16) into little-endian float16; empty stays empty."""
    return np.frombuffer(sent, ">f2", offset=_HALFVEC_HEADER).astype("<f2").tobytes() if sent else b""
