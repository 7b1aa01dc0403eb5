"""Who is held out with whom: duplicates stay together, concepts are spread evenly.

A picture and its resized copy on both sides of a split make any model look good. So exact copies (same bytes) and near
copies (nearly the same direction in feature space) form one group, and a group is never split.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.csgraph

from lensmith_vision.halves import Features, floats
from lensmith_vision.threads import in_threads

__all__ = ["NEAR_DUPLICATE_COSINE", "blocks_of_fold", "blocks_of_folds", "groups_of", "stratified_group_folds"]

NEAR_DUPLICATE_COSINE = 0.95
"""Centred features that agree more than this come from two copies of one picture, or two frames of one scene."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024
_BLOCK_OF_FOLD = 1024
_NEAR = 128
_EXACT = 512
_CELLS_FROM = 8192
_SKETCH_DIM = 64
_LOOSER = 2.25
"""How much further apart near copies may seem in a sketch: five times its error."""

_DEAL_FROM = 4096
_CELLS = 320
_CELLS_OF_ROW = 3
_CELLS_AT_ONCE = 32
_SHORTEST = 1e-6
_MIN_ROWS_TO_CENTRE = 16
# Without a centre to look from, all pictures seem alike, so the bar is raised.
_UNCENTRED_PART = 0.05


def groups_of(
    features: Features, group_ids: Sequence[str], bar: float = NEAR_DUPLICATE_COSINE
) -> npt.NDArray[np.int64]:
    """Number the groups of exact and near duplicates.

    Args:
        features: [n, d].
        group_ids: Equal for pictures of equal bytes.
        bar: Cosine of centred features from which on two pictures count as near duplicates.

    Returns:
        For each row the number of its group, counted from 0 in order of first appearance.
    """
    components = np.arange(len(features))
    if len(set(group_ids)) < len(components):
        first: dict[str, int] = {}
        exact = np.asarray([first.setdefault(group, row) for row, group in enumerate(group_ids)], dtype=np.int64)
        components = _joined(components, exact, components)
    if len(features) < _MIN_ROWS_TO_CENTRE:
        bar = 1 - (1 - bar) * _UNCENTRED_PART
    if len(features) <= _EXACT or features.shape[1] <= _SKETCH_DIM:
        components = _join_near(components, _directions(floats(features)), bar)
    else:
        components = _join_sketched(components, features, bar)
    _, appearance, numbers = np.unique(components, return_index=True, return_inverse=True)
    order = np.empty(len(appearance), dtype=np.int64)
    order[np.argsort(appearance)] = np.arange(len(appearance))
    return order[numbers]


def stratified_group_folds(
    strata: npt.NDArray[np.float32] | npt.NDArray[np.int64], groups: npt.NDArray[np.int64], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Deal groups into folds so that every stratum is spread evenly.

    Args:
        strata: What should be balanced: [n, s] ≥ 0, of which a row may have several, or [n] classes.
        groups: Group of each row.
        folds: Number of folds.
        seed: The same seed gives the same folds.

    Returns:
        Fold of each row, 0 to folds - 1.
    """
    count = int(groups.max()) + 1 if len(groups) else 0
    if count > _DEAL_FROM:
        return _dealt(strata, groups, folds, seed)
    if strata.ndim == 1:
        strata = np.eye(int(strata.max()) + 1, dtype=np.float32)[strata]
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


def blocks_of_folds(folds: Ints, most: int = _BLOCK_OF_FOLD) -> Iterator[Ints]:
    """Rows in blocks of one fold each: small enough to work on several at once and to need no second copy of all."""
    for fold in range(int(folds.max(initial=-1)) + 1):
        yield from blocks_of_fold(folds, fold, most)


def blocks_of_fold(folds: Ints, fold: int, most: int = _BLOCK_OF_FOLD) -> list[Ints]:
    """Rows of a fold in equal parts."""
    rows = np.flatnonzero(folds == fold)
    return np.array_split(rows, -(-len(rows) // most)) if len(rows) else []


def _dealt(strata: Floats | Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """Deal many groups like cards, sorted by size and by the rarest stratum that each has: even without looking."""
    sizes = np.bincount(groups)
    first = np.zeros(len(sizes), dtype=np.int64)
    first[groups[::-1]] = np.arange(len(groups))[::-1]
    own = strata[first] if strata.ndim == 1 else _rarest_strata(strata, first)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = np.lexsort((shuffled, own, -sizes))
    chosen = np.empty(len(sizes), dtype=np.int64)
    chosen[order] = np.arange(len(sizes)) % folds
    return chosen[groups]


def _rarest_strata(strata: Floats | Ints, rows: Ints) -> Ints:
    """The rarest stratum that each of some rows has."""
    rare = strata.sum(axis=0)
    own = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        own[start : start + _BLOCK] = np.where(strata[block] > 0, rare, np.float32(np.inf)).argmin(axis=1)
    return own


def _directions(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    # Features without negative values all point roughly the same way; differences show after centring.
    centre = features.mean(axis=0) if len(features) >= _MIN_ROWS_TO_CENTRE else np.float32(0)
    centred: Floats = features - centre
    norms = np.sqrt(np.einsum("ij,ij->i", centred, centred))[:, None]
    centred *= norms > _SHORTEST
    centred /= np.maximum(norms, _SHORTEST)
    return centred


def _join_near(components: Ints, directions: Floats, bar: float) -> Ints:
    """Join rows above the bar, block by block."""

    def agreement(left: Ints, right: Ints) -> Floats:
        agreed: Floats = np.einsum("ij,ij->i", directions[left], directions[right])
        return agreed

    for start in range(0, len(directions), _BLOCK):
        block = directions[start : start + _BLOCK]
        for other in range(start, len(directions), _BLOCK):
            left, right = np.nonzero(block @ directions[other : other + _BLOCK].T >= bar)
            components = _join_confirmed(components, agreement, left + start, right + other, bar)
    return components


def _join_sketched(components: Ints, features: Features, bar: float) -> Ints:
    """Join rows above the bar: candidates come from a random projection, and are then checked.

    The projection keeps the short distance of near copies within a factor of about two. No second copy of the features
    is made.
    """
    centre, sketch = _sketch(features)

    def agreement(left: Ints, right: Ints) -> Floats:
        one, other = floats(features[left]) - centre, floats(features[right]) - centre
        lengths = np.sqrt(np.vecdot(one, one) * np.vecdot(other, other))
        agreed: Floats = np.vecdot(one, other) / np.maximum(lengths, _SHORTEST)
        return agreed

    loose = 1 - _LOOSER * (1 - bar)
    chosen = np.random.default_rng(1).permutation(len(sketch))[:_CELLS]
    centres = sketch[chosen]
    nearest = in_threads(
        lambda start: _nearest(sketch[start : start + _BLOCK] @ centres.T), range(0, len(sketch), _BLOCK)
    )
    cells, likeness = (np.concatenate(side) for side in zip(*nearest, strict=True))
    # Thousands of frames of one scene would be millions of pairs: most are one group by the centre of their cell.
    like = np.flatnonzero(likeness >= loose)
    components = _join_confirmed(components, agreement, like, chosen[cells[like, 0]], bar)
    if len(features) > _CELLS_FROM:
        return _join_cells(components, sketch, chosen, cells, agreement, loose, bar)
    every = np.arange(len(features))
    found = in_threads(lambda start: _alike(sketch, components, every, start, loose), range(0, len(features), _BLOCK))
    left, right = (np.concatenate(side) for side in zip(*found, strict=True))
    return _join_confirmed(components, agreement, left, right, bar)


def _alike(sketch: Floats, components: Ints, members: Ints, start: int, loose: float) -> tuple[Ints, Ints]:
    """Pairs of members that may be near copies, not joined yet, of which the first is in one block, the other later."""
    own = sketch[members[start:]]
    # A flat search is several times faster than one that tells rows from columns.
    left, right = np.divmod(np.flatnonzero(own[:_BLOCK] @ own.T >= loose), len(own))
    apart = left < right
    left, right = members[left[apart] + start], members[right[apart] + start]
    new = components[left] != components[right]
    return left[new], right[new]


def _join_cells(
    components: Ints,
    sketch: Floats,
    chosen: Ints,
    cells: npt.NDArray[np.uint16],
    agreement: Callable[[Ints, Ints], Floats],
    loose: float,
    bar: float,
) -> Ints:
    """Join rows that share a cell around one of some random rows; near copies all but always share one of three."""
    centres = sketch[chosen]
    # Where most pictures are one, cells differ by nothing, and only their centres hold them together.
    left, right = np.nonzero(centres @ centres.T >= loose)
    components = _join_confirmed(components, agreement, chosen[left], chosen[right], bar)
    order = np.argsort(cells.ravel(), kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(cells.ravel(), minlength=len(centres))))

    def candidates(cell: int, joined: Ints) -> tuple[Ints, Ints]:
        members = np.append(order[bounds[cell] : bounds[cell + 1]] // _CELLS_OF_ROW, chosen[cell])
        pairs = [_alike(sketch, joined, members, start, loose) for start in range(0, len(members), _BLOCK)]
        left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
        return left, right

    for start in range(0, len(centres), _CELLS_AT_ONCE):
        some = range(start, min(start + _CELLS_AT_ONCE, len(centres)))
        lefts, rights = zip(*in_threads(functools.partial(candidates, joined=components), some), strict=True)
        components = _join_confirmed(components, agreement, np.concatenate(lefts), np.concatenate(rights), bar)
    return components


def _sketch(features: Features) -> tuple[Floats, Floats]:
    """The mean [d], and directions [n, k] seen from there in a random projection.

    Each feature is added to one of the k numbers or taken from it, which keeps distances as well as a product with a
    matrix of random numbers does (Charikar, Chen and Farach-Colton 2002), and costs a fraction of it.
    """
    rows, dim = features.shape
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), dim)
    sketch = np.empty((rows, _SKETCH_DIM), np.float32)
    whole = dim - dim % _SKETCH_DIM

    def fold_up(block: Floats, into: Floats) -> None:
        signed = block * signs
        np.add.reduce(signed[:, :whole].reshape(len(block), -1, _SKETCH_DIM), axis=1, out=into)
        into[:, : dim - whole] += signed[:, whole:]

    def project(start: int) -> Floats:
        total = np.zeros(dim, np.float32)
        for row in range(start, min(start + _BLOCK, rows), _NEAR):
            some = floats(features[row : row + _NEAR])
            fold_up(some, sketch[row : row + _NEAR])
            total += some.sum(axis=0)
        return total

    starts = range(0, rows, _BLOCK)
    centre = (np.sum(in_threads(project, starts), axis=0, dtype=np.float64) / rows).astype(np.float32)
    seen = np.empty((1, _SKETCH_DIM), np.float32)
    fold_up(centre[None], seen)

    def direct(start: int) -> None:
        block = sketch[start : start + _BLOCK]
        block -= seen
        block /= np.maximum(np.sqrt(np.vecdot(block, block)), _SHORTEST)[:, None]

    in_threads(direct, starts)
    return centre, sketch


def _nearest(likeness: Floats) -> tuple[npt.NDArray[np.uint16], Floats]:
    """The columns [n, 3] of the highest values of each row, and the highest: a few searches cost less than sorting."""
    # Short numbers are sorted by their digits.
    found = np.empty((len(likeness), _CELLS_OF_ROW), np.uint16)
    every = np.arange(len(found))
    found[:, 0] = likeness.argmax(axis=1)
    highest = likeness[every, found[:, 0]]
    for turn in range(1, _CELLS_OF_ROW):
        likeness[every, found[:, turn - 1]] = -np.inf
        found[:, turn] = likeness.argmax(axis=1)
    return found, highest


def _join_confirmed(
    components: Ints, agreement: Callable[[Ints, Ints], Floats], left: Ints, right: Ints, bar: float
) -> Ints:
    """Join the candidate pairs that hold; what is joined already is not looked at again, however often it is copied."""
    for start in range(0, len(left), _BLOCK):
        some, others = left[start : start + _BLOCK], right[start : start + _BLOCK]
        new = components[some] != components[others]
        some, others = some[new], others[new]
        if len(some):
            near = agreement(some, others) >= bar
            components = _joined(components, some[near], others[near])
    return components


def _joined(components: Ints, left: Ints, right: Ints) -> Ints:
    if len(left) == 0:
        return components
    size = len(components)
    edges = (np.ones(len(left), dtype=np.int8), (components[left], components[right]))
    _, labels = scipy.sparse.csgraph.connected_components(scipy.sparse.coo_matrix(edges, shape=(size, size)), False)
    merged: Ints = labels.astype(np.int64)[components]
    return merged
