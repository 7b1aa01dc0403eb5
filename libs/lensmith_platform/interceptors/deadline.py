"""Link 6: deadlines are a budget. A call that cannot end in time is refused before it costs anything."""

import asyncio

from lensmith_platform.errors import DeadlineExceededError
from lensmith_platform.interceptors.chain import Exchange, Link

LEAST_SECONDS = 0.05
"""Time that must be left for a call to be worth beginning."""

_TIMER = "deadline_timer"
_EXPIRED = "deadline_expired"


class Deadline(Link):
    """Gives unary calls without a deadline the default one; streams without one may last."""

    name = "deadline"

    def __init__(self, default_seconds: float) -> None:
        """Set the deadline of unary calls whose caller gives none."""
        self._default_seconds = default_seconds

    async def before(self, exchange: Exchange) -> None:
        """Set the deadline of this call."""
        loop = asyncio.get_running_loop()
        remaining: float | None = exchange.context.time_remaining()
        if remaining is not None:
            # gRPC itself ends the call then.
            exchange.deadline = loop.time() + remaining
            if remaining < LEAST_SECONDS and not exchange.method.is_health:
                raise DeadlineExceededError(
                    "DEADLINE_TOO_SHORT", f"{max(remaining, 0) * 1000:.0f} ms are left, too few to answer in"
                )
        elif not exchange.request_streaming and not exchange.response_streaming:
            exchange.deadline = loop.time() + self._default_seconds
            task = asyncio.current_task()
            if task is not None:
                exchange.notes[_TIMER] = loop.call_later(self._default_seconds, _expire, exchange, task)

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """Stop the timer; say what it did where it went off."""
        timer: asyncio.TimerHandle | None = exchange.notes.get(_TIMER)
        if timer is not None:
            timer.cancel()
        if _EXPIRED not in exchange.notes or not isinstance(error, asyncio.CancelledError):
            return error
        task = asyncio.current_task()
        if task is not None and task.uncancel() > 0:
            # Somebody else cancelled it too, and means it.
            return error
        return DeadlineExceededError(
            "DEADLINE_EXCEEDED",
            f"the call took longer than {self._default_seconds:g} s, the deadline of callers who set none",
        )


def _expire(exchange: Exchange, task: "asyncio.Task[object]") -> None:
    exchange.notes[_EXPIRED] = True
    task.cancel()
