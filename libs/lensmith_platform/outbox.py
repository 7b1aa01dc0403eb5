"""The outbox: an event is written in the transaction of its change, and reaches the bus at least once.

Subscribers may see an event twice and, after an outage, out of order: an event says that something changed, its
receiver reads what.
"""

import asyncio
import time
from uuid import UUID

import asyncpg
import structlog

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.bus.connection import Bus
from lensmith_platform.bus.streams import LONGEST_DAYS
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import DependencyUnavailableError, InternalError, LensmithError
from lensmith_platform.events import complete, subject_of

_LOG = structlog.get_logger(__name__)

_MAX_EVENT_BYTES = 512 * 1024  # An event that the bus refuses for its size would block the outbox for ever.
_BATCH = 256
_LEASE_SECONDS = 15.0
_POLL_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_RELEASE_SECONDS = 2.0
_GRACE_SECONDS = 6.0
_FORGET_SECONDS = 3600.0
_REMEMBER_DAYS = LONGEST_DAYS + 1

_CLAIM = """
UPDATE outbox SET claimed_until = now() + $2 * interval '1 second', attempts = attempts + 1
WHERE id IN (
  SELECT id FROM outbox WHERE claimed_until < now() ORDER BY created_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
)
RETURNING id, subject, payload, created_at
"""
_FORGET = "DELETE FROM processed_events WHERE processed_at < now() - $1 * interval '1 day'"


async def publish(connection: Connection, event: Event) -> None:
    """Write an event to the outbox, inside the caller's transaction.

    Args:
        connection: in the transaction of the change. One bound to an app may only tell of that app, or of none.
        event: its id, time and trace context are filled in where they are missing.

    Raises:
        ValueError: the event has no payload.
        InternalError: the event is too large (`EVENT_TOO_LARGE`): it should carry names, not copies.
    """
    subject = subject_of(event)
    complete(event)
    payload = event.SerializeToString()
    if len(payload) > _MAX_EVENT_BYTES:
        raise InternalError("EVENT_TOO_LARGE", f"An event of {len(payload)} bytes is over {_MAX_EVENT_BYTES}.")
    await connection.execute(
        "INSERT INTO outbox (id, app_id, subject, payload) VALUES ($1, $2, $3, $4)",
        UUID(event.id),
        event.app_id,
        subject,
        payload,
    )


class OutboxRelay:
    """Publishes what the outbox of one service holds. Several may run at once, each claims rows of its own.

    It also keeps `processed_events` from growing for ever.

    Args:
        database: of the worker role: the relay sees the events of all apps.
        bus: where they go.
    """

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._wake = asyncio.Event()
        self._forget_at = 0.0

    async def run(self) -> None:
        """Relay until cancelled; outages of Postgres and of the bus are waited out."""
        while True:
            try:
                await self._bus.wait_connected()
                async with self._database.connection() as connection:
                    await self._listen(connection)
            except LensmithError as error:
                _LOG.warning("outbox_waits", reason=error.reason)
            except asyncpg.PostgresError:
                _LOG.exception("outbox_failed")
            heed_cancellation()
            await asyncio.sleep(_RETRY_SECONDS)

    async def relay_once(self) -> int:
        """Publish one batch; return how many events the bus now has.

        Raises:
            DependencyUnavailableError: the bus did not take all of it; what is left stays in the outbox.
        """
        async with self._database.connection() as connection:
            rows = await connection.fetch(_CLAIM, _BATCH, _LEASE_SECONDS)
        rows.sort(key=lambda row: (row["created_at"], row["id"]))
        # All under way at once, in the order of the outbox; the bus keeps the order of one connection.
        sending = [
            asyncio.create_task(self._bus.publish_message(row["subject"], row["payload"], str(row["id"])))
            for row in rows
        ]
        results = await asyncio.gather(*sending, return_exceptions=True)
        sent = [row["id"] for row, result in zip(rows, results, strict=True) if result is None]
        if sent:
            async with self._database.connection() as connection:
                await connection.execute("DELETE FROM outbox WHERE id = ANY($1)", sent)
        failures = [result for result in results if result is not None]
        if failures:
            await self._give_back([row["id"] for row in rows if row["id"] not in set(sent)])
            raise failures[0]
        return len(sent)

    async def _listen(self, connection: Connection) -> None:
        """Relay whenever the outbox is written to, and every second in case a word of it was lost."""
        channel = f"outbox_{await connection.fetchval('SELECT current_schema()')}"
        await connection.add_listener(channel, self._announced)
        try:
            while not connection.is_closed():
                heed_cancellation()
                await self._forget_processed(connection)
                self._wake.clear()
                if await self._finish_batch() < _BATCH:
                    await self._wait()
        finally:
            if not connection.is_closed():
                await connection.remove_listener(channel, self._announced)
        raise DependencyUnavailableError("POSTGRES_UNAVAILABLE", "The connection to the database was lost.")

    async def _finish_batch(self) -> int:
        """Relay one batch; when cancelled, finish it first: its claims would have to run out otherwise."""
        batch = asyncio.create_task(self.relay_once())
        try:
            return await asyncio.shield(batch)
        except asyncio.CancelledError:
            await asyncio.wait([batch], timeout=_GRACE_SECONDS)
            batch.cancel()
            await asyncio.gather(batch, return_exceptions=True)
            raise

    async def _forget_processed(self, connection: Connection) -> None:
        """Once an hour: forget which events were processed, when no stream holds them any more."""
        now = time.monotonic()
        if now >= self._forget_at:
            await connection.execute(_FORGET, _REMEMBER_DAYS)
            self._forget_at = now + _FORGET_SECONDS

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _announced(self, *_: object) -> None:
        self._wake.set()

    async def _give_back(self, ids: list[UUID]) -> None:
        """Free claimed rows at once; if that fails, their lease does it."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS), self._database.connection() as connection:
                await connection.execute("UPDATE outbox SET claimed_until = '-infinity' WHERE id = ANY($1)", ids)
        except (LensmithError, TimeoutError) as error:
            _LOG.warning("outbox_claim_kept", error=str(error))
