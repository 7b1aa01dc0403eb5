"""Cancellation that libraries swallow."""

import asyncio
import threading

import pytest

from lensmith_platform.cancellation import ending_when_cancelled, thread_to_its_end


async def test_work_ends_when_it_swallows_the_first_cancellation() -> None:
    cancellations = 0
    started = asyncio.Event()

    async def stubborn() -> None:
        nonlocal cancellations
        while True:
            try:
                started.set()
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancellations += 1
                if cancellations == 2:
                    raise

    task = asyncio.create_task(ending_when_cancelled(stubborn()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancellations == 2


async def test_result_and_failure_pass_through_when_nobody_cancels() -> None:
    async def fail() -> None:
        raise ValueError("no")

    assert await ending_when_cancelled(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError, match="no"):
        await ending_when_cancelled(fail())


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_place_is_kept_until_the_thread_has_ended_when_its_caller_gives_up(cancellations: int) -> None:
    place, began, end = asyncio.Lock(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        end.wait()

    async def placed() -> None:
        async with place:
            await thread_to_its_end(work)

    task = asyncio.create_task(placed())
    try:
        await asyncio.to_thread(began.wait)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert place.locked()
    finally:
        end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not place.locked()
