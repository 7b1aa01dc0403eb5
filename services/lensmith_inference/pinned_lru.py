"""A cache of things that are expensive to load and must not be dropped while somebody uses them."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from lensmith_inference.shared_work import start_shared

__all__ = ["Apart", "PinnedLru"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(eq=False)
class _Entry(Generic[V]):
    loading: "asyncio.Task[V]"
    owner: str
    users: int = 0
    cost: int = 0
    apart: bool = False


@dataclass(frozen=True)
class Apart(Generic[V]):
    """Values that have a budget of their own, so that they never push out the others, nor the others them.

    Attributes:
        holds: Whether a value is one of them.
        budget: Most cost of them to keep.
    """

    holds: Callable[[V], bool]
    budget: int


class PinnedLru(Generic[K, V]):
    """Keeps the most recently used values within a budget; those in use may exceed it for as long as they are used.

    Whoever owns values has a right to an equal share of the budget: what is over it leaves, of the owner who has most
    the longest unused first, and what others load never pushes out what is within the share.

    Each key is loaded once, however many ask for it at the same time, and loading goes on when one of them gives up.

    Args:
        budget: Most cost to keep.
        cost: Cost of one value.
        drop: Called with what leaves.
        apart: Values with a budget of their own; none by default.
    """

    def __init__(
        self,
        budget: int,
        *,
        cost: Callable[[V], int],
        drop: Callable[[K, V], None],
        apart: Apart[V] | None = None,
    ) -> None:
        self._budgets = {False: budget, True: apart.budget if apart else 0}
        self._totals: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        self._apart = apart
        self._cost = cost
        self._drop = drop
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()

    @property
    def total(self) -> int:
        """Cost of everything kept."""
        return sum(total.total() for total in self._totals.values())

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @asynccontextmanager
    async def use(self, key: K, load: Callable[[], Awaitable[V]], owner: str = "") -> AsyncIterator[V]:
        """Give the value of a key, loaded if need be, and keep it until the block ends.

        Args:
            key: Of the value.
            load: Loads it.
            owner: Whose it is, the same each time.

        Raises:
            Exception: What `load` raised; the next user tries again.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = _Entry(start_shared(load), owner)
            entry.loading.add_done_callback(lambda task: self._loaded(key, entry, task))
            self._entries[key] = entry
        self._entries.move_to_end(key)
        entry.users += 1
        try:
            yield await asyncio.shield(entry.loading)
        finally:
            entry.users -= 1
            self._shrink(entry.apart)

    def _loaded(self, key: K, entry: _Entry[V], task: "asyncio.Task[V]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._entries.pop(key, None)
            return
        entry.cost = self._cost(task.result())
        entry.apart = self._apart is not None and self._apart.holds(task.result())
        self._totals[entry.apart][entry.owner] += entry.cost
        self._shrink(entry.apart)

    def _shrink(self, apart: bool) -> None:
        totals, budget = self._totals[apart], self._budgets[apart]
        while totals.total() > budget:
            key = self._least_deserved(totals, budget / len(totals), apart)
            if key is None:
                return
            entry = self._entries.pop(key)
            totals[entry.owner] -= entry.cost
            if not totals[entry.owner]:
                del totals[entry.owner]
            self._drop(key, entry.loading.result())

    def _least_deserved(self, totals: Counter[str], share: float, apart: bool) -> K | None:
        """Of the owner who has most of all over their share, the longest unused value that is not in use."""
        unused = [
            (key, entry)
            for key, entry in self._entries.items()
            if entry.apart == apart and entry.users == 0 and entry.loading.done() and totals[entry.owner] > share
        ]
        # Of equals the first, which is the longest unused.
        return max(unused, key=lambda one: totals[one[1].owner], default=(None, None))[0]
