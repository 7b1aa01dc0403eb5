"""Events that are work: each is handled by one process, until it is done or given up.

What becomes of a message, by how its handler ends:

=============================================  ============================================================
the handler returns                            acknowledged
a permanent `LensmithError` (`PERMANENT`)      dead letter, never delivered again
`DependencyUnavailableError`                   kept here and tried again with backoff, up to `PATIENCE_SECONDS`; then as
                                               any other error: an outage does not use up deliveries
any other error                                delivered again with backoff; a dead letter after `max_deliver` times
delivered more than `max_deliver` times        dead letter, without being handled: it kills its handlers
cancelled, or the process died                 nothing; delivered again after `ack_wait`
not an `Event`                                 dead letter
=============================================  ============================================================
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.bus.connection import UNREACHABLE, Bus
from lensmith_platform.bus.pulling import pull
from lensmith_platform.bus.streams import stream_of
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import (
    AlreadyExistsError,
    DependencyUnavailableError,
    InvalidInputError,
    LensmithError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
)
from lensmith_platform.telemetry import trace_of_event

_LOG = structlog.get_logger(__name__)

PERMANENT = (InvalidInputError, NotFoundError, AlreadyExistsError, PreconditionError)
"""Errors that another delivery cannot cure."""

PATIENCE_SECONDS = 600.0
"""How long one delivery waits for a dependency that is away."""

_RETRY_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 10.0
_MAX_TEXT = 2000

Handler = Callable[[Event], Awaitable[None]]


class WorkConsumer:
    """One of the processes that share a durable consumer.

    Args:
        bus: the connection.
        durable: name of the consumer, ``<service>--<verb>-<object>``; what carries the same name shares the work.
        subject: such as ``models.version_queued``.
        handler: does the work and returns when it is durable; it may be called again with the same event.
        concurrency: most events in work at once in this process.
        max_deliver: deliveries after which an event is a dead letter.
        database: of the service's worker role, where dead letters are kept; ``None``: they are only logged.
        ack_wait: seconds after which the work of a process that died is given to another. While a handler runs, its
            message is kept from others by heartbeats, however long it takes.
        grace: seconds that handlers may go on when `run` is cancelled.
    """

    def __init__(
        self,
        bus: Bus,
        durable: str,
        subject: str,
        handler: Handler,
        concurrency: int = 1,
        max_deliver: int = 10,
        database: Database | None = None,
        *,
        ack_wait: float = 20.0,
        grace: float = 10.0,
    ) -> None:
        self._bus = bus
        self._durable = durable
        self._subject = subject
        self._handler = handler
        self._concurrency = concurrency
        self._max_deliver = max_deliver
        self._database = database
        self._ack_wait = ack_wait
        self._grace = grace
        self._in_work: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take and do work until cancelled, then let what is in work finish within `grace`; outages are waited out."""
        try:
            while True:
                heed_cancellation()
                await self._bus.wait_connected()
                try:
                    await self._take(self._bus.generation)
                except (LensmithError, *UNREACHABLE) as error:
                    _LOG.warning("work_interrupted", consumer=self._durable, error=str(error))
                    heed_cancellation()
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            await self._finish()

    async def _take(self, generation: int) -> None:
        """Take work as long as the connection lasts."""
        subscription = await self._subscribe()
        try:
            while self._bus.generation == generation:
                heed_cancellation()
                if len(self._in_work) >= self._concurrency:
                    await asyncio.wait(self._in_work, return_when=asyncio.FIRST_COMPLETED)
                    self._in_work -= {task for task in self._in_work if task.done()}
                message = await pull(subscription)
                if message is not None:
                    task = asyncio.create_task(self._process(message), name=self._durable)
                    self._in_work.add(task)
                    task.add_done_callback(self._in_work.discard)
        finally:
            with suppress(*UNREACHABLE):
                await subscription.unsubscribe()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        stream = stream_of(self._subject)
        jetstream = self._bus.jetstream()
        config = ConsumerConfig(
            durable_name=self._durable,
            filter_subject=self._subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            # Counted here instead: JetStream would drop a message that killed its handlers without a word.
            max_deliver=-1,
        )
        await jetstream.add_consumer(stream, config)
        return await jetstream.pull_subscribe_bind(consumer=self._durable, stream=stream)

    async def _finish(self) -> None:
        """Let the handlers end; those that do not are cancelled, and their messages come back."""
        if not self._in_work:
            return
        _, late = await asyncio.wait(self._in_work, timeout=self._grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _process(self, message: Msg) -> None:
        """Handle one message and say what became of it; never raises but when cancelled."""
        heartbeat = asyncio.create_task(self._keep(message))
        try:
            await self._settle(message)
        except UNREACHABLE as error:
            # Neither acknowledged nor refused: it comes back, and the handler is idempotent.
            _LOG.warning("work_not_settled", consumer=self._durable, error=repr(error))
        finally:
            heartbeat.cancel()

    async def _settle(self, message: Msg) -> None:
        deliveries = message.metadata.num_delivered
        try:
            event = Event.FromString(message.data)
        except DecodeError:
            await self._bury(message, Event(), "NOT_AN_EVENT", "The message is not an event.")
            return
        with trace_of_event(event.traceparent, event.id):
            if deliveries > self._max_deliver:
                await self._bury(message, event, "DELIVERED_TOO_OFTEN", "Nobody survived handling it.")
                return
            try:
                await self._handle(event)
            except PERMANENT as error:
                await self._bury(message, event, error.reason, error.message)
            except Exception as error:
                await self._refuse(message, event, error)
            else:
                await message.ack()

    async def _handle(self, event: Event) -> None:
        """Call the handler; while something it needs is away, wait and call it again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        pause = _RETRY_SECONDS
        while True:
            try:
                await self._handler(event)
            except DependencyUnavailableError as error:
                if loop.time() >= until:
                    raise
                _LOG.warning("work_waits", consumer=self._durable, reason=error.reason, message=error.message)
                heed_cancellation()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_WAIT_SECONDS)
            else:
                return

    async def _refuse(self, message: Msg, event: Event, error: Exception) -> None:
        deliveries = message.metadata.num_delivered
        reason = error.reason if isinstance(error, LensmithError) else "HANDLER_FAILED"
        _LOG.warning(
            "work_failed",
            consumer=self._durable,
            reason=reason,
            deliveries=deliveries,
            exc_info=None if isinstance(error, LensmithError) else error,
        )
        if deliveries >= self._max_deliver:
            await self._bury(message, event, reason, str(error))
            return
        backoff = min(2.0 ** (deliveries - 1), _LONGEST_BACKOFF_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311
        if isinstance(error, QuotaExceededError) and error.retry_after is not None:
            backoff = max(backoff, error.retry_after)
        await message.nak(delay=backoff)

    async def _bury(self, message: Msg, event: Event, reason: str, text: str) -> None:
        """Keep a message that cannot be handled, then never let it be delivered again."""
        _LOG.error("work_given_up", consumer=self._durable, subject=message.subject, reason=reason, message=text)
        if self._database is not None:
            try:
                await self._store(self._database, message, event, reason, text)
            except LensmithError as error:
                _LOG.warning("dead_letter_not_stored", consumer=self._durable, reason=error.reason)
                await message.nak(delay=_LONGEST_WAIT_SECONDS)
                return
        await message.term()

    async def _store(self, database: Database, message: Msg, event: Event, reason: str, text: str) -> None:
        async with database.transaction(None) as connection:
            await connection.execute(
                """
                INSERT INTO dead_letters (app_id, consumer, id, subject, payload, reason, message, deliveries)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                ON CONFLICT ON CONSTRAINT dead_letters_pkey
                DO UPDATE SET reason = excluded.reason, message = excluded.message, deliveries = excluded.deliveries
                """,
                event.app_id,
                self._durable,
                _letter_id(event, message.data),
                message.subject,
                message.data,
                reason,
                text[:_MAX_TEXT],
                message.metadata.num_delivered,
            )

    async def _keep(self, message: Msg) -> None:
        """Tell the server again and again that the message is in work."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            with suppress(*UNREACHABLE):
                await message.in_progress()
            heed_cancellation()


def _letter_id(event: Event, payload: bytes) -> UUID:
    with suppress(ValueError):
        return UUID(event.id)
    return UUID(bytes=hashlib.sha256(payload).digest()[:16])
