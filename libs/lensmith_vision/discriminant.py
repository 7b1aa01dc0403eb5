"""Linear discriminants with a shrunk covariance, and what they say about pictures that were held out.

All concepts share one covariance, so that a class needs only its mean: few pictures are enough for that, and both come
from sums over pictures. What a fit without some of the pictures would say follows exactly from the fit with all of them
(Woodbury), so that leaving out one picture after the other costs one fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.positive import add_products, inverse_root_of, solve_positive
from lensmith_vision.statistics import Moments

__all__ = [
    "Discriminant",
    "Scatter",
    "blocks_of",
    "held_out_logits",
    "log_prior",
    "solve",
    "solve_ridge",
    "unit_of_scatter",
    "within_variance",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LEAST_SHRINKAGE = 1e-12
_LEAST_WITHIN = 1e-3
"""Of all scatter, so much within classes that it is more than what rounding makes of copies of one picture."""
_NEW_CLASS = 0.5
"""Pictures that a concept without any counts as having, so that its prior is not minus infinity."""
_UNSEEN = 0.5
"""How likely a class without pictures is beside the least likely other one."""


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Raw logits ``x @ weights + bias``, before calibration.

    Attributes:
        weights: [d, c].
        bias: [c].
        unseen: Places of the classes without a picture.
    """

    weights: Floats
    bias: Doubles
    unseen: Ints

    def forget_unseen(self, logits: Floats) -> None:
        """Make classes that were not seen less likely than all others in logits [n, c], where they stand.

        Where all of them stand, such a class is nearest to whatever is unlike the others, which would be right of
        pictures that it was held out with.
        """
        if len(self.unseen):
            known = np.delete(logits, self.unseen, axis=1)
            logits[:, self.unseen] = known.min(axis=1, keepdims=True) + np.log(np.float32(_UNSEEN))


def within_variance(moments: Moments) -> float:
    """Mean squared distance of a picture from the mean of its class; the unit in which shrinkage is given."""
    counts, sums = np.maximum(moments.counts[0], 1), moments.sums[0]
    between = float(((sums**2).sum(axis=1) / counts).sum())
    return unit_of_scatter(float(np.trace(moments.gram)), between, moments.rows)


def unit_of_scatter(whole: float, between: float, rows: int) -> float:
    """The same from all scatter and that between classes.

    Where all pictures of each class are copies of one, only rounding is left, which has no inverse. Then the unit is so
    large that nothing but the means counts; they tell such classes apart.
    """
    within, least = whole - between, _LEAST_WITHIN * whole
    return within / max(rows, 1) if within > least else least


@dataclass(frozen=True, eq=False)
class Scatter:
    """What classes that exclude each other are fitted from, once for all strengths of shrinkage.

    Attributes:
        within: [d, d], the scatter within classes; below the diagonal it means nothing.
        means: [c, d].
        rows: How many pictures.
        unseen: Places of the classes without a picture.
    """

    within: Floats
    means: Floats
    rows: int
    unseen: Ints

    @classmethod
    def of(cls, moments: Moments, less: Moments | None = None) -> Scatter:
        """Of the pictures to learn from, each of which has exactly one class; less those of a fold that is held out."""
        # Shrinkage keeps the condition number small, so single precision is enough and twice as fast.
        within = np.empty(moments.gram.shape, np.float32)
        if less is None:
            rows, total, counts, sums = moments.rows, moments.total, moments.counts[0], moments.sums[0]
            within[:] = moments.gram
        else:
            rows, total = moments.rows - less.rows, moments.total - less.total
            counts, sums = moments.counts[0] - less.counts[0], moments.sums[0] - less.sums[0]
            np.subtract(moments.gram, less.gram, out=within, casting="same_kind")
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        scaled = means * np.sqrt(counts).astype(np.float32)[:, None]
        add_products(within, scaled, -1.0)
        # A concept without pictures stands where all of them do; see `forget_unseen`.
        unseen = np.flatnonzero(counts == 0)
        means[unseen] = total / max(rows, 1)
        return cls(within, means, rows, unseen)

    def solve(self, shrinkage: float) -> Discriminant:
        """Fit with so much added to the diagonal, greater than 0; see :func:`within_variance`."""
        return self._solve(self.within.copy(), shrinkage)

    def solve_last(self, shrinkage: float) -> Discriminant:
        """The same, for the last time: the scatter is overwritten."""
        return self._solve(self.within, shrinkage)

    def _solve(self, positive: Floats, shrinkage: float) -> Discriminant:
        positive[np.diag_indices_from(positive)] += np.float32(max(shrinkage, _LEAST_SHRINKAGE))
        solved = self.means.copy()
        solve_positive(positive, solved)
        solved *= np.float32(self.rows)
        return Discriminant(solved.T, -0.5 * np.vecdot(self.means, solved).astype(np.float64), self.unseen)


def solve(moments: Moments, shrinkage: float, less: Moments | None = None) -> Discriminant:
    """Fit classes that exclude each other.

    Args:
        moments: Of the pictures to learn from; each has exactly one class.
        shrinkage: Added to the within-class scatter's diagonal, greater than 0; see :func:`within_variance`.
        less: Of pictures among them that are held out.
    """
    return Scatter.of(moments, less).solve_last(shrinkage)


def solve_ridge(moments: Moments, penalty: float) -> Doubles:
    """Least squares of the positives' indicator (or of the targets), without an intercept; gives weights [d, c]."""
    gram = moments.gram.astype(np.float64)
    gram[np.diag_indices_from(gram)] += penalty
    solved: Doubles = moments.sums[0].astype(np.float64)
    solve_positive(gram, solved)
    return solved.T


def log_prior(counts: npt.NDArray[np.float64]) -> Doubles:
    """Log of how common each class is."""
    padded = np.maximum(counts, _NEW_CLASS)
    return np.asarray(np.log(padded / padded.sum()), dtype=np.float64)


def blocks_of(groups: Ints) -> Iterator[Ints]:
    """Yield the rows of all groups of one size as [b, m], so that equal work is done at once."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    for size in np.unique(sizes):
        yield order[starts[sizes == size][:, None] + np.arange(size)]


def held_out_logits(products: Doubles, classes: Ints, width: int, groups: Ints, shrinkage: float) -> Doubles:
    """Say what fits without each group of pictures say about that group, exactly.

    Args:
        products: [n, n], the inner products of all pictures, centred on one origin.
        classes: [n], the class of each picture.
        width: Number of classes.
        groups: [n], pictures of one group are held out together.
        shrinkage: As in :func:`solve`.

    Returns:
        [n, width] raw logits, up to a constant of each row.
    """
    fitted = _FitOfAll.of(products, classes, width, shrinkage)
    logits = np.empty((len(classes), width))
    for block in blocks_of(groups):
        logits[block] = fitted.without(block) * (len(classes) - block.shape[1])
    return logits


@dataclass(frozen=True, eq=False)
class _FitOfAll:
    """A fit to all pictures, as inner products under its inverse scatter; x: pictures, u: deviations from their class.

    Attributes:
        classes: [n].
        member: [c, n], 1 where a picture is of a class.
        counts: [c], pictures of each class.
        shrinkage: Greater than 0.
        root: [n, n], whose square ``root.T @ root`` is the inverse of the scatter among pictures.
        diagonal: [n], of that inverse.
        x_mean: [n, c], of pictures and class means.
        u_mean: [n, c], of deviations and class means.
        squared: [c], of class means with themselves.
    """

    classes: Ints
    member: Doubles
    counts: Doubles
    shrinkage: float
    root: Doubles
    diagonal: Doubles
    x_mean: Doubles
    u_mean: Doubles
    squared: Doubles

    @classmethod
    def of(cls, products: Doubles, classes: Ints, width: int, shrinkage: float) -> _FitOfAll:
        """Fit; see :func:`held_out_logits`."""
        shrinkage = max(shrinkage, _LEAST_SHRINKAGE)
        member = np.zeros((width, len(classes)))
        member[classes, np.arange(len(classes))] = 1.0
        counts = member.sum(axis=1)
        averaging = member / np.maximum(counts, 1)[:, None]
        # First plain …
        x_mean = products @ averaging.T
        u_mean = x_mean - (averaging @ x_mean)[classes]
        deviation = products - x_mean[:, classes]
        deviation -= (averaging @ deviation)[classes]
        deviation[np.diag_indices_from(deviation)] += shrinkage
        root = inverse_root_of(deviation)
        # … then under the inverse scatter, which all follow from one inverse among pictures.
        half = root @ u_mean
        mean_mean = (averaging @ x_mean - half.T @ half) / shrinkage
        u_mean = root.T @ half
        x_mean = u_mean + mean_mean[classes]
        diagonal = np.einsum("kn,kn->n", root, root)
        return cls(classes, member, counts, shrinkage, root, diagonal, x_mean, u_mean, np.diagonal(mean_mean))

    def _inverse(self, block: Ints) -> Doubles:
        """The part [b, m, m] of the inverse that is about the pictures of each row of a block [b, m]."""
        if block.shape[1] == 1:
            return self.diagonal[block][:, :, None]
        columns = self.root[:, block]
        part: Doubles = columns.transpose(1, 2, 0) @ columns.transpose(1, 0, 2)
        return part

    def without(self, block: Ints) -> Doubles:
        """Say what fits without the pictures of each row of a block [b, m] say about these; [b, m, c]."""
        size, classes, u_mean = block.shape[1], self.classes[block], self.u_mean[block]
        own = np.arange(size)
        same = classes[:, :, None] == classes[:, None, :]
        left = self.counts[classes] - same.sum(axis=2)
        whole = left == 0
        # Inverse of what the removal of these rows does to the scatter of their classes.
        spread = np.where(same & ~whole[:, :, None], -1 / self.counts[classes][:, :, None], 0.0)
        spread[:, own, own] += 1
        removed = np.eye(size) - self.shrinkage * self._inverse(block)
        of_class = np.arange(len(block))[:, None, None], classes[:, :, None], own[None, None, :]
        x_u = removed + u_mean.transpose(0, 2, 1)[of_class]
        member = self.member[:, block].transpose(1, 0, 2)
        shift = member * np.where(whole, 0.0, 1 / np.maximum(left, 1))[:, None, :]
        back = shift.transpose(0, 2, 1)
        u_new = u_mean - removed @ back
        inflated = np.linalg.solve(spread - removed, u_new)
        squares = self.squared - 2 * np.einsum("bkm,bmk->bk", shift, u_mean)
        squares += np.einsum("bkm,bmj,bkj->bk", shift, removed, shift) + (u_new * inflated).sum(axis=1)
        scores = self.x_mean[block] - x_u @ back + x_u @ inflated - 0.5 * squares[:, None, :]
        # A class that is held out as a whole cannot be known.
        held = member.sum(axis=2)
        gone = (held > 0) & (held == self.counts)
        least = np.where(gone[:, None, :], np.inf, scores).min(axis=2, keepdims=True)
        known: Doubles = np.where(gone[:, None, :], least, scores)
        return known
