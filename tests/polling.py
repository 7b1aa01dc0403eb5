"""Waiting for a condition, with a deadline rather than a guess."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], *, seconds: float = 30.0) -> T:
    """Waits until a condition holds, and returns what it gives then.

    Raises:
        TimeoutError: It does not within `seconds`.
    """
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found
