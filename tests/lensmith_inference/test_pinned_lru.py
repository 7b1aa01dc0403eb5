"""The cache that never drops what is in use."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from lensmith_inference.pinned_lru import PinnedLru


class Loads:
    """Loads texts and remembers what was loaded and dropped."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.dropped: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def of(self, key: str) -> Callable[[], Awaitable[str]]:
        async def load() -> str:
            self.loaded.append(key)
            await self.gate.wait()
            if key.startswith("bad"):
                raise ValueError(key)
            return key * 10

        return load

    def lru(self, budget: int) -> PinnedLru[str, str]:
        return PinnedLru(budget, cost=len, drop=lambda key, _: self.dropped.append(key))


async def touch(lru: PinnedLru[str, str], loads: Loads, key: str) -> str:
    async with lru.use(key, loads.of(key)) as value:
        return value


async def test_longest_unused_leaves_when_the_budget_is_full() -> None:
    loads = Loads()
    lru = loads.lru(20)
    for key in ("a", "b", "a", "c"):
        assert await touch(lru, loads, key) == key * 10
    assert loads.dropped == ["b"]
    assert lru.total == 20
    assert "a" in lru
    assert "b" not in lru


async def test_value_stays_when_it_is_in_use() -> None:
    loads = Loads()
    lru = loads.lru(10)
    async with lru.use("a", loads.of("a")):
        await touch(lru, loads, "b")
        assert "a" in lru
        assert loads.dropped == ["b"]
    await touch(lru, loads, "c")
    assert loads.dropped == ["b", "a"]


async def test_value_is_loaded_once_when_many_ask() -> None:
    loads = Loads()
    lru = loads.lru(100)
    values = await asyncio.gather(*(touch(lru, loads, "a") for _ in range(20)))
    assert values == ["a" * 10] * 20
    assert loads.loaded == ["a"]


async def test_loading_goes_on_when_the_first_gives_up() -> None:
    loads = Loads()
    loads.gate.clear()
    lru = loads.lru(100)
    first = asyncio.create_task(touch(lru, loads, "a"))
    second = asyncio.create_task(touch(lru, loads, "a"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    loads.gate.set()
    assert await second == "a" * 10
    assert loads.loaded == ["a"]


async def test_next_one_tries_again_when_loading_failed() -> None:
    loads = Loads()
    lru = loads.lru(100)
    results = await asyncio.gather(*(touch(lru, loads, "bad") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    with pytest.raises(ValueError, match="bad"):
        await touch(lru, loads, "bad")
    assert loads.loaded == ["bad", "bad"]
    assert lru.total == 0


async def test_value_leaves_at_the_end_when_it_alone_exceeds_the_budget() -> None:
    loads = Loads()
    lru = loads.lru(5)
    assert await touch(lru, loads, "a") == "a" * 10
    assert loads.dropped == ["a"]
    assert lru.total == 0
