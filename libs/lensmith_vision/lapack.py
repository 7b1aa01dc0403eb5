"""The routines of BLAS and LAPACK that fits need, in place, with and without the interpreter's lock.

SciPy's own functions hold the interpreter's lock while they work, so that threads wait for each other; the routines
that it offers to other compiled code do not. Those are called by their address where SciPy is built as wheels of it
are, and SciPy's functions everywhere else: slower on several processors, and the same numbers.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable
from functools import cache
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = ["ByAddress", "ByScipy", "Routines", "routines"]

Matrix = TypeVar("Matrix", npt.NDArray[np.float32], npt.NDArray[np.float64])
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Triangle = Literal["L", "U"]
"""Lower or upper, of the matrix in the order of columns that LAPACK expects: the other one in the order of rows."""

_WORK = 70
"""Numbers of room for each row, with which eigenvalues are found by blocks of up to 64."""

_Argument = bytes | int | npt.NDArray[np.generic]
_LOG = logging.getLogger(__name__)

_ARGUMENTS = {
    ("cython_blas", "ssyrk"): 10,
    ("cython_lapack", "spotrf"): 5,
    ("cython_lapack", "dpotrf"): 5,
    ("cython_lapack", "spotrs"): 8,
    ("cython_lapack", "dpotrs"): 8,
    ("cython_lapack", "dpotri"): 5,
    ("cython_lapack", "dtrtri"): 6,
    ("cython_lapack", "ssyevr"): 21,
}


class Routines(Protocol):
    """What there is. Matrices are in one piece, in the order of rows, and overwritten; sizes are the caller's duty."""

    def add_products(self, upper: Floats, rows: Floats, times: float) -> None:
        """Add so many times ``rows.T @ rows`` to the upper triangle of a matrix."""
        ...

    def factor(self, matrix: Matrix, triangle: Triangle) -> bool:
        """Make a symmetric matrix its Cholesky factor; False: it has none."""
        ...

    def solve(self, factor: Matrix, right: Matrix) -> None:
        """Solve with what ``factor(…, "L")`` made, for each row of the right side."""
        ...

    def invert(self, factor: Doubles) -> bool:
        """Make what ``factor(…, "L")`` made the same triangle of the inverse."""
        ...

    def invert_triangle(self, factor: Doubles) -> bool:
        """Make what ``factor(…, "U")`` made its own inverse."""
        ...

    def largest(self, matrix: Floats, values: Floats, vectors: Floats) -> bool:
        """Write the k largest eigenvalues [k] of a symmetric matrix, in ascending order, and their vectors [k, n]."""
        ...


@cache
def routines() -> Routines:
    """Return the faster ones that work here."""
    try:
        return ByAddress()
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        _LOG.warning("fits take turns: SciPy's routines cannot be called by their address here (%r)", error)
        return ByScipy()


class ByAddress:
    """Calls routines at the addresses that SciPy tells.

    Raises:
        ImportError: SciPy offers none, or Python does not let them be called; AttributeError, KeyError, TypeError,
            ValueError, RuntimeError likewise.
    """

    def __init__(self) -> None:
        self._routines = {name: _routine(module, name, count) for (module, name), count in _ARGUMENTS.items()}

    def add_products(self, upper: Floats, rows: Floats, times: float) -> None:
        """See :meth:`Routines.add_products`."""
        (count, size), one = rows.shape, np.ones(1, np.float32)
        self._pass("ssyrk", b"L", b"N", size, count, one * np.float32(times), rows, size, one, upper, size)

    def factor(self, matrix: Matrix, triangle: Triangle) -> bool:
        """See :meth:`Routines.factor`."""
        size = len(matrix)
        return self._call(f"{_letter(matrix)}potrf", triangle.encode(), size, matrix, size)

    def solve(self, factor: Matrix, right: Matrix) -> None:
        """See :meth:`Routines.solve`."""
        count, size = right.shape
        self._call(f"{_letter(factor)}potrs", b"L", size, count, factor, size, right, size)

    def invert(self, factor: Doubles) -> bool:
        """See :meth:`Routines.invert`."""
        return self._call("dpotri", b"L", len(factor), factor, len(factor))

    def invert_triangle(self, factor: Doubles) -> bool:
        """See :meth:`Routines.invert_triangle`."""
        return self._call("dtrtri", b"U", b"N", len(factor), factor, len(factor))

    def largest(self, matrix: Floats, values: Floats, vectors: Floats) -> bool:
        """See :meth:`Routines.largest`."""
        (most, size), every, none = vectors.shape, np.empty(len(matrix), np.float32), np.zeros(1, np.float32)
        found, support = np.zeros(1, np.int32), np.empty(2 * most, np.int32)
        work, places = np.empty(_WORK * size, np.float32), np.empty(10 * size, np.int32)
        bounds = (none, none, size - most + 1, size, none)
        room = (support, work, len(work), places, len(places))
        done = self._call("ssyevr", b"V", b"I", b"L", size, matrix, size, *bounds, found, every, vectors, size, *room)
        values[:] = every[:most]
        return done and found[0] == most

    def _call(self, name: str, *arguments: _Argument) -> bool:
        failed = np.zeros(1, np.int32)
        self._pass(name, *arguments, failed)
        return not failed[0]

    def _pass(self, name: str, *arguments: _Argument) -> None:
        """Call it, everything by its address."""
        passed: list[object] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                passed.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                passed.append(argument if isinstance(argument, bytes) else ctypes.byref(ctypes.c_int(argument)))
        self._routines[name](*passed)


class ByScipy:
    """Calls SciPy's functions."""

    def add_products(self, upper: Floats, rows: Floats, times: float) -> None:
        """See :meth:`Routines.add_products`."""
        _into(upper, scipy.linalg.blas.ssyrk(times, rows.T, beta=1.0, c=upper.T, lower=1, overwrite_c=1))

    def factor(self, matrix: Matrix, triangle: Triangle) -> bool:
        """See :meth:`Routines.factor`."""
        factor, failed = _of_scipy("potrf", matrix)(matrix.T, lower=triangle == "L", clean=0, overwrite_a=1)
        _into(matrix, factor)
        return not failed

    def solve(self, factor: Matrix, right: Matrix) -> None:
        """See :meth:`Routines.solve`."""
        solution, _ = _of_scipy("potrs", factor)(factor.T, right.T, lower=1, overwrite_b=1)
        _into(right, solution)

    def invert(self, factor: Doubles) -> bool:
        """See :meth:`Routines.invert`."""
        inverse, failed = _of_scipy("potri", factor)(factor.T, lower=1, overwrite_c=1)
        _into(factor, inverse)
        return not failed

    def invert_triangle(self, factor: Doubles) -> bool:
        """See :meth:`Routines.invert_triangle`."""
        inverse, failed = _of_scipy("trtri", factor)(factor.T, lower=0, unitdiag=0, overwrite_c=1)
        _into(factor, inverse)
        return not failed

    def largest(self, matrix: Floats, values: Floats, vectors: Floats) -> bool:
        """See :meth:`Routines.largest`."""
        most, size = vectors.shape
        try:
            found = scipy.linalg.eigh(matrix, subset_by_index=(size - most, size - 1), check_finite=False)
        except np.linalg.LinAlgError:
            return False
        values[:], vectors[:] = found[0], found[1].T
        return True


def _letter(matrix: npt.NDArray[np.floating]) -> str:
    return "s" if matrix.dtype == np.float32 else "d"


def _of_scipy(name: str, matrix: npt.NDArray[np.floating]) -> Callable[..., tuple[npt.NDArray[np.floating], int]]:
    function: Callable[..., tuple[npt.NDArray[np.floating], int]] = getattr(scipy.linalg.lapack, _letter(matrix) + name)
    return function


def _into(matrix: npt.NDArray[np.floating], turned: npt.NDArray[np.floating]) -> None:
    # Overwriting is a leave that SciPy need not take.
    if not np.shares_memory(matrix, turned):
        matrix[...] = turned.T


def _routine(module: str, name: str, arguments: int) -> Callable[..., None]:
    """The routine at the address that SciPy tells; the lock is let go while it is called."""
    capsule = importlib.import_module(f"scipy.linalg.{module}").__pyx_capi__[name]
    name_of, address_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # Its name is its signature in C: of a SciPy built otherwise it would read and write where it should not.
    signature = name_of(capsule)
    wide = b"long" in signature or b"int64" in signature
    if signature.count(b",") + 1 != arguments or b"int *" not in signature or wide:
        raise RuntimeError(f"SciPy's {name} is {signature.decode()}, which cannot be called")
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    return kind(address_of(capsule, signature))
