"""Routines that are called by their address do what SciPy's own functions do, and both do what they promise."""

import numpy as np
import pytest

from lensmith_vision.lapack import ByAddress, ByScipy, Routines, routines
from lensmith_vision.positive import add_products, inverse_of, inverse_root_of, largest_of, mirror, solve_positive


def rows_of(count: int, dim: int, dtype: type[np.floating] = np.float32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_systems_are_solved_when_the_matrix_is_positive(dtype: type[np.floating]) -> None:
    rows, right = rows_of(90, 30, dtype), rows_of(7, 30, dtype)
    positive = rows.T @ rows
    expected = np.linalg.solve(positive.astype(np.float64), right.T.astype(np.float64))
    solve_positive(positive, right)
    np.testing.assert_allclose(right.T, expected, atol=1e-6)


def test_inverses_are_inverses() -> None:
    rows = rows_of(20, 40, np.float64)
    products = rows @ rows.T
    ridge = products + 0.5 * np.eye(20)
    inverse = inverse_of(products, 0.5)
    np.testing.assert_allclose(inverse @ ridge, np.eye(20), atol=1e-12)
    root = inverse_root_of(ridge.copy())
    assert (np.triu(root, 1) == 0).all()
    np.testing.assert_allclose(root.T @ root, inverse, atol=1e-12)


def test_products_add_up_when_rows_come_in_parts() -> None:
    rows = rows_of(70, 300)
    gram = np.zeros((300, 300), np.float32)
    for part in np.array_split(rows, 3):
        add_products(gram, part)
    assert (np.tril(gram, -1) == 0).all()
    mirror(gram)
    np.testing.assert_allclose(gram, rows.T @ rows, atol=1e-4)


def test_what_is_not_positive_or_not_in_one_piece_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        solve_positive(-np.eye(4, dtype=np.float32), np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="one piece"):
        inverse_root_of(np.eye(8)[::2, ::2])
    with pytest.raises(ValueError, match="precision"):
        solve_positive(np.eye(4, dtype=np.float32), np.ones((1, 4)))


def test_what_does_not_fit_is_refused_before_it_is_written_to() -> None:
    with pytest.raises(ValueError, match="no right side"):
        solve_positive(np.eye(4), np.ones((1, 9)))
    with pytest.raises(ValueError, match="do not fit"):
        add_products(np.zeros((3, 3), np.float32), rows_of(5, 9))
    with pytest.raises(ValueError, match="no square matrix"):
        inverse_of(rows_of(4, 3, np.float64), 1.0)
    with pytest.raises(ValueError, match="no square matrix"):
        inverse_root_of(rows_of(4, 4, np.float32))


def _everything(these: Routines, dtype: type[np.floating]) -> list[np.ndarray]:
    """What each routine makes of the same matrices."""
    rows = rows_of(90, 37, dtype)
    factor, right = rows.T @ rows, rows_of(7, 37, dtype)
    assert these.factor(factor, "L")
    these.solve(factor, right)
    made = [factor, right]
    if dtype is np.float32:
        sums = rows.T @ rows
        these.add_products(sums, rows, -0.5)
        symmetric, values, vectors = rows.T @ rows, np.empty(5, np.float32), np.empty((5, 37), np.float32)
        assert these.largest(symmetric, values, vectors)
        # Either sign of a vector is right.
        return [*made, sums, values, (vectors.T * values) @ vectors]
    inverse, root = factor.copy(), rows.T @ rows
    assert these.invert(inverse)
    assert these.factor(root, "U")
    assert these.invert_triangle(root)
    return [*made, inverse, root]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_roads_give_the_same_numbers(dtype: type[np.floating]) -> None:
    by_address, by_scipy = _everything(ByAddress(), dtype), _everything(ByScipy(), dtype)
    relative, absolute = (1e-6, 2e-5) if dtype is np.float32 else (1e-13, 0)
    for one, other in zip(by_address, by_scipy, strict=True):
        np.testing.assert_allclose(one, other, relative, absolute)
    for these in (ByAddress(), ByScipy()):
        assert not these.factor(-np.eye(4, dtype=dtype), "L")
    # Without the routines every fit takes turns: that is to be known before somebody waits for it.
    assert isinstance(routines(), ByAddress)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(spoilt: float) -> None:
    for place in ((0, 0), (2, 5), (5, 5)):
        matrix = 10 * np.eye(6)
        matrix[place] = matrix[place[::-1]] = spoilt
        for solving in (
            lambda one: solve_positive(one, np.ones((2, 6))),
            lambda one: solve_positive(one.astype(np.float32), np.ones((2, 6), np.float32)),
            lambda one: inverse_of(one, 1.0),
            inverse_root_of,
        ):
            with pytest.raises(np.linalg.LinAlgError):
                solving(matrix.copy())
    with pytest.raises(np.linalg.LinAlgError, match="right side"):
        solve_positive(np.eye(6), np.full((2, 6), spoilt))


def test_the_largest_eigenvalues_come_with_their_vectors_and_nothing_else_is_taken() -> None:
    rows = rows_of(90, 37, np.float32)
    symmetric = rows.T @ rows
    values, vectors = largest_of(symmetric.copy(), 3)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(symmetric.astype(np.float64))[-3:], rtol=1e-5)
    np.testing.assert_allclose(vectors @ symmetric, values[:, None] * vectors, atol=1e-3)
    with pytest.raises(np.linalg.LinAlgError):
        largest_of(np.full((3, 3), np.nan, np.float32), 1)
    for matrix, most in ((rows_of(4, 3), 1), (rows_of(4, 4, np.float64), 1), (rows_of(4, 4), 5)):
        with pytest.raises(ValueError, match="no square matrix"):
            largest_of(matrix, most)
