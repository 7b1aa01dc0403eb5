"""Waking the streams that watch a version."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.v1.model_service_pb2 import WatchModelVersionResponse, WatchSummary
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import LensmithError, QuotaExceededError, to_status
from lensmith_registry import version_store
from lensmith_registry.converters import version_to_proto

__all__ = ["Watchers", "watch"]

_RETRY_AFTER_SECONDS = 10.0


class Watchers:
    """The watches of this process, by uid of the version.

    Args:
        most: Watches at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._by_uid: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def watching(self, uid: UUID) -> Iterator[asyncio.Event]:
        """Lend an event that is set whenever the version changes.

        Raises:
            QuotaExceededError: There are too many watches.
        """
        if self._count >= self._most:
            raise QuotaExceededError(
                "TOO_MANY_WATCHES",
                f"{self._most} versions are being watched already; try again or ask for the version now and then",
                metadata={"limit": "max_watches", "max": str(self._most)},
                retry_after=_RETRY_AFTER_SECONDS,
            )
        woken = asyncio.Event()
        key = str(uid)
        self._count += 1
        self._by_uid[key].add(woken)
        try:
            yield woken
        finally:
            self._count -= 1
            self._by_uid[key].discard(woken)
            if not self._by_uid[key]:
                del self._by_uid[key]

    async def heard(self, event: Event) -> None:
        """Wake the watches of a version that changed."""
        for woken in self._by_uid.get(event.model_version_changed.version_uid, ()):
            woken.set()

    async def resync(self) -> None:
        """Wake every watch: news may have been missed."""
        for watches in self._by_uid.values():
            for woken in watches:
                woken.set()


async def watch(
    database: Database, watchers: Watchers, app_id: int, uid: UUID, poll_seconds: float
) -> AsyncIterator[WatchModelVersionResponse]:
    """Give a version now and whenever it changes, then a summary.

    A failure after the first message is told in band: the transcoder in front would end the stream as a success.

    Args:
        database: Of the service's role.
        watchers: Where news arrives.
        app_id: App of the version.
        uid: The version.
        poll_seconds: How often to look without news.

    Raises:
        NotFoundError: There is no such version, before the first message only.
        QuotaExceededError: There are too many watches.
    """
    shown: int | None = None
    with watchers.watching(uid) as woken:
        while True:
            # Before looking, so that a change while looking wakes once more.
            woken.clear()
            try:
                async with database.transaction(app_id) as connection:
                    row = await version_store.version_by_uid(connection, app_id, uid)
            except LensmithError as error:
                if shown is None:
                    raise
                yield WatchModelVersionResponse(error=to_status(error))
                return
            version = version_to_proto(row)
            if row.revision != shown:
                shown = row.revision
                yield WatchModelVersionResponse(item=version)
            if row.ended:
                yield WatchModelVersionResponse(summary=WatchSummary(model_version=version))
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await woken.wait()
