"""Waiting for a condition, with a deadline rather than a guess."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = 20.0) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: It does not within `seconds`.
    """
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)
