"""Systems with a symmetric positive definite matrix, solved side by side.

SciPy's own functions hold the interpreter's lock while they work, so that threads wait for each other; the routines of
BLAS and LAPACK that it offers to other compiled code do not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from types import ModuleType

import numpy as np
import numpy.typing as npt
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack

__all__ = ["add_products", "inverse_of", "inverse_root_of", "mirror", "solve_positive"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_Argument = bytes | int | npt.NDArray[np.generic]

_PART = 128


def add_products(upper: Floats, rows: Floats) -> None:
    """Add ``rows.T @ rows`` to the upper triangle of a matrix [d, d], which is all that is computed."""
    count, size = rows.shape
    if upper.shape != (size, size) or not rows.dtype == upper.dtype == np.float32:
        raise ValueError(f"products of rows {rows.shape} do not fit {upper.shape}, or are not of single precision")
    one = np.ones(1, np.float32)
    _pass(_routine(scipy.linalg.cython_blas, "ssyrk", 10), b"L", b"N", size, count, one, rows, size, one, upper, size)


def mirror(upper: Floats) -> None:
    """Fill the lower triangle of a symmetric matrix [d, d], which is zero, from the upper one."""
    for start in range(0, len(upper), _PART):
        end = start + _PART
        upper[end:, start:end] = upper[start:end, end:].T
        upper[start:end, start:end] += np.triu(upper[start:end, start:end], 1).T


def solve_positive(positive: Floats | Doubles, right: Floats | Doubles) -> None:
    """Solve ``positive @ x.T = right.T``; both, of one precision, are overwritten, the right side [k, n] with x.

    Only the upper triangle of the matrix is read.

    Raises:
        numpy.linalg.LinAlgError: The matrix [n, n] is not positive definite.
    """
    count, size = right.shape
    if positive.shape != (size, size):
        raise ValueError(f"a matrix {positive.shape} has no right side {right.shape}")
    # In the order of columns that LAPACK expects, a matrix is its transpose, and a symmetric one itself.
    letter = "s" if positive.dtype == np.float32 else "d"
    if right.dtype != positive.dtype:
        raise ValueError("both sides must be of one precision")
    _call(f"{letter}potrf", b"L", size, positive, size)
    _call(f"{letter}potrs", b"L", size, count, positive, size, right, size)


def inverse_of(positive: Doubles, ridge: float) -> Doubles:
    """Invert a positive semidefinite matrix [n, n] plus a ridge, in place.

    Raises:
        numpy.linalg.LinAlgError: It is not positive definite.
    """
    size = _size_of(positive)
    positive[np.diag_indices_from(positive)] += ridge
    _call("dpotrf", b"L", size, positive, size)
    _call("dpotri", b"L", size, positive, size)
    upper = np.triu(positive)
    inverse: Doubles = upper + upper.T
    inverse[np.diag_indices_from(inverse)] /= 2
    return inverse


def inverse_root_of(positive: Doubles) -> Doubles:
    """Find the lower triangle whose square ``root.T @ root`` is the inverse of a matrix [n, n], in place.

    Raises:
        numpy.linalg.LinAlgError: It is not positive definite.
    """
    size = _size_of(positive)
    _call("dpotrf", b"U", size, positive, size)
    _call("dtrtri", b"U", b"N", size, positive, size)
    return np.tril(positive)


def _size_of(matrix: Doubles) -> int:
    # What the routines are told is what they write to.
    if matrix.shape != (len(matrix), len(matrix)) or matrix.dtype != np.float64:
        raise ValueError(f"{matrix.dtype} {matrix.shape} is no square matrix of double precision")
    return len(matrix)


def _call(name: str, *arguments: _Argument) -> None:
    failed = np.zeros(1, np.int32)
    _pass(_routine(scipy.linalg.cython_lapack, name, len(arguments) + 1), *arguments, failed)
    if failed[0]:
        raise np.linalg.LinAlgError("the matrix is not positive definite")


def _pass(routine: Callable[..., None], *arguments: _Argument) -> None:
    """Call it, everything by its address."""
    passed: list[object] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            if not argument.flags.c_contiguous:
                raise ValueError("only arrays in one piece can be passed")
            passed.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            passed.append(argument if isinstance(argument, bytes) else ctypes.byref(ctypes.c_int(argument)))
    routine(*passed)


@cache
def _routine(module: ModuleType, name: str, arguments: int) -> Callable[..., None]:
    """The routine at the address that SciPy tells; the lock is let go while it is called."""
    capsule = module.__pyx_capi__[name]
    name_of, address_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of.restype, address_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    # Its name is its signature in C: of a SciPy built otherwise it would read and write where it should not.
    signature = name_of(capsule)
    if signature.count(b",") + 1 != arguments or b"int *" not in signature:
        raise RuntimeError(f"SciPy's {name} is {signature.decode()}, which cannot be called")
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    return kind(address_of(capsule, signature))
