"""What the tests of the platform library share: waiting for a condition, killing a server, a bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from lensmith_platform.bus import Bus, connect
from lensmith_platform.db import Database, create_pool
from tests.killing import kill_server

if TYPE_CHECKING:
    from lensmith_stack.background import BackgroundServers
    from tests.conftest import Database as Place

Until = Callable[[Callable[[], object]], Awaitable[None]]
Kill = Callable[[str], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Waits for a condition, which may be asynchronous."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while True:
                met = condition()
                if await met if isinstance(met, Awaitable) else met:
                    return
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
def kill(servers: BackgroundServers) -> Kill:
    """Kills a server of the tests without warning and waits until its supervisor brought it back."""

    async def kill(name: str) -> None:
        await kill_server(servers, name)

    return kill


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connected bus with empty streams."""
    async with await connect(nats_url, wait_seconds=30) as bus:
        assert bus.is_connected
        yield bus


@pytest.fixture
async def dataset(database: Place) -> AsyncIterator[Callable[..., Awaitable[Database]]]:
    """Opens the test's database as the dataset service or, with ``worker=True``, as its workers."""
    async with AsyncExitStack() as stack:

        async def open_pool(*, worker: bool = False, size: int = 10) -> Database:
            pool = await create_pool(database.url("dataset", worker=worker), size=size)
            stack.push_async_callback(pool.close)
            return Database(pool)

        yield open_pool
