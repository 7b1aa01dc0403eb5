"""Who is held out with whom: duplicates stay together, concepts are spread evenly.

A picture and its resized copy on both sides of a split make any model look good. So exact copies (same bytes) and near
copies (nearly the same direction in feature space) form one group, and a group is never split.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["NEAR_DUPLICATE_COSINE", "groups_of", "stratified_group_folds"]

NEAR_DUPLICATE_COSINE = 0.95
"""Centred features that agree more than this come from two copies of one picture, or two frames of one scene."""

_BLOCK = 2048
_SKETCH_FROM = 8192
_SKETCH_DIM = 96
_MIN_ROWS_TO_CENTRE = 16


def groups_of(
    features: npt.NDArray[np.float32], group_ids: Sequence[str], bar: float = NEAR_DUPLICATE_COSINE
) -> npt.NDArray[np.int64]:
    """Number the groups of exact and near duplicates.

    Args:
        features: [n, d].
        group_ids: Equal for pictures of equal bytes.
        bar: Cosine of centred features from which on two pictures count as near duplicates.

    Returns:
        For each row the number of its group, counted from 0 in order of first appearance.
    """
    forest = _Forest(len(features))
    first: dict[str, int] = {}
    for row, group in enumerate(group_ids):
        forest.join(first.setdefault(group, row), row)
    for left, right in _near_pairs(_directions(features), bar):
        forest.join(left, right)
    roots = [forest.root(row) for row in range(len(features))]
    numbers: dict[int, int] = {}
    return np.asarray([numbers.setdefault(root, len(numbers)) for root in roots], dtype=np.int64)


def stratified_group_folds(
    strata: npt.NDArray[np.float32], groups: npt.NDArray[np.int64], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Deal groups into folds so that every column of ``strata`` is spread evenly.

    Args:
        strata: [n, s] ≥ 0, such as one-hot classes; what should be balanced.
        groups: Group of each row.
        folds: Number of folds.
        seed: The same seed gives the same folds.

    Returns:
        Fold of each row, 0 to folds - 1.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    sums = np.zeros((count, strata.shape[1] + 1), dtype=np.float64)
    # The last column is the number of rows, so that folds are of equal size too.
    np.add.at(sums, groups, np.column_stack([strata, np.ones(len(groups))]))
    totals = np.maximum(sums.sum(axis=0), 1.0)
    weights = sums / totals
    generator = np.random.default_rng(seed)
    # Large and rare groups first: they have the fewest places where they fit.
    order = np.lexsort((generator.permutation(count), -weights.max(axis=1)))
    filled = np.zeros((folds, sums.shape[1]))
    chosen = np.empty(count, dtype=np.int64)
    for group in order:
        weight = weights[group]
        # Least squares: the fold where this group's own columns are emptiest.
        fold = int(np.argmin(filled @ weight))
        chosen[group] = fold
        filled[fold] += weight
    return chosen[groups]


def _directions(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # Features without negative values all point roughly the same way; differences show after centring.
    centre = features.mean(axis=0) if len(features) >= _MIN_ROWS_TO_CENTRE else np.float32(0)
    centred = features - centre
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    directions: npt.NDArray[np.float32] = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 1e-6)
    return directions


def _near_pairs(directions: npt.NDArray[np.float32], bar: float) -> list[tuple[int, int]]:
    """Find pairs above the bar, block by block; from some size on by a sketch whose candidates are then checked."""
    rows, dim = directions.shape
    sketch, loose = directions, bar
    if rows > _SKETCH_FROM and dim > _SKETCH_DIM:
        # A random projection keeps the short distance of near duplicates within a factor of about two.
        projection = np.random.default_rng(0).standard_normal((dim, _SKETCH_DIM)) / np.sqrt(_SKETCH_DIM)
        sketch = directions @ projection.astype(np.float32)
        sketch /= np.maximum(np.linalg.norm(sketch, axis=1, keepdims=True), 1e-6)
        loose = 1 - 2 * (1 - bar)
    pairs: list[tuple[int, int]] = []
    for start in range(0, rows, _BLOCK):
        block = sketch[start : start + _BLOCK]
        for other in range(start, rows, _BLOCK):
            left, right = np.nonzero(block @ sketch[other : other + _BLOCK].T >= loose)
            left, right = left + start, right + other
            ahead = left < right
            pairs += _confirmed(directions, left[ahead], right[ahead], bar)
    return pairs


def _confirmed(
    directions: npt.NDArray[np.float32], left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], bar: float
) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(left), _BLOCK):
        some, others = left[start : start + _BLOCK], right[start : start + _BLOCK]
        near = np.einsum("ij,ij->i", directions[some], directions[others]) >= bar
        pairs += zip(some[near].tolist(), others[near].tolist(), strict=True)
    return pairs


class _Forest:
    """Union-find with path halving."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def root(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def join(self, left: int, right: int) -> None:
        low, high = sorted((self.root(left), self.root(right)))
        self._parent[high] = low
