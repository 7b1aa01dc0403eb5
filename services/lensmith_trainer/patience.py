"""Trying again while another service is away."""

from __future__ import annotations

import asyncio
import logging

from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    LensmithError,
    QuotaExceededError,
)

__all__ = ["TRANSIENT", "Patience"]

TRANSIENT = (DependencyUnavailableError, DeadlineExceededError, QuotaExceededError)
"""Errors that another try may cure."""

_FIRST_SECONDS, _LONGEST_SECONDS = 0.5, 5.0
_LOG = logging.getLogger(__name__)


class Patience:
    """How long what fails is tried again, with pauses that double.

    Args:
        seconds: From now on, or from when it was last renewed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Begin anew, because something has come."""
        self._until, self._pause = asyncio.get_running_loop().time() + self._seconds, _FIRST_SECONDS

    async def wait(self, error: LensmithError, what: str) -> None:
        """Pause before the next try.

        Args:
            error: Why the last one failed; raised where patience has ended.
            what: What does not work, for the log.
        """
        if asyncio.get_running_loop().time() >= self._until:
            raise error
        _LOG.warning("%s: %s", what, error)
        heed_cancellation()
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_SECONDS)
