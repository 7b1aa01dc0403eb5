"""Cancellation that is not lost inside the NATS client."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_AGAIN_SECONDS = 0.1


@contextmanager
def heeding_cancellation() -> Iterator[None]:
    """Raise `CancelledError` at the end of the block if the task was cancelled in it and nobody said so.

    The NATS client waits by `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes together
    with the result. A loop around it would then never end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def ending_when_cancelled(work: Coroutine[object, object, T]) -> T:
    """Wait for work that may swallow a cancellation and go on for ever, as connecting does while NATS is away.

    It is cancelled again and again until it ends.

    Raises:
        CancelledError: This task was cancelled; the work has ended.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_AGAIN_SECONDS)
        if not task.cancelled():
            task.exception()  # Looked at: otherwise the event loop complains that nobody did.
        raise
