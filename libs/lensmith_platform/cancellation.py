"""Cancellation that is not lost on its way through a library.

A task is told once that it is cancelled: `CancelledError` is raised where it waits. A library can lose that word:
`asyncio.wait_for` before Python 3.12 returns its result when that comes at the same moment, a gRPC call then raises the
error it ended with, and cleaning up may raise something else. A loop that outlives errors would go on for ever, and a
task group, which passes a cancellation on only once, would wait for it for ever. The task itself, however, remembers.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_AGAIN_SECONDS = 0.1


def heed_cancellation() -> None:
    """End a loop whose task was cancelled, whatever became of the word of it.

    Every loop that outlives errors calls it in each round, before it pauses or waits without end.

    Raises:
        CancelledError: This task was cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def ending_when_cancelled(work: Coroutine[object, object, T]) -> T:
    """Wait for work of a library that takes several steps, or never ends, as connecting while NATS is away.

    It would go on with the next step where the word is lost in one, so it is cancelled again and again until it ends.

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


async def thread_to_its_end(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run work in a thread as `asyncio.to_thread` does, but do not go on before it has ended, cancelled or not.

    No thread can be stopped. Who has a place for such work, because it takes much memory, would give the place to the
    next one while the memory is still taken: callers who give up again and again could have all of it.

    Raises:
        CancelledError: This task was cancelled; the work has ended.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # Looked at: otherwise the event loop complains that nobody did.
        raise
