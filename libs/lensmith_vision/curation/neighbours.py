"""Which pictures of a training set look most alike, near copies aside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import Features
from lensmith_vision.threads import in_threads
from lensmith_vision.transforms import transformed

__all__ = ["NEAREST", "Neighbours", "directions", "find_neighbours"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEAREST = 10
"""How many are looked at."""

_BLOCK, _LOOKED_AT = 1024, 128
_EXACT_ROWS = 4096
_SKETCH_DIM = 128
_MOST_REFERENCES = 20_000
_SHORTEST = 1e-6
_BLURRED = 0.1
"""Difference of cosines by which a neighbour counts e times as much."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest pictures of each.

    Attributes:
        rows: [n, k] of the set, in no order.
        weights: [n, k] how much each counts; 0 where there is none.
    """

    rows: Ints
    weights: Floats


def directions(features: Features) -> Floats:
    """Turn features [n, d] into directions whose products are cosines; of large sets fewer numbers are kept."""
    if len(features) > _EXACT_ROWS and features.shape[1] > _SKETCH_DIM:
        # A random projection keeps cosines within a few hundredths, and bounds the cost of comparing all with all.
        shape = (features.shape[1], _SKETCH_DIM)
        projection = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        roots = np.empty((len(features), _SKETCH_DIM), np.float32)
        for start in range(0, len(features), _BLOCK):
            roots[start : start + _BLOCK] = transformed(features[start : start + _BLOCK], "root") @ projection
    else:
        roots = transformed(features, "root")
    roots = roots - roots.mean(axis=0)
    lengths = np.sqrt(np.einsum("nd,nd->n", roots, roots))
    units: Floats = roots / np.maximum(lengths, _SHORTEST)[:, None]
    return units


def find_neighbours(units: Floats, groups: Ints, count: int = NEAREST, seed: int = 0) -> Neighbours:
    """Find the nearest pictures of each, none of its own group; among at most 20,000, chosen at random.

    Args:
        units: [n, d] directions.
        groups: [n], equal for near copies, which say what the picture itself says.
        count: How many to find; fewer in small sets.
        seed: Of the choice.
    """
    rows = len(units)
    among = np.arange(rows)
    if rows > _MOST_REFERENCES:
        among = np.sort(np.random.default_rng(seed).permutation(rows)[:_MOST_REFERENCES])
    count, others = min(count, len(among)), units[among].T

    def look(start: int) -> tuple[Ints, Floats]:
        block = slice(start, start + _LOOKED_AT)
        likeness = units[block] @ others
        likeness[groups[block][:, None] == groups[among][None, :]] = -np.inf
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        found = np.exp(np.take_along_axis(likeness, nearest, axis=1) / np.float32(_BLURRED))
        return among[nearest], found.astype(np.float32)

    parts = in_threads(look, range(0, rows, _LOOKED_AT))
    return Neighbours(np.concatenate([rows for rows, _ in parts]), np.concatenate([found for _, found in parts]))
