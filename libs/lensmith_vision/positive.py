"""Symmetric positive definite matrices: systems solved, inverses and axes found, side by side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensmith_vision.lapack import Matrix, Triangle, routines

__all__ = ["add_products", "inverse_of", "inverse_root_of", "largest_of", "mirror", "solve_positive"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_PART = 128


def add_products(upper: Floats, rows: Floats, times: float = 1.0) -> None:
    """Add so many times ``rows.T @ rows`` to the upper triangle of a matrix [d, d], which is all that is computed."""
    _, size = rows.shape
    if upper.shape != (size, size) or not rows.dtype == upper.dtype == np.float32:
        raise ValueError(f"products of rows {rows.shape} do not fit {upper.shape}, or are not of single precision")
    _in_one_piece(upper, rows)
    routines().add_products(upper, rows, times)


def mirror(upper: Floats) -> None:
    """Fill the lower triangle of a symmetric matrix [d, d], which is zero, from the upper one."""
    for start in range(0, len(upper), _PART):
        end = start + _PART
        upper[end:, start:end] = upper[start:end, end:].T
        upper[start:end, start:end] += np.triu(upper[start:end, start:end], 1).T


def solve_positive(positive: Matrix, right: Matrix) -> None:
    """Solve ``positive @ x.T = right.T``; both, of one precision, are overwritten, the right side [k, n] with x.

    Only the upper triangle of the matrix is read.

    Raises:
        numpy.linalg.LinAlgError: The matrix [n, n] is not positive definite, or something is not finite.
    """
    _, size = right.shape
    if positive.shape != (size, size):
        raise ValueError(f"a matrix {positive.shape} has no right side {right.shape}")
    if right.dtype != positive.dtype or right.dtype not in (np.float32, np.float64):
        raise ValueError("both sides must be of one precision, single or double")
    _in_one_piece(positive, right)
    # In the order of columns that LAPACK expects, a matrix is its transpose, and a symmetric one itself.
    routines().solve(_factor(positive, "L"), right)
    if not np.isfinite(right).all():
        raise np.linalg.LinAlgError("the right side is not finite, or its solution is not")


def inverse_of(positive: Doubles, ridge: float) -> Doubles:
    """Invert a positive semidefinite matrix [n, n] plus a ridge, in place.

    Raises:
        numpy.linalg.LinAlgError: It is not positive definite, or not finite.
    """
    _square(positive)[np.diag_indices_from(positive)] += ridge
    routines().invert(_factor(positive, "L"))
    upper = np.triu(positive)
    inverse: Doubles = upper + upper.T
    inverse[np.diag_indices_from(inverse)] /= 2
    return inverse


def inverse_root_of(positive: Doubles) -> Doubles:
    """Find the lower triangle whose square ``root.T @ root`` is the inverse of a matrix [n, n], in place.

    Raises:
        numpy.linalg.LinAlgError: It is not positive definite, or not finite.
    """
    routines().invert_triangle(_factor(_square(positive), "U"))
    return np.tril(positive)


def largest_of(matrix: Floats, most: int) -> tuple[Floats, Floats]:
    """Find the largest eigenvalues of a symmetric matrix [n, n], in ascending order, and their vectors [most, n].

    The matrix is overwritten.

    Raises:
        numpy.linalg.LinAlgError: They are not found.
    """
    if matrix.shape != (len(matrix), len(matrix)) or matrix.dtype != np.float32 or not 0 < most <= len(matrix):
        raise ValueError(f"{matrix.dtype} {matrix.shape} is no square matrix of single precision with {most} axes")
    _in_one_piece(matrix)
    values, vectors = np.empty(most, np.float32), np.empty((most, len(matrix)), np.float32)
    if not np.isfinite(matrix).all() or not routines().largest(matrix, values, vectors):
        raise np.linalg.LinAlgError("the matrix is not finite, or its eigenvalues are not found")
    return values, vectors


def _square(matrix: Doubles) -> Doubles:
    # What the routines are told is what they write to.
    if matrix.shape != (len(matrix), len(matrix)) or matrix.dtype != np.float64:
        raise ValueError(f"{matrix.dtype} {matrix.shape} is no square matrix of double precision")
    _in_one_piece(matrix)
    return matrix


def _in_one_piece(*matrices: npt.NDArray[np.floating]) -> None:
    if not all(matrix.flags.c_contiguous for matrix in matrices):
        raise ValueError("only arrays in one piece can be passed")


def _factor(matrix: Matrix, triangle: Triangle) -> Matrix:
    # What is not finite passes through routines that compare with zero only, and ends on the diagonal.
    if not routines().factor(matrix, triangle) or not np.isfinite(matrix.diagonal()).all():
        raise np.linalg.LinAlgError("the matrix is not positive definite, or not finite")
    return matrix
