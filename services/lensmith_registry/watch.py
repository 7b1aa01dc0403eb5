"""Waking the streams that watch versions and upgrades."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.errors import LensmithError, QuotaExceededError

__all__ = ["Sight", "Watchers", "watch"]

Shown = TypeVar("Shown")

_RETRY_AFTER_SECONDS = 10.0


@dataclass(frozen=True)
class Sight(Generic[Shown]):
    """What a look at something that is watched gave.

    Attributes:
        shown: What to show.
        revision: Changes with it.
        ended: Whether it will not change any more.
    """

    shown: Shown
    revision: int
    ended: bool


class Watchers:
    """The watches of this process, by uid of what they watch.

    Args:
        most: Watches at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._by_uid: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def watching(self, uid: UUID) -> Iterator[asyncio.Event]:
        """Lend an event that is set whenever what is watched changes.

        Raises:
            QuotaExceededError: There are too many watches.
        """
        if self._count >= self._most:
            raise QuotaExceededError(
                "TOO_MANY_WATCHES",
                f"{self._most} watches are open already; try again, or ask now and then instead of watching",
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
        """Wake the watches of a version or an upgrade that changed."""
        uid = event.model_version_changed.version_uid or event.upgrade_changed.upgrade_uid
        for woken in self._by_uid.get(uid, ()):
            woken.set()

    async def resync(self) -> None:
        """Wake every watch: news may have been missed."""
        for watches in self._by_uid.values():
            for woken in watches:
                woken.set()


async def watch(
    watchers: Watchers, uid: UUID, look: Callable[[], Awaitable[Sight[Shown]]], poll_seconds: float
) -> AsyncIterator[Sight[Shown] | LensmithError]:
    """Give what is watched now and whenever it changes, the last time in its last state.

    A failure after the first look is given instead of raised: the transcoder in front would end the stream as a
    success.

    Args:
        watchers: Where news arrives.
        uid: Of what is watched.
        look: Looks at it.
        poll_seconds: How often to look without news.

    Raises:
        NotFoundError: There is no such thing, at the first look only.
        QuotaExceededError: There are too many watches.
    """
    shown: int | None = None
    with watchers.watching(uid) as woken:
        while True:
            # Before looking, so that a change while looking wakes once more.
            woken.clear()
            try:
                seen = await look()
            except LensmithError as error:
                if shown is None:
                    raise
                yield error
                return
            if seen.revision != shown or seen.ended:
                shown = seen.revision
                yield seen
            if seen.ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(poll_seconds):
                    await woken.wait()
