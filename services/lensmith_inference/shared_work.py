"""Work that one call begins and several wait for."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from lensmith_platform.principal import current_call_or_none, set_current_call

__all__ = ["start_shared"]

T = TypeVar("T")


def start_shared(work: Callable[[], Awaitable[T]]) -> "asyncio.Task[T]":
    """Start work in the trace of the call that begins it, but not within its time: others may have more.

    Wait for it through `asyncio.shield`, so that it goes on when one of those who wait gives up. Its failure counts as
    seen even when everybody has.
    """
    task = asyncio.get_running_loop().create_task(_without_deadline(work))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def _without_deadline(work: Callable[[], Awaitable[T]]) -> T:
    call = current_call_or_none()
    if call is not None:
        set_current_call(replace(call, deadline=None))
    return await work()
