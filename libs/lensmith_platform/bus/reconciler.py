"""Periodic work that finds what events forgot."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import LensmithError

_LOG = structlog.get_logger(__name__)


class Reconciler:
    """Runs an action again and again; nothing but cancellation ends it.

    Args:
        name: for the log.
        interval: seconds from the end of one run to the start of the next, on average: each pause is up to a fifth
            shorter or longer, so that replicas do not work in step.
        action: must be safe to run in several processes at once.
    """

    def __init__(self, name: str, interval: float, action: Callable[[], Awaitable[object]]) -> None:
        self._name = name
        self._interval = interval
        self._action = action

    async def run(self) -> None:
        """Run the action at once and then periodically, until cancelled."""
        while True:
            try:
                await self._action()
            except LensmithError as error:
                _LOG.warning("reconciler_failed", reconciler=self._name, reason=error.reason)
            except Exception:
                _LOG.exception("reconciler_failed", reconciler=self._name)
            heed_cancellation()
            await asyncio.sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret
