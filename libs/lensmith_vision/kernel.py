"""The kernel tier: ridge regression on Gaussian similarities to pictures of the training set.

It sees shapes of classes that no linear head can, and costs a head of megabytes instead of kilobytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.linalg

from lensmith_vision.discriminant import blocks_of
from lensmith_vision.errors import HeadError
from lensmith_vision.positive import inverse_of, inverse_root_of

__all__ = [
    "KernelPart",
    "Similarities",
    "held_out_similarity",
    "inverse_of_similarity",
    "most_landmarks",
    "squared_distances",
    "unit_of_width",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_BYTES = 6_000_000
_MOST = 4096
"""Landmarks. A fit holds seven matrices of all their pairs at once, 1 GB, and its time grows with their cube."""

_JITTER = 1e-4
"""Keeps equal pictures apart, numerically."""

_LEAST_UNIT = 0.01
"""Of the mean squared distance, so much that a median is more than what rounding makes of equal pictures."""

CONSTANT = 10.0
"""Similarity that all pictures have to each other: an intercept that is all but free."""


class _Gaussian:
    """Gaussian similarities to landmarks, which whoever inherits it has."""

    landmarks: Floats
    sharpness: float

    @cached_property
    def origin(self) -> Floats:
        """The landmarks' mean [d], from where distances are measured."""
        mean: Floats = self.landmarks.mean(axis=0)
        return mean

    @cached_property
    def squares(self) -> Floats:
        """Squared distances [m] of the landmarks from there."""
        centred = self.landmarks - self.origin
        squares: Floats = np.vecdot(centred, centred)
        return squares

    def similarity(self, features: Floats) -> Floats:
        """Of transformed features [n, d]; gives [n, m].

        Seen from their mean: where pictures look much the same, rounding leaves more than they differ by otherwise.
        """
        moved: Floats = features - self.origin
        similar: Floats = moved @ self.landmarks.T
        similar -= (moved @ self.origin)[:, None]
        similar *= 2
        similar -= self.squares
        similar -= np.vecdot(moved, moved)[:, None]
        np.minimum(similar, 0, out=similar)
        similar *= np.float32(self.sharpness)
        return np.exp(similar, out=similar)


@dataclass(frozen=True, eq=False)
class KernelPart(_Gaussian):
    """What a head adds to its linear logits: ``exp(-sharpness · |x - landmark|²) @ weights``.

    Attributes:
        landmarks: [m, d] float32, transformed features of training pictures; values that float16 can say.
        weights: [m, c] float32, calibration folded in.
        sharpness: Of the Gaussian.
    """

    landmarks: Floats
    weights: Floats
    sharpness: float

    def check(self, dim: int, concepts: int) -> None:
        """Check that it fits a head.

        Raises:
            HeadError: It does not.
        """
        count = len(self.landmarks)
        for array, shape in ((self.landmarks, (count, dim)), (self.weights, (count, concepts))):
            if array.dtype != np.float32 or array.shape != shape or count == 0 or not np.isfinite(array).all():
                raise HeadError("HEAD_INVALID", f"the kernel's numbers must be finite float32 of shape {list(shape)}")
        if not (math.isfinite(self.sharpness) and self.sharpness > 0):
            raise HeadError("HEAD_INVALID", "the kernel's sharpness must be greater than 0")

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        return int(self.landmarks.nbytes + self.weights.nbytes)

    def logits(self, features: Floats) -> Floats:
        """Of transformed features [n, d]; gives [n, c]."""
        result: Floats = self.similarity(features) @ self.weights
        return result


def squared_distances(products: Doubles) -> Doubles:
    """Squared distances [n, n] from inner products [n, n]."""
    squares = np.diagonal(products)
    return np.maximum(squares[:, None] + squares - 2 * products, 0.0)


def unit_of_width(distances: Doubles, median: float) -> float:
    """Give what widths are measured in: the median of squared distances [n, n], where it says something.

    Where most pictures look the same it is but a rounding, of which similarities would be noise and have no inverse.
    """
    return max(median, _LEAST_UNIT * float(distances.mean())) or 1.0


def inverse_of_similarity(similarity: Doubles, penalty: float) -> Doubles:
    """The matrix that turns targets into weights of landmarks, an intercept among them."""
    return inverse_of(similarity + CONSTANT, penalty)


def held_out_similarity(inverse: Doubles, targets: Doubles, groups: Ints) -> Doubles:
    """Say what ridge fits without each group of pictures say about that group, exactly.

    Args:
        inverse: [n, n], from :func:`inverse_of_similarity`.
        targets: [n, c].
        groups: [n], pictures of one group are held out together.
    """
    weights = inverse @ targets
    values = np.empty_like(targets)
    for block in blocks_of(groups):
        own = inverse[block[:, :, None], block[:, None, :]]
        values[block] = targets[block] - np.linalg.solve(own, weights[block])
    return values


def most_landmarks(dim: int, concepts: int) -> int:
    """How many landmarks a head may have."""
    return max(1, min(_MOST, _MOST_BYTES // (2 * dim + 4 * concepts)))


@dataclass(frozen=True, eq=False)
class Similarities(_Gaussian):
    """Similarities to landmarks, and coordinates in which their ridge is an ordinary one.

    Attributes:
        landmarks: [m, d] float32 that float16 can say.
        sharpness: Of the Gaussian.
        among: [m, m], the landmarks' own similarities.
    """

    landmarks: Floats
    sharpness: float
    among: Doubles

    @classmethod
    def to(cls, landmarks: Floats, sharpness: float) -> Similarities:
        """Of transformed features of pictures."""
        rounded = landmarks.astype(np.float16).astype(np.float32)
        # About their mean: where most pictures look the same, rounding leaves more than they differ by otherwise.
        centred = rounded - rounded.mean(axis=0)
        similar = centred @ centred.T
        squares = np.diagonal(similar).copy()
        similar *= 2
        similar -= squares
        similar -= squares[:, None]
        np.minimum(similar, 0, out=similar)
        similar *= np.float32(sharpness)
        among = np.exp(similar, out=similar).astype(np.float64)
        among[np.diag_indices_from(among)] += _JITTER
        return cls(rounded, sharpness, among)

    @cached_property
    def root(self) -> Doubles:
        """[m, m], lower; the landmarks' own similarities are its square, but for what keeps them apart."""
        apart = 0.0
        while True:
            among = self.among if apart == 0 else self.among + apart * np.eye(len(self.among))
            try:
                return np.asarray(scipy.linalg.cholesky(among, lower=True, check_finite=False))
            except np.linalg.LinAlgError:
                # Rounding may leave more of landmarks that look the same. Any root does: weights are told by it too.
                if apart > 1:
                    raise
                apart = 10 * max(apart, _JITTER)

    @property
    def rank(self) -> int:
        """Number of coordinates."""
        return len(self.landmarks) + 1

    def coordinates(self, features: Floats) -> Floats:
        """Coordinates [n, rank] of transformed features [n, d], the constant last."""
        solved = scipy.linalg.solve_triangular(
            self.root.astype(np.float32), self.similarity(features).T, lower=True, check_finite=False
        ).T
        return np.column_stack([solved, np.full(len(features), np.sqrt(CONSTANT), np.float32)])

    def fit(self, targets: Doubles, folds: Ints, penalty: float) -> tuple[Doubles, Doubles]:
        """Fit where every picture is a landmark; gives weights of the landmarks and values without each fold.

        Args:
            targets: [m, c].
            folds: [m], from low to high.
            penalty: Of ridge.
        """
        ridge = self.among + CONSTANT
        ridge[np.diag_indices_from(ridge)] += penalty
        # Of the inverse only those blocks are made that folds ask for.
        root = inverse_root_of(ridge)
        weights = root.T @ (root @ targets)
        values = np.empty_like(weights)
        starts = np.flatnonzero(np.diff(folds, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(folds)], strict=True):
            part = root[start:, start:end]
            values[start:end] = targets[start:end] - np.linalg.solve(part.T @ part, weights[start:end])
        return weights, values

    def of_landmarks(self, weights: Doubles) -> Doubles:
        """Turn weights [rank, c] of coordinates into weights [m, c] of landmarks, which say the constant too."""
        own = scipy.linalg.solve_triangular(self.root, weights[:-1], lower=True, trans="T", check_finite=False)
        return np.vstack([own, weights[-1:] * np.sqrt(CONSTANT)])

    def part(self, weights: Doubles) -> tuple[KernelPart, Doubles]:
        """Make the part of a head; gives it and the constant [c] for the bias.

        Args:
            weights: [m, c], or [m + 1, c] with the constant last.
        """
        count = len(self.landmarks)
        constant = weights[count] if len(weights) > count else CONSTANT * weights.sum(axis=0)
        return KernelPart(self.landmarks, weights[:count].astype(np.float32), self.sharpness), constant
