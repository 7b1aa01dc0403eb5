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


async def _own(lru: PinnedLru[str, str], loads: Loads, *keys: str) -> None:
    """Use values that belong to whom their first letter names."""
    for key in keys:
        async with lru.use(key, loads.of(key), key[0]):
            pass


async def test_greedy_owner_pushes_out_its_own_only() -> None:
    loads = Loads()
    lru = loads.lru(80)
    await _own(lru, loads, "a1", "b1", *(f"z{number}" for number in range(9)))
    assert loads.dropped == [f"z{number}" for number in range(7)]
    assert {"a1", "b1", "z7", "z8"} == {key for key in (*loads.loaded,) if key in lru}


async def test_share_shrinks_when_another_owner_comes() -> None:
    loads = Loads()
    lru = loads.lru(80)
    await _own(lru, loads, "a1", "a2", "a3", "a4", "b1", "b2", "b3", "c1")
    # Half for two, a third for three: from who has most, and of equals the longest unused first.
    assert loads.dropped == ["a1", "a2", "b1", "a3"]
    assert lru.total == 80
    await _own(lru, loads, "b3", "b2")
    assert loads.dropped == ["a1", "a2", "b1", "a3"]


async def test_what_is_within_a_share_stays_when_a_greedy_owner_uses_all_of_its_own() -> None:
    loads = Loads()
    lru = loads.lru(40)
    await _own(lru, loads, "a1")
    async with lru.use("z1", loads.of("z1"), "z"), lru.use("z2", loads.of("z2"), "z"):
        assert "a1" in lru
        assert loads.dropped == []
    assert loads.dropped == ["z2"], "the first that is not used any more"
    assert "a1" in lru
