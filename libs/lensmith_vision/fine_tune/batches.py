"""Batches for training: rare concepts are drawn more often, and the draw depends on nothing but seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from lensmith_vision.fine_tune.job import Floats, Ints, Pictures, Taught

__all__ = ["Batch", "Draw", "balanced_weights", "in_order", "prior_shift", "training_batches"]

_BALANCE = 0.5
"""0 draws pictures as they come, 1 all concepts equally often; in between neither the rare nor the many are wasted."""


class Batch(NamedTuple):
    """Some pictures with what they show; a tuple, which Lightning knows how to bring to a device.

    Attributes:
        pictures: [n, h, w, 3] uint8.
        truth: [n, c] labels with NaN unknown, or [n, 1] numbers.
    """

    pictures: Tensor
    truth: Tensor


class _Rows(Dataset[Batch]):
    def __init__(self, pictures: Pictures, truth: Floats) -> None:
        self._pictures, self._truth = pictures, truth

    def __len__(self) -> int:
        return len(self._truth)

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([row])

    def __getitems__(self, rows: list[int]) -> Batch:
        return Batch(torch.from_numpy(np.asarray(self._pictures[rows])), torch.from_numpy(self._truth[rows]))


class Draw(Sampler[int]):
    """Rows drawn by weight, dealt to the processes of a training; another draw in each epoch.

    Args:
        rows: To draw from.
        weights: Of each of them.
        seed: The same seed and epoch give the same draw.
        rank: Number of this process.
        world: How many processes there are; each gets equally many rows.
    """

    def __init__(self, rows: Ints, weights: npt.NDArray[np.float64], seed: int, rank: int = 0, world: int = 1) -> None:
        self._rows, self._share = rows, weights / weights.sum()
        self._seed, self._rank, self._world, self._epoch = seed, rank, world, 0

    def __len__(self) -> int:
        return -(-len(self._rows) // self._world)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self._seed, self._epoch))
        total = len(self) * self._world
        # Systematic: over an epoch rows come as often as their weight says, and so do those of one weight together.
        points = (generator.random() + np.arange(total)) / total
        order = generator.permutation(len(self._rows))
        order = order[np.argsort(self._share[order], kind="stable")]
        places = np.searchsorted(np.cumsum(self._share[order]), points).clip(max=len(order) - 1)
        drawn = self._rows[order[places]][generator.permutation(total)]
        return iter(drawn[self._rank :: self._world].tolist())

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins."""
        self._epoch = epoch


def training_batches(pictures: Pictures, truth: Floats, draw: Draw, batch_size: int) -> DataLoader[Batch]:
    """Make batches of what is drawn."""
    batches = BatchSampler(draw, min(batch_size, len(draw)), drop_last=len(draw) > batch_size)
    return DataLoader(_Rows(pictures, truth), batch_sampler=batches, collate_fn=_as_it_is)


def in_order(pictures: Pictures, truth: Floats, rows: Ints, batch_size: int) -> DataLoader[Batch]:
    """Make batches of some rows, one after the other."""
    batches = BatchSampler(rows.tolist(), batch_size, drop_last=False)
    return DataLoader(_Rows(pictures, truth), batch_sampler=batches, collate_fn=_as_it_is)


def balanced_weights(taught: Taught, rows: Ints) -> npt.NDArray[np.float64]:
    """How often to draw each of some rows: those of a rare concept more often. Numbers are drawn as they come."""
    if taught.labels is None:
        return np.ones(len(rows))
    positive = taught.labels[rows] == 1
    rarity = np.maximum(positive.sum(axis=0), 1.0) ** -_BALANCE
    # Of several concepts the rarest counts; pictures that show none are drawn like those of the commonest.
    return np.asarray(np.where(positive, rarity, 0).max(axis=1, initial=float(rarity.min())), np.float64)


def prior_shift(taught: Taught, rows: Ints) -> Floats:
    """What to add to the logits [c] of concepts that exclude each other, for having drawn the rare ones more often."""
    counts = np.maximum((np.asarray(taught.labels)[rows] == 1).sum(axis=0), 1.0)
    drawn = counts ** (1 - _BALANCE)
    shift: Floats = (np.log(counts / counts.sum()) - np.log(drawn / drawn.sum())).astype(np.float32)
    return shift


def _as_it_is(batch: Any) -> Any:
    return batch
