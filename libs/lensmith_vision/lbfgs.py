"""L-BFGS over many independent problems at once.

The problems stand side by side in the second axis of one array. Each has its own curvature memory, step length and end,
but all share every evaluation, so that one large matrix product serves them all. SciPy's solver takes one problem at a
time, and its own bookkeeping costs more here than the products do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["minimise"]

Floats = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

_MEMORY = 8
_MAX_STEPS = 150
_SUFFICIENT = 1e-4
_SHORTEST = 1e-4
_NOISE = 1e-7
_QUIET_STEPS = 2


def minimise(loss: Callable[[Floats], tuple[Values, Floats]], begin: Floats, tolerance: float = 1e-5) -> Floats:
    """Minimise k smooth convex functions.

    Args:
        loss: Gives for a point [r, k, c] the k values and the gradient [r, k, c].
        begin: Where to begin, [r, k, c] float32; variables should be scaled so that curvature is near 1.
        tolerance: A problem ends when two steps in a row lower its value by less than this part of it.

    Returns:
        The lowest point found for each problem.
    """
    point = begin
    values, gradient = loss(point)
    memory: deque[tuple[Floats, Floats, Values]] = deque(maxlen=_MEMORY)
    quiet = np.zeros(len(values), dtype=np.int64)
    for _ in range(_MAX_STEPS):
        direction = _direction(gradient, memory)
        slopes = _dot(direction, gradient)
        # Rounding can spoil a direction; the plain gradient never points up.
        broken = slopes >= 0
        direction[:, broken] = -gradient[:, broken]
        slopes[broken] = -_dot(gradient, gradient)[broken]
        moved, new_values, new_gradient = _search(loss, point, values, direction, slopes)
        gained = values - new_values
        quiet = np.where(gained <= tolerance * np.abs(values), quiet + 1, 0)
        change = new_gradient - gradient
        curvature = _dot(moved - point, change)
        memory.append((moved - point, change, curvature))
        point, values, gradient = moved, new_values, new_gradient
        if (quiet >= _QUIET_STEPS).all():
            break
    return point


def _search(
    loss: Callable[[Floats], tuple[Values, Floats]],
    point: Floats,
    values: Values,
    direction: Floats,
    slopes: Values,
) -> tuple[Floats, Values, Floats]:
    """Halve the step of each problem until its value has fallen enough; a problem that cannot fall stays put."""
    lengths = np.ones(len(values))
    while True:
        moved = point + lengths.astype(np.float32)[:, None] * direction
        new_values, new_gradient = loss(moved)
        allowed = values + _SUFFICIENT * lengths * slopes + _NOISE * np.abs(values)
        failed = ~(new_values <= allowed) & (lengths > 0)
        if not failed.any():
            return moved, new_values, new_gradient
        lengths[failed] *= 0.5
        lengths[lengths < _SHORTEST] = 0.0


def _direction(gradient: Floats, memory: deque[tuple[Floats, Floats, Values]]) -> Floats:
    """The two-loop recursion, with coefficients of each problem's own."""
    result = -gradient
    coefficients = []
    for step, change, curvature in reversed(memory):
        alpha = _ratio(_dot(step, result), curvature)
        result -= alpha.astype(np.float32)[:, None] * change
        coefficients.append(alpha)
    if memory:
        step, change, curvature = memory[-1]
        scale = _ratio(curvature, _dot(change, change))
        result *= np.where(scale > 0, scale, 1.0).astype(np.float32)[:, None]
    for (step, change, curvature), alpha in zip(memory, reversed(coefficients), strict=True):
        beta = _ratio(_dot(change, result), curvature)
        result += (alpha - beta).astype(np.float32)[:, None] * step
    return result


def _dot(left: Floats, right: Floats) -> Values:
    products: Values = np.einsum("rkc,rkc->k", left, right)
    return products.astype(np.float64)


def _ratio(part: Values, whole: Values) -> Values:
    """Divide, giving 0 where there was no curvature: that pair then has no say."""
    result: Values = np.divide(part, whole, out=np.zeros_like(part), where=whole > 1e-20)
    return result
