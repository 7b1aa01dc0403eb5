"""How far figures would be off had other pictures been drawn: the bootstrap, over groups of near copies.

Pictures are drawn anew with their near copies, because two frames of one scene say little more than one. Sums over
pictures are resampled exactly, all at once as a product of matrices. Figures about ranks (ROC-AUC, average precision)
follow from the positives in order and the number of negatives between them, whose counts are drawn anew; that makes
the cost depend on the number of positives, and bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special

from lensmith_vision.metrics import Ranking
from lensmith_vision.threads import in_threads

__all__ = ["Interval", "RankIntervals", "Resamples", "interval_of", "intervals_of", "rank_intervals"]

Interval = tuple[float, float]
"""Low and high end."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_TAIL = 0.025
"""Of the draws on each side that an interval leaves out."""
_NORMAL = float(scipy.special.ndtri(1 - _TAIL))

_LEAST_RATE = 1e-6
_FEWEST, _MOST = 200, 1000
_DRAWS = 1_000_000
_TABLE = 1 << 16
_ROWS = 4096


class Resamples:
    """Weights of groups, each row of them another draw of the pictures.

    A group's weight is Poisson distributed with mean 1, as in draws from very many; then no two groups depend on each
    other.

    Args:
        groups: [n], near copies share a number.
        seed: The same seed gives the same draws.
    """

    def __init__(self, groups: Ints, seed: int = 0) -> None:
        _, self._groups = np.unique(groups, return_inverse=True)
        self.group_count = int(self._groups.max(initial=-1)) + 1
        self.count = int(np.clip(_DRAWS // max(1, self.group_count), _FEWEST, _MOST))
        sizes = np.bincount(self._groups).astype(np.float64)
        self.cluster = float((sizes**2).sum() / max(1.0, sizes.sum()))
        self._seed = seed
        table = _poisson_table()
        self._weights = np.empty((self.group_count, self.count), np.uint8)

        # Four places in the table from each number of 64 bits.
        def draw(start: int) -> None:
            part = self._weights[start : start + _ROWS]
            words = np.random.default_rng((seed, start)).bit_generator.random_raw(-(-part.size // 4))
            places = np.asarray(words).view(np.uint16)[: part.size].reshape(part.shape)
            np.take(table, places, out=part, mode="clip")

        in_threads(draw, range(0, self.group_count, _ROWS))

    def sums(self, columns: scipy.sparse.csr_array) -> Doubles:
        """Sum columns [n, k] over each draw; gives [k, draws]."""
        cells = columns.tocoo()
        members = scipy.sparse.csc_array(
            (cells.data.astype(np.float32), (cells.col, self._groups[cells.row])),
            shape=(columns.shape[1], self.group_count),
        )
        summed = np.zeros((columns.shape[1], self.count))
        for start in range(0, self.group_count, _ROWS):
            some = slice(start, start + _ROWS)
            summed += members[:, some] @ self._weights[some].astype(np.float32)
        return summed

    def normals(self, rows: int, columns: int, first: int) -> Floats:
        """Standard normal numbers [rows, columns, draws]; ``first`` tells which columns, so that others differ."""
        generator = np.random.default_rng((self._seed, 0, 1 + first))
        return generator.standard_normal((rows, columns, self.count), dtype=np.float32)


@dataclass(frozen=True)
class RankIntervals:
    """Of the figures about ranks; None where the figure does not exist."""

    roc_auc: Interval | None
    average_precision: Interval | None


def interval_of(draws: Doubles, trials: int | None = None) -> Interval | None:
    """Return what nineteen of twenty draws lie within; None where most draws do not have the figure.

    Args:
        draws: [draws], NaN where the figure does not exist.
        trials: For a share of so many trials: where all draws agree on 0 or 1, the exact bound stands for them. Ten
            right of ten do not say that all will be.
    """
    return intervals_of(draws[None], [trials or 0])[0]


def intervals_of(draws: Doubles, trials: Sequence[int] | None = None) -> list[Interval | None]:
    """Return the intervals of many figures: draws [k, draws] and trials [k], 0 for none; see :func:`interval_of`."""
    ordered = np.sort(np.where(np.isfinite(draws), draws, np.nan), axis=1)
    known = np.isfinite(ordered).sum(axis=1)
    # As np.quantile has it, for all at once.
    last = np.maximum(known - 1, 0)
    ends = []
    for part in (_TAIL, 1 - _TAIL):
        place = part * last
        low = place.astype(np.int64)
        below = np.take_along_axis(ordered, low[:, None], axis=1)[:, 0]
        above = np.take_along_axis(ordered, np.minimum(low + 1, last)[:, None], axis=1)[:, 0]
        ends.append((below + (place - low) * (above - below)).tolist())
    enough = ((known * 2 >= draws.shape[1]) & (known > 0)).tolist()
    return [
        _bounded(low, high, count) if defined else None
        for low, high, count, defined in zip(*ends, trials or [0] * len(draws), enough, strict=True)
    ]


def _bounded(low: float, high: float, trials: int) -> Interval:
    if trials and low == high and low in (0.0, 1.0):
        bound = _TAIL ** (1 / trials)
        return (min(bound, low), 1.0) if low == 1.0 else (0.0, 1 - bound)
    return low, high


def rank_intervals(
    rankings: Sequence[Ranking], resamples: Resamples, blocks: int = 128, first: int = 0
) -> list[RankIntervals]:
    """Bootstrap the figures about ranks of some concepts.

    Args:
        rankings: Of the concepts.
        resamples: How often, and how alike pictures of a group are.
        blocks: Most blocks of neighbouring positives to draw anew; bounds the cost.
        first: Place of the first concept among all, so that each has chances of its own.
    """
    rates = np.zeros((2 * blocks + 1, len(rankings), 1), np.float32)
    for column, ranking in enumerate(rankings):
        bounds = _bounds(ranking.positives, blocks)
        count = len(bounds) - 1
        if count:
            above = ranking.negatives_above()[np.searchsorted(ranking.hits, bounds[1:])]
            negatives = float(ranking.rows - ranking.positives)
            rates[:count, column, 0] = np.diff(bounds)
            rates[blocks : blocks + count, column, 0] = np.maximum(np.diff(above, prepend=0.0), 0)
            rates[blocks + count, column, 0] = max(negatives - float(above[-1]), 0)
    rates /= np.float32(max(1.0, resamples.cluster))
    drawn = _rank_figures(_gamma(rates, resamples.normals(2 * blocks + 1, len(rankings), first)), blocks)
    plain = _rank_figures(rates, blocks)
    auc, average = (intervals_of(figure) for figure in drawn)
    found = []
    for column, ranking in enumerate(rankings):
        fewer = min(ranking.positives, ranking.rows - ranking.positives)
        moved = ranking.roc_auc() - float(plain[0][column, 0]), ranking.average_precision() - float(plain[1][column, 0])
        both = _moved(auc[column], moved[0], fewer), _moved(average[column], moved[1], fewer)
        both = _widened(both[0], ranking.roc_auc(), int(fewer / max(1.0, resamples.cluster))), both[1]
        found.append(RankIntervals(*both) if ranking.positives else RankIntervals(None, None))
        if ranking.positives and not fewer:
            found[-1] = RankIntervals(None, both[1])
    return found


@lru_cache(maxsize=4096)
def _bounds(positives: int, blocks: int) -> Ints:
    """Where blocks of neighbouring positives begin and end."""
    return np.unique(np.linspace(0, positives, min(blocks, positives) + 1).astype(np.int64))


def _gamma(rates: Floats, normals: Floats) -> Floats:
    """Turn standard normal numbers [b, k, draws], where they stand, into gamma distributed ones of rates [b, k, 1].

    Bayesian bootstrap: the weights of m pictures together are gamma distributed, for any m in the same time. The cube
    of a normal number comes as near as draws can tell (Wilson and Hilferty 1931), at a tenth of the cost.
    """
    some = np.maximum(rates, _LEAST_RATE)
    root = np.cbrt(some)
    drawn = normals
    drawn *= root / (3 * np.sqrt(some))
    drawn += root * (1 - 1 / (9 * some))
    np.maximum(drawn, 0, out=drawn)
    drawn *= drawn * drawn
    drawn *= rates > 0
    return drawn


def _rank_figures(weights: Floats, blocks: int) -> tuple[Doubles, Doubles]:
    """Area under ROC and average precision from the weights of blocks of positives and of the negatives between them.

    Args:
        weights: [blocks + blocks + 1, k, draws].
        blocks: How many are positives.
    """
    hits, misses = weights[:blocks], weights[blocks:]
    passed, found = np.zeros_like(weights[0]), np.zeros_like(weights[0])
    area, steps = np.zeros_like(found), np.zeros_like(found)
    for own, between in zip(hits, misses[:-1], strict=True):
        passed += between
        found += own
        area += own * passed
        steps += own * (found / np.maximum(found + passed, _LEAST_RATE))
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = 1 - area / (found * (passed + misses[-1]))
        average = steps / found
    return auc.astype(np.float64), average.astype(np.float64)


def _moved(interval: Interval | None, by: float, trials: int) -> Interval | None:
    """Centre an interval of draws, which blocks make a little worse, on the exact figure.

    Where every draw is perfect, all that is known is that it was perfect so many times.
    """
    if interval is None or not math.isfinite(by):
        return interval
    low, high = max(0.0, interval[0] + by), min(1.0, interval[1] + by)
    return (_TAIL ** (1 / trials), 1.0) if low >= 1 and trials else (low, high)


def _widened(interval: Interval | None, area: float, trials: int) -> Interval | None:
    """Make an interval of draws of an area under ROC as wide as the few positives (or negatives) ask for.

    Draws of n values spread by (n - 1)/n of their variance, which is not known for sure either (Hesterberg 2015).
    """
    if interval is None or area >= 1:
        return interval
    if trials < 2:
        return 0.0, 1.0
    if area <= 0:
        return 0.0, 1 - _TAIL ** (1 / trials)
    times = math.sqrt(trials / (trials - 1)) * float(scipy.special.stdtrit(trials - 1, 1 - _TAIL)) / _NORMAL
    return max(0.0, area - times * (area - interval[0])), min(1.0, area + times * (interval[1] - area))


@cache
def _poisson_table() -> npt.NDArray[np.uint8]:
    """Poisson counts of mean 1 for each of 65,536 equally likely numbers: much faster than drawing them one by one."""
    chances = np.array([math.exp(-1) / math.factorial(count) for count in range(9)])
    edges = np.rint(np.cumsum(chances) / chances.sum() * _TABLE).astype(np.int64)
    return np.searchsorted(edges, np.arange(_TABLE), side="right").astype(np.uint8)
