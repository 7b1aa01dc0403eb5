"""What is remembered of registry's answers."""

import asyncio
from collections import Counter

import pytest

from lensmith_inference.catalogue import Remembered
from lensmith_platform.errors import DependencyUnavailableError, LensmithError, NotFoundError


class Source:
    """Answers with the current value of each key."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.calls: Counter[str] = Counter()
        self.error: LensmithError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.stale = 0

    async def ask(self, key: str) -> int:
        self.calls[key] += 1
        value = self.values[key]
        error = self.error
        await self.gate.wait()
        if error is not None:
            raise error
        return value

    def count_stale(self) -> None:
        self.stale += 1

    def remembered(
        self, *, fresh: float = 1000.0, stale: float = 1000.0, most: int = 100, patience: float = 60.0
    ) -> Remembered[str, int]:
        return Remembered(
            self.ask,
            fresh_seconds=fresh,
            stale_seconds=stale,
            most=most,
            on_stale=self.count_stale,
            patience_seconds=patience,
        )


def everything(key: str) -> bool:
    return True


async def test_source_is_asked_once_when_many_want_the_same() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered()
    assert await asyncio.gather(*(remembered.get("a") for _ in range(10))) == [1] * 10
    assert await remembered.get("a") == 1
    assert source.calls["a"] == 1


async def test_new_value_is_given_when_the_old_one_was_forgotten() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered()
    await remembered.get("a")
    source.values["a"] = 2
    assert await remembered.get("a") == 1
    remembered.forget(everything)
    assert await remembered.get("a") == 2


async def test_answer_on_its_way_is_not_remembered_when_it_was_forgotten_meanwhile() -> None:
    source = Source()
    source.values["a"] = 1
    source.gate.clear()
    remembered = source.remembered()
    early = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert source.calls["a"] == 1
    source.values["a"] = 2
    remembered.forget(everything)
    late = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0)
    source.gate.set()
    assert await early == 1
    assert await late == 2
    assert await remembered.get("a") == 2


async def test_answer_from_before_a_change_is_given_only_while_the_source_is_away() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered()
    source.gate.clear()
    asked = asyncio.create_task(remembered.get("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    remembered.forget(everything)
    source.gate.set()
    assert await asked == 1
    source.error = DependencyUnavailableError("AWAY", "away")
    assert await remembered.get("a") == 1
    source.error, source.values["a"] = None, 2
    remembered.forget(everything)
    assert await remembered.get("a") == 2


async def test_old_value_is_given_when_the_source_is_away() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered(fresh=0.0)
    await remembered.get("a")
    source.error = DependencyUnavailableError("UNAVAILABLE", "gone")
    assert await remembered.get("a") == 1
    assert await remembered.get("a") == 1
    assert source.stale == 1, "the source is not asked again at once"
    assert source.calls["a"] == 2


async def test_absence_is_told_when_nothing_or_only_something_too_old_is_known() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered(fresh=0.0, stale=0.0)
    await remembered.get("a")
    source.error = DependencyUnavailableError("UNAVAILABLE", "gone")
    with pytest.raises(DependencyUnavailableError):
        await remembered.get("a")


async def test_value_is_gone_when_the_source_says_no() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered(fresh=0.0)
    await remembered.get("a")
    source.error = NotFoundError("MODEL_NOT_FOUND", "deleted")
    with pytest.raises(NotFoundError):
        await remembered.get("a")
    source.error = DependencyUnavailableError("UNAVAILABLE", "gone")
    with pytest.raises(DependencyUnavailableError):
        await remembered.get("a")


async def test_longest_unused_is_forgotten_when_there_are_too_many() -> None:
    source = Source()
    source.values = {"a": 1, "b": 2, "c": 3}
    remembered = source.remembered(most=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        await remembered.get(key)
    assert source.calls == {"a": 1, "b": 2, "c": 1}


async def test_old_value_is_given_when_the_source_is_silent() -> None:
    source = Source()
    source.values["a"] = 1
    remembered = source.remembered(fresh=0.0, patience=0.25)
    await remembered.get("a")
    source.gate.clear()
    source.values["a"] = 2
    assert await remembered.get("a") == 1
    assert source.stale == 1
    source.gate.set()
    remembered.forget(everything)
    assert await remembered.get("a") == 2
