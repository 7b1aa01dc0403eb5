"""A cache of things that are expensive to load and must not be dropped while somebody uses them."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from lensmith_inference.shared_work import start_shared

__all__ = ["PinnedLru"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False)
class _Entry(Generic[V]):
    loading: "asyncio.Task[V]"
    users: int = 0
    cost: int = 0


class PinnedLru(Generic[K, V]):
    """Keeps the most recently used values within a budget; those in use may exceed it for as long as they are used.

    Each key is loaded once, however many ask for it at the same time, and loading goes on when one of them gives up.

    Args:
        budget: Most cost to keep.
        cost: Cost of one value.
        drop: Called with what leaves.
    """

    def __init__(self, budget: int, *, cost: Callable[[V], int], drop: Callable[[K, V], None]) -> None:
        self._budget = budget
        self._cost = cost
        self._drop = drop
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self.total = 0
        """Cost of everything kept."""

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def use(self, key: K, load: Callable[[], Awaitable[V]]) -> AsyncIterator[V]:
        """Give the value of a key, loaded if need be, and keep it until the block ends.

        Raises:
            Exception: What `load` raised; the next user tries again.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(start_shared(load))
            entry.loading.add_done_callback(lambda task: self._loaded(key, entry, task))
            self._entries[key] = entry
        self._entries.move_to_end(key)
        entry.users += 1
        try:
            yield await asyncio.shield(entry.loading)
        finally:
            entry.users -= 1
            self._shrink()

    def _loaded(self, key: K, entry: _Entry[V], task: "asyncio.Task[V]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._entries.pop(key, None)
            return
        entry.cost = self._cost(task.result())
        self.total += entry.cost
        self._shrink()

    def _shrink(self) -> None:
        if self.total <= self._budget:
            return
        for key, entry in list(self._entries.items()):
            if self.total <= self._budget:
                return
            if entry.users == 0 and entry.loading.done():
                del self._entries[key]
                self.total -= entry.cost
                self._drop(key, entry.loading.result())
