"""Revocations: every service learns within a second that a key stopped.

A revocation is numbered in the transaction that deletes or changes the key and broadcast right after it. A heartbeat
repeats the newest number, so that a service that missed a broadcast sees the gap, and one that hears nothing asks auth
about every request.
"""

import asyncio

import structlog

from lensmith_api.internal.v1.events_pb2 import Revocation
from lensmith_auth.key_store import RevocationStore
from lensmith_platform.bus import Bus
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db import Database
from lensmith_platform.errors import LensmithError
from lensmith_platform.key_cache import REVOCATIONS_SUBJECT

log = structlog.get_logger(__name__)


class Revocations:
    """Broadcasts revocations and their heartbeat."""

    def __init__(self, worker: Database, bus: Bus, heartbeat_seconds: float) -> None:
        self._worker = worker
        self._bus = bus
        self._heartbeat_seconds = heartbeat_seconds

    async def broadcast(self, number: int, secret_sha256: bytes = b"") -> None:
        """Tell all services of a committed revocation; where that fails, the heartbeat does."""
        try:
            await self._bus.publish_core(
                REVOCATIONS_SUBJECT, Revocation(number=number, secret_sha256=secret_sha256).SerializeToString()
            )
        except LensmithError as error:
            log.warning("revocation_not_broadcast", number=number, reason=error.reason)

    async def run(self) -> None:
        """Send heartbeats until cancelled. Without the database there is none: services then ask for every request."""
        while True:
            try:
                async with self._worker.transaction(None) as connection:
                    number = await RevocationStore(connection).current()
            except LensmithError as error:
                log.warning("heartbeat_missed", reason=error.reason)
            else:
                await self.broadcast(number)
            heed_cancellation()
            await asyncio.sleep(self._heartbeat_seconds)
