"""Background work ends when it is cancelled, at whatever moment of its talk with the servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from lensmith_platform.bus import BroadcastConsumer, Bus, Reconciler, WorkConsumer, connect
from lensmith_platform.db import Database, create_pool
from lensmith_platform.errors import DependencyUnavailableError
from lensmith_platform.outbox import OutboxRelay
from lensmith_platform.readiness import Readiness
from lensmith_platform.revocations import RevocationListener
from tests.lensmith_platform.passage import Passage, passage

if TYPE_CHECKING:
    from lensmith_api.internal.v1.events_pb2 import Event
    from tests.conftest import Database as Place

Work = Coroutine[None, None, None]
Prepare = Callable[[Passage], AbstractAsyncContextManager[Work]]

# The word of a cancellation is lost in the few turns of the event loop in which an answer reaches who waits for it.
_TURNS = 7
_PIECES = 12
_QUIET_SECONDS = 0.2
_END_SECONDS = 5.0


async def _cancelled(work: Work, way: Passage, pieces: int, turns: int) -> bool:
    """Cancel work so many turns of the event loop after so many pieces of answers; tell whether the pieces came."""
    task = asyncio.create_task(work)
    came = await way.more(pieces, within=_QUIET_SECONDS)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=_END_SECONDS)
    ended = task.done()
    while not task.done():  # So that a failure is told, and does not hang.
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    assert ended, f"it went on, cancelled {turns} turns after piece {pieces}"
    assert task.cancelled(), f"it ended otherwise, cancelled {turns} turns after piece {pieces}"
    return came


async def ends_at_any_moment(url: str, prepare: Prepare) -> None:
    """Cancel the work at every moment until it waits for nothing but new events."""
    for pieces in range(_PIECES):
        for turns in range(_TURNS):
            async with passage(url) as way, prepare(way) as work:
                if not await _cancelled(work, way, pieces, turns):
                    return


async def nothing(*_: object) -> None:
    """Handle an event, or read anew."""


def ask(bus: Bus) -> Work:
    async def action() -> None:
        await bus.jetstream().stream_info("MODELS")

    return Reconciler("test", 0.01, action).run()


def listen(bus: Bus) -> Work:
    return BroadcastConsumer(bus, "models.changed", nothing, nothing).run()


def work(bus: Bus) -> Work:
    return WorkConsumer(bus, "test--work", "models.version_queued", nothing, concurrency=4).run()


@pytest.mark.parametrize("begin", [ask, listen, work])
async def test_work_on_the_bus_ends_when_cancelled(nats_url: str, begin: Callable[[Bus], Work]) -> None:
    @asynccontextmanager
    async def prepare(way: Passage) -> AsyncIterator[Work]:
        async with await connect(way.url, wait_seconds=30) as bus:
            yield begin(bus)

    await ends_at_any_moment(nats_url, prepare)


@pytest.mark.parametrize("begin", [ask, listen, work])
async def test_work_on_the_bus_ends_when_cancelled_while_it_connects(
    nats_url: str, begin: Callable[[Bus], Work]
) -> None:
    @asynccontextmanager
    async def prepare(way: Passage) -> AsyncIterator[Work]:
        async with await connect(way.url) as bus:
            yield begin_connected(bus)

    async def begin_connected(bus: Bus) -> None:
        await bus.wait_connected()
        await begin(bus)

    await ends_at_any_moment(nats_url, prepare)


async def test_the_bus_closes_for_good_when_closed_while_it_connects(nats_url: str) -> None:
    @asynccontextmanager
    async def prepare(way: Passage) -> AsyncIterator[Work]:
        bus = await connect(way.url)

        async def hold() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await bus.close()

        before = asyncio.all_tasks() - {asyncio.current_task()}
        yield hold()
        assert not bus.is_connected
        await bus.close()
        assert not {task for task in before if task.get_name().startswith("bus ") and not task.done()}

    await ends_at_any_moment(nats_url, prepare)


async def test_the_listener_for_revocations_ends_when_cancelled(nats_url: str) -> None:
    @asynccontextmanager
    async def prepare(way: Passage) -> AsyncIterator[Work]:
        yield RevocationListener(way.url, lambda _: None, service="test").run()

    await ends_at_any_moment(nats_url, prepare)


async def test_the_outbox_ends_when_cancelled_while_it_talks_to_the_database(nats_url: str, database: Place) -> None:
    async with await connect(nats_url, wait_seconds=30) as bus:

        @asynccontextmanager
        async def prepare(way: Passage) -> AsyncIterator[Work]:
            pool = await create_pool(way.url, size=2)
            yield OutboxRelay(Database(pool), bus).run()
            await pool.close()

        await ends_at_any_moment(database.url("dataset", worker=True), prepare)


async def test_loops_end_when_what_they_call_lost_the_cancellation(bus: Bus) -> None:
    begun = asyncio.Semaphore(0)

    async def lose(*_: object) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise DependencyUnavailableError("SERVICE_UNAVAILABLE", "the call ended at the same moment") from None

    async def handle(event: Event) -> None:
        raise AssertionError(event)

    loops = [
        Reconciler("test", 3600, lose).run(),
        Readiness(["test"], lose, interval=3600).run(),
        BroadcastConsumer(bus, "models.changed", handle, lose).run(),
    ]
    tasks = [asyncio.create_task(loop) for loop in loops]
    for _ in tasks:
        await begun.acquire()
    for task in tasks:
        task.cancel()
    _, late = await asyncio.wait(tasks, timeout=_END_SECONDS)
    for task in late:
        task.cancel()
    assert not late
    assert all(task.cancelled() for task in tasks)
