"""How unlike anything in training a picture is, so that a model of apples and bananas can say "neither".

Distance from the mean of the training pictures, where directions in which they vary count little and all others fully:
what makes an outsider is what no training picture has. The unit comes from training pictures that were held out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import HeadError
from lensmith_vision.positive import largest_of
from lensmith_vision.threads import in_threads

__all__ = ["LEAST", "UNFAMILIAR", "Familiarity", "learn_familiarity", "sample_of"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

UNFAMILIAR = 0.5
"""Above it a picture is further from the training pictures than 19 of 20 of them were while they were held out."""

LEAST = 1e-9
"""Distances and spreads below it count as this."""

_AXES = 16
_SAMPLE = 512
_SHRINKAGE = 0.01
_FAR_QUANTILE = 0.95
_STEEPEST = 0.05


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What is remembered of the training pictures.

    Attributes:
        mean: [d] of their transformed features.
        axes: [r, d], the directions in which they vary most, each with the square root of the part that is forgiven.
        usual: Median distance of held-out training pictures.
        far: The distance that 5 % of them exceed.
    """

    mean: Floats
    axes: Floats
    usual: float
    far: float

    def check(self, dim: int, concepts: int) -> None:
        """Check that it fits a head, of however many concepts.

        Raises:
            HeadError: It does not.
        """
        for array, shape in ((self.mean, (dim,)), (self.axes, (len(self.axes), dim))):
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise HeadError("HEAD_INVALID", f"familiar numbers must be finite float32 of shape {list(shape)}")
        if not 0 < self.usual <= self.far < math.inf:
            raise HeadError("HEAD_INVALID", "familiar distances must be in order and greater than 0")

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        return int(self.mean.nbytes + self.axes.nbytes)

    @property
    def scale(self) -> float:
        """How far the logarithm of a distance moves while the score's log odds move by one."""
        return max(math.log(self.far / self.usual), _STEEPEST) / math.log(1 / (1 - _FAR_QUANTILE) - 1)

    def distances(self, features: Floats) -> Floats:
        """Distances [n] of transformed features [n, d]."""
        centred = features - self.mean
        squares = np.einsum("nd,nd->n", centred, centred)
        squares -= ((centred @ self.axes.T) ** 2).sum(axis=1)
        result: Floats = np.sqrt(np.maximum(squares, 0))
        return result

    def unfamiliar(self, features: Floats) -> Floats:
        """Scores [n] from 0 to 1: 0.05 for the usual training picture, 0.5 where all but 5 % of them are nearer."""
        logits = (np.log(np.maximum(self.distances(features), LEAST)) - math.log(self.far)) / self.scale
        scores: Floats = (1 / (1 + np.exp(-np.clip(logits, -50, 50)))).astype(np.float32)
        return scores


def sample_of(rows: int, seed: int) -> Ints:
    """The rows of a training set that are enough to learn from."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:_SAMPLE])


def learn_familiarity(features: Floats, folds: Ints) -> Familiarity:
    """Learn from transformed features [n, d]; pictures of one fold are measured by the others."""
    distances = np.empty(len(features))

    def learn(fold: int | None) -> tuple[Floats, Floats]:
        if fold is None:
            return _axes(features)
        held_out = folds == fold
        # A sample may hold one fold only; then there is nothing else to measure by.
        axes = _axes(features if held_out.all() else features[~held_out])
        distances[held_out] = Familiarity(*axes, 1.0, 1.0).distances(features[held_out])
        return axes

    whole, *_ = in_threads(learn, [None, *np.unique(folds).tolist()])
    usual, far = np.maximum(np.quantile(distances, [0.5, _FAR_QUANTILE]), LEAST)
    return Familiarity(*whole, float(usual), float(far))


def _axes(features: Floats) -> tuple[Floats, Floats]:
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float16).astype(np.float32)
    centred = features - mean
    # What is kept are the largest directions, rounded to half precision: single precision finds them.
    products = centred @ centred.T
    products /= np.float32(len(features))
    most = min(_AXES, max(1, len(features) // 4))
    spread = max(float(np.trace(products)), LEAST)
    values, sides = largest_of(products, most)
    values = np.maximum(values, LEAST)
    axes = sides @ centred / np.sqrt(values * len(features))[:, None]
    forgiven = values / (values + _SHRINKAGE * spread)
    rounded = (axes * np.sqrt(forgiven)[:, None]).astype(np.float16).astype(np.float32)
    return mean, rounded
