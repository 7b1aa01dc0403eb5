"""Cancellation that is not lost inside the NATS client."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


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
