"""Features in half precision, as they are stored: they take half the memory, and are made single where they are used.

NumPy turns halves into singles one by one, in software, where it was not built for the processor at hand. Shifting bits
works on all processors, many at once: a half is a single with fewer digits and another zero of its exponent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Features", "all_finite", "floats", "widen"]

Features = npt.NDArray[np.float32] | npt.NDArray[np.float16]
"""[n, d]: single precision, or half where memory counts."""

_ROWS = 128
_DIGITS = 13
"""That a single has more than a half."""
_EXPONENT = np.float32(2.0**112)
_SPREAD_SIGN = np.int32(-0x7000_0001)
"""All bits but the three into which shifting spreads the sign."""
_MAGNITUDE, _INFINITE = np.uint16(0x7FFF), np.uint16(0x7C00)


def floats(features: Features) -> npt.NDArray[np.float32]:
    """The same numbers in single precision, which are finite; no copy is made of what is single already."""
    if features.dtype != np.float16:
        return np.asarray(features, np.float32)
    singles = np.empty(features.shape, np.float32)
    for start in range(0, len(features), _ROWS):
        widen(features[start : start + _ROWS].astype(np.float16, copy=False), singles[start : start + _ROWS])
    return singles


def widen(halves: npt.NDArray[np.float16], into: npt.NDArray[np.float32]) -> None:
    """Write halves, which are finite, as singles into an array of their shape that is contiguous."""
    bits = into.view(np.int32)
    np.left_shift(halves.view(np.int16), _DIGITS, out=bits, dtype=np.int32)
    bits &= _SPREAD_SIGN
    into *= _EXPONENT


def all_finite(block: Features) -> bool:
    """Whether no number of a block is infinite or none at all."""
    if block.dtype == np.float16:
        return not block.size or bool((block.view(np.uint16) & _MAGNITUDE).max() < _INFINITE)
    # A sum of large numbers may overflow where none of them does.
    with np.errstate(over="ignore", invalid="ignore"):
        total = block.sum()
    return bool(np.isfinite(total)) or bool(np.isfinite(block).all())
