"""Waiting for threads, which cannot be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

__all__ = ["ended", "run_to_end"]

_Result = TypeVar("_Result")


async def ended(work: asyncio.Future[_Result]) -> None:
    """Wait until a thread is done, however often this is cancelled, and leave what it failed with to others."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


async def run_to_end(threads: Executor, function: Callable[[], _Result]) -> _Result:
    """Run in a thread; cancelled, wait until it is done, unless it has not begun: what it looks at is held so long."""
    job = threads.submit(function)
    work = asyncio.wrap_future(job)
    try:
        return await asyncio.shield(work)
    finally:
        if not job.cancel():
            await ended(work)
