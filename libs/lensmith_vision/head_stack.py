"""All heads of one space side by side: any number of models costs one matrix product a batch for each transform.

What a head of the kernel tier adds to it, similarities to pictures of its training set, is evaluated after the product.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import HeadError
from lensmith_vision.heads import Head
from lensmith_vision.transforms import Transform, transformed

__all__ = ["HeadStack"]

_CACHED_SUBSETS = 8
_CACHED_ROWS = 4096


class HeadStack:
    """The loaded heads of one space, evaluated together. Safe to use from many threads.

    Which heads stay loaded is the caller's decision; the stack only keeps what it is given. Heads of another space
    never get in, nor are features of another space ever multiplied with them, even where the lengths agree.

    Args:
        space: The space.
        dim: Length of its features.
    """

    def __init__(self, space: str, dim: int) -> None:
        self._space = space
        self._dim = dim
        self._lock = threading.Lock()
        self._heads: dict[str, Head] = {}
        # Joined matrices of the subsets asked for last, so that a busy workflow copies nothing.
        self._joined: OrderedDict[tuple[str, ...], tuple[_Joined, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heads)

    def __contains__(self, key: str) -> bool:
        return key in self._heads

    @property
    def nbytes(self) -> int:
        """Memory of all heads."""
        with self._lock:
            return sum(head.nbytes for head in self._heads.values())

    def add(self, key: str, head: Head) -> None:
        """Put a head under a key of the caller's choice (a version's uid), replacing the one before.

        Raises:
            HeadError: The head was trained in another space, or takes features of another length.
        """
        if head.space != self._space:
            raise HeadError("HEAD_OTHER_SPACE", f"the head was trained in {head.space}, not in {self._space}")
        if head.dim != self._dim:
            raise HeadError("HEAD_OTHER_SPACE", f"the head takes {head.dim} features, the space has {self._dim}")
        with self._lock:
            self._heads[key] = head
            self._forget(key)

    def remove(self, key: str) -> None:
        """Take a head out; unknown keys are ignored."""
        with self._lock:
            self._heads.pop(key, None)
            self._forget(key)

    def get(self, key: str) -> Head | None:
        """Return a head, or None."""
        with self._lock:
            return self._heads.get(key)

    def scores(
        self, space: str, features: npt.NDArray[np.float32], keys: Sequence[str] | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Score a batch with several heads in one product.

        Args:
            space: The space that the features are of.
            features: [n, d] float32.
            keys: Which heads, in the order of the answer; all, in order of addition, when left out.

        Returns:
            For each head its scores [n, c].

        Raises:
            HeadError: A key is not loaded, or the features are of another space or length.
        """
        if space != self._space:
            raise HeadError("HEAD_OTHER_SPACE", f"the heads were trained in {self._space}, the features are of {space}")
        if features.ndim != 2 or features.shape[1] != self._dim:
            raise HeadError("HEAD_OTHER_SPACE", f"features must be [n, {self._dim}], not {list(features.shape)}")
        joined = self._join(keys)
        answers: list[npt.NDArray[np.float32] | None] = [None] * sum(len(part.heads) for part in joined)
        for part in joined:
            inputs = transformed(features, part.transform)
            logits = inputs @ part.weights + part.bias
            for place, head, start in zip(part.places, part.heads, part.starts, strict=True):
                own = logits[:, start : start + len(head.concepts)]
                answers[place] = head.activate(own if head.kernel is None else own + head.kernel.logits(inputs))
        return [answer for answer in answers if answer is not None]

    def _join(self, keys: Sequence[str] | None) -> tuple[_Joined, ...]:
        with self._lock:
            subset = tuple(self._heads) if keys is None else tuple(keys)
            known = self._joined.get(subset)
            if known is not None:
                self._joined.move_to_end(subset)
                return known
            missing = [key for key in subset if key not in self._heads]
            if missing:
                raise HeadError("HEAD_NOT_LOADED", f"not loaded: {', '.join(missing)}", {"keys": ",".join(missing)})
            heads = tuple(self._heads[key] for key in subset)
        # Joining happens outside the lock: heads never change, and a large copy must not hold up other requests.
        joined = tuple(_Joined.of(heads, transform) for transform in sorted({head.transform for head in heads}))
        if sum(len(part.bias) for part in joined) <= _CACHED_ROWS:
            with self._lock:
                if all(self._heads.get(key) is head for key, head in zip(subset, heads, strict=True)):
                    self._joined[subset] = joined
                    while len(self._joined) > _CACHED_SUBSETS:
                        self._joined.popitem(last=False)
        return joined

    def _forget(self, key: str) -> None:
        for subset in [subset for subset in self._joined if key in subset]:
            del self._joined[subset]


@dataclass(frozen=True, eq=False)
class _Joined:
    """Several heads with one transform side by side in one matrix; places are theirs in the order of the answer."""

    transform: Transform
    places: tuple[int, ...]
    heads: tuple[Head, ...]
    starts: tuple[int, ...]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    @classmethod
    def of(cls, all_heads: tuple[Head, ...], transform: Transform) -> _Joined:
        places = tuple(place for place, head in enumerate(all_heads) if head.transform == transform)
        heads = tuple(all_heads[place] for place in places)
        starts = tuple(int(start) for start in np.cumsum([0, *(len(head.concepts) for head in heads)])[:-1])
        if len(heads) == 1:
            return cls(transform, places, heads, starts, heads[0].weights, heads[0].bias)
        weights = np.concatenate([head.weights for head in heads], axis=1)
        return cls(transform, places, heads, starts, weights, np.concatenate([head.bias for head in heads]))
