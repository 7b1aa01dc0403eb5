"""Usage: operations are counted in memory and reported once a second.

A process that is killed loses what it counted since its last report: at most a second. What was reported counts once,
however often the report is delivered.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import structlog

from lensmith_api.internal.v1.events_pb2 import Event, UsageEntry, UsageRecorded
from lensmith_platform.bus import Bus
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import LensmithError
from lensmith_platform.events import complete

_LOG = structlog.get_logger(__name__)
_ENTRIES_PER_EVENT = 1000
_LAST_REPORT_SECONDS = 5.0

_Key = tuple[str, int, str, str, str]


class UsageMeter:
    """Counts operations by day, app, kind, model and key.

    Args:
        bus: where reports go, as `usage.recorded`.
        interval_seconds: how often.
    """

    def __init__(self, bus: Bus, *, interval_seconds: float = 1.0) -> None:
        self._bus = bus
        self._interval = interval_seconds
        self._counts: Counter[_Key] = Counter()
        self._unsent: list[Event] = []

    def record(self, app_id: int, operation: str, model: str, key_uid: str, count: int) -> None:
        """Count operations.

        Args:
            app_id: app that pays.
            operation: `predict`, `embed`, `upload` or `train`.
            model: model used; empty where none was.
            key_uid: key that asked; empty where a service did.
            count: how many.
        """
        if count:
            day = datetime.now(UTC).date().isoformat()
            self._counts[day, app_id, operation, model, key_uid] += count

    async def run(self) -> None:
        """Report until cancelled, and once more then."""
        try:
            while True:
                await asyncio.sleep(self._interval)
                await self._report()
                heed_cancellation()
        finally:
            try:
                async with asyncio.timeout(_LAST_REPORT_SECONDS):
                    await self._report()
            except TimeoutError:
                _LOG.warning("usage_lost", events=len(self._unsent))

    async def _report(self) -> None:
        if not self._unsent:
            # What could not be sent waits as it is; what comes meanwhile adds up in the counts, which stay small.
            self._unsent = self._take()
        # An event keeps its id until it is acknowledged, so that one sent twice counts once.
        while self._unsent:
            try:
                await self._bus.publish(self._unsent[0])
            except LensmithError as error:
                _LOG.warning("usage_waits", reason=error.reason, events=len(self._unsent))
                return
            self._unsent.pop(0)

    def _take(self) -> list[Event]:
        counts, self._counts = self._counts, Counter()
        entries = [
            UsageEntry(app_id=app_id, operation=operation, model=model, key_uid=key_uid, count=count, day=day)
            for (day, app_id, operation, model, key_uid), count in counts.items()
        ]
        events = []
        for start in range(0, len(entries), _ENTRIES_PER_EVENT):
            event = Event(usage_recorded=UsageRecorded(entries=entries[start : start + _ENTRIES_PER_EVENT]))
            complete(event)
            events.append(event)
        return events
