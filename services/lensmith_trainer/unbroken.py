"""Waiting for threads, which cannot be cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TypeVar

__all__ = ["ended"]

_Result = TypeVar("_Result")


async def ended(work: asyncio.Future[_Result]) -> None:
    """Wait until a thread is done, however often this is cancelled, and leave what it failed with to others."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({work})
    if not work.cancelled():
        work.exception()
