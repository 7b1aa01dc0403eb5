"""How far figures would be off had other pictures been drawn: the bootstrap, over groups of near copies.

Pictures are drawn anew with their near copies, because two frames of one scene say little more than one. Sums over
pictures are resampled exactly, all at once as a product of matrices. Figures about ranks (ROC-AUC, average precision)
follow from the positives in order and the number of negatives between them, whose counts are drawn anew; that makes
the cost depend on the number of positives, and bounds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse

__all__ = ["Interval", "RankIntervals", "Resamples", "interval_of", "rank_intervals"]

Interval = tuple[float, float]
"""Low and high end."""

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_COVERAGE = 0.95
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
        generator, table = np.random.default_rng(seed), _poisson_table()
        self._weights = np.empty((self.group_count, self.count), np.float32)
        # As places in a table, draws take eight bytes each: some at a time.
        for start in range(0, self.group_count, _ROWS):
            part = self._weights[start : start + _ROWS]
            part[:] = table[generator.integers(0, _TABLE, part.shape, dtype=np.uint16)]

    def sums(self, columns: scipy.sparse.csr_array) -> Doubles:
        """Sum columns [n, k] over each draw; gives [k, draws]."""
        rows = np.arange(len(self._groups))
        member = scipy.sparse.csr_array(
            (np.ones(len(rows), np.float32), (self._groups, rows)), shape=(self.group_count, len(rows))
        )
        summed: Doubles = np.asarray((member @ columns).T.tocsr() @ self._weights, dtype=np.float64)
        return summed

    def generator(self, column: int) -> np.random.Generator:
        """Return the source of chance of one concept, which does not depend on the order of work."""
        return np.random.default_rng((self._seed, column + 1))


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
    known = draws[np.isfinite(draws)]
    if len(known) * 2 < len(draws) or not len(known):
        return None
    tail = (1 - _COVERAGE) / 2
    # As np.quantile has it, at a fraction of the cost: a large version asks some thousand times.
    last = len(known) - 1
    low, high = np.interp([tail * last, (1 - tail) * last], np.arange(last + 1), np.sort(known)).tolist()
    if trials and low == high and low in (0.0, 1.0):
        bound = tail ** (1 / trials)
        return (min(bound, low), 1.0) if low == 1.0 else (0.0, 1 - bound)
    return low, high


def rank_intervals(
    truth: Bools, scores: Floats, figures: tuple[float, float], resamples: Resamples, column: int, blocks: int = 128
) -> RankIntervals:
    """Bootstrap the figures about ranks of one concept.

    Args:
        truth: [n].
        scores: [n].
        figures: Its ROC-AUC and average precision, NaN where they do not exist.
        resamples: How often, and how alike pictures of a group are.
        column: Of the concept, for its chance.
        blocks: Most blocks of neighbouring positives to draw anew; bounds the cost.
    """
    found = np.sort(scores[truth])[::-1]
    others = np.sort(scores[~truth])
    if not len(found):
        return RankIntervals(None, None)
    bounds = np.unique(np.linspace(0, len(found), min(blocks, len(found)) + 1).astype(np.int64))
    sizes = np.diff(bounds)
    lowest = found[bounds[1:] - 1]
    # Negatives above each block; ties count half.
    above = len(others) - (np.searchsorted(others, lowest, "left") + np.searchsorted(others, lowest, "right")) / 2
    between = np.diff(above, prepend=0.0, append=float(len(others)))
    # Bayesian bootstrap: the weights of m pictures together are gamma distributed, for any m in the same time.
    rates = (np.concatenate([sizes, np.maximum(between, 0)]) / max(1.0, resamples.cluster)).astype(np.float32)
    drawn = resamples.generator(column).standard_gamma(
        np.broadcast_to(rates, (resamples.count, len(rates))), dtype=np.float32
    )
    drawn_auc, drawn_average = _rank_figures(drawn, len(sizes))
    auc, average = _rank_figures(rates[None], len(sizes))
    fewer = min(len(found), len(others))
    return RankIntervals(
        _moved(drawn_auc, figures[0] - float(auc[0]), fewer) if fewer else None,
        _moved(drawn_average, figures[1] - float(average[0]), fewer),
    )


def _rank_figures(weights: Floats, blocks: int) -> tuple[Doubles, Doubles]:
    """Area under ROC and average precision from the weights of blocks of positives and of the negatives between them.

    Args:
        weights: [draws, blocks + blocks + 1].
        blocks: How many are positives.
    """
    hits, misses = weights[:, :blocks], weights[:, blocks:]
    passed = np.cumsum(misses[:, :-1], axis=1)
    found = np.cumsum(hits, axis=1)
    total, others = found[:, -1], misses.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = 1 - (hits * passed).sum(axis=1) / (total * others)
        average = (hits * np.nan_to_num(found / (found + passed))).sum(axis=1) / total
    return auc.astype(np.float64), average.astype(np.float64)


def _moved(draws: Doubles, by: float, trials: int) -> Interval | None:
    """Centre draws, which blocks make a little worse, on the exact figure.

    Where every draw is perfect, all that is known is that it was perfect so many times.
    """
    interval = interval_of(draws)
    if interval is None or not math.isfinite(by):
        return interval
    low, high = max(0.0, interval[0] + by), min(1.0, interval[1] + by)
    return (((1 - _COVERAGE) / 2) ** (1 / trials), 1.0) if low >= 1 and trials else (low, high)


def _poisson_table() -> Floats:
    """Poisson counts of mean 1 for each of 65,536 equally likely numbers: much faster than drawing them one by one."""
    chances = np.array([math.exp(-1) / math.factorial(count) for count in range(9)])
    edges = np.rint(np.cumsum(chances) / chances.sum() * _TABLE).astype(np.int64)
    return np.searchsorted(edges, np.arange(_TABLE), side="right").astype(np.float32)
