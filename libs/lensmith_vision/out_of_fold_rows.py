"""Some of the pictures of a file of out-of-fold predictions, taken out before anything of the others is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["narrowed"]

_PER_PICTURE = ("folds", "groups", "scores", "targets", "classes")
_BITS = ("positive", "known")
Tensors = dict[str, npt.NDArray[np.generic]]


def narrowed(
    metadata: Mapping[str, object], tensors: Tensors, rows: Sequence[int]
) -> tuple[dict[str, object], Tensors]:
    """Return the parts of a file as if it had been written of some pictures alone, in that order.

    Args:
        metadata: Of the file.
        tensors: Of the file; what was wrong with them is wrong with the result too, or raises.
        rows: Places of the pictures.

    Raises:
        IndexError, KeyError, TypeError, ValueError: The file is damaged, or has no such places.
    """
    index = np.asarray(rows, dtype=np.int64)
    ids = tensors["ids"].tobytes().split(b"\n")
    taken: Tensors = {"ids": np.frombuffer(b"\n".join(ids[row] for row in index.tolist()), np.uint8)}
    taken |= {name: tensors[name][index] for name in _PER_PICTURE if name in tensors}
    if "counts" in tensors:
        counts = tensors["counts"].astype(np.int64)
        ends = np.cumsum(counts)
        places = np.concatenate([np.arange(ends[row] - counts[row], ends[row]) for row in index])
        taken |= {"counts": counts[index], "columns": tensors["columns"][places], "codes": tensors["codes"][places]}
    concepts = metadata["concepts"]
    if not isinstance(concepts, list):
        raise TypeError("concepts must be a list")
    taken |= {name: _bits(tensors[name], index, len(concepts)) for name in _BITS if name in tensors}
    return {**metadata, "rows": len(index)}, taken


def _bits(packed: npt.NDArray[np.generic], index: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.generic]:
    """Pack the bits of some rows, of which each has so many, anew."""
    whole = packed.astype(np.uint8, copy=False)
    rows = []
    for first in (index * width).tolist():
        some = np.unpackbits(whole[first // 8 : -(-(first + width) // 8)])
        rows.append(some[first % 8 : first % 8 + width])
    return np.packbits(np.concatenate(rows))
