"""What the tests of the platform library share: waiting for a condition, killing a server, a bus."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from lensmith_platform.bus import Bus, connect
from lensmith_platform.db import Database, create_pool
from lensmith_stack.supervisor import PartState

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
def kill(servers: BackgroundServers, until: Until) -> Kill:
    """Kills a server of the tests without warning and waits until its supervisor brought it back."""

    async def kill(name: str) -> None:
        part = next((part for part in servers.supervisor.parts if part.program.name == name), None)
        if part is None or part.child is None:
            pytest.skip(f"{name} is an outside server, which tests do not kill")
        restarts = part.restarts
        os.kill(part.child.pid, signal.SIGKILL)
        await until(lambda: part.restarts > restarts and part.state is PartState.RUNNING)

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
