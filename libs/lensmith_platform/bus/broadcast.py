"""Events that every process wants to see."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.bus.connection import UNREACHABLE, Bus
from lensmith_platform.bus.pulling import pull
from lensmith_platform.bus.streams import stream_of
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import LensmithError
from lensmith_platform.telemetry import trace_of_event

_LOG = structlog.get_logger(__name__)

_INACTIVE_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LONGEST_RETRY_SECONDS = 10.0

Handler = Callable[[Event], Awaitable[None]]
Resync = Callable[[], Awaitable[None]]


class BroadcastConsumer:
    """Sees every event of a subject from now on, in order, by a consumer of its own that acknowledges nothing.

    Whenever events may have been missed (at the start, after a new connection, after a gap in the numbers, after a
    handler failed) it first calls `resync`, by which time it already listens: nothing falls in between.

    Args:
        bus: the connection.
        subject: such as ``models.changed``; wildcards allowed.
        handler: called with one event after another; idempotent.
        resync: reads anew, or forgets, all that the events would have told.
    """

    def __init__(self, bus: Bus, subject: str, handler: Handler, resync: Resync) -> None:
        self._bus = bus
        self._subject = subject
        self._handler = handler
        self._resync = resync

    async def run(self) -> None:
        """Listen until cancelled; outages are waited out."""
        pause = _RETRY_SECONDS
        while True:
            heed_cancellation()
            await self._bus.wait_connected()
            generation = self._bus.generation
            try:
                subscription = await self._subscribe()
                try:
                    await self._resync()
                    pause = _RETRY_SECONDS
                    await self._follow(subscription, generation)
                finally:
                    await _end(subscription)
            except (LensmithError, *UNREACHABLE) as error:
                _LOG.warning("broadcast_interrupted", subject=self._subject, error=str(error))
            except Exception:
                _LOG.exception("broadcast_failed", subject=self._subject)
            else:
                continue
            heed_cancellation()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        stream = stream_of(self._subject)
        jetstream = self._bus.jetstream()
        config = ConsumerConfig(
            filter_subject=self._subject,
            deliver_policy=DeliverPolicy.NEW,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_INACTIVE_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        consumer = await jetstream.add_consumer(stream, config)
        return await jetstream.pull_subscribe_bind(consumer=consumer.name, stream=stream)

    async def _follow(self, subscription: JetStreamContext.PullSubscription, generation: int) -> None:
        """Handle events until something may have been missed."""
        number = 0
        while self._bus.generation == generation:
            heed_cancellation()
            message = await pull(subscription)
            if message is None:
                continue
            number += 1
            if message.metadata.sequence.consumer != number:
                _LOG.warning("broadcast_gap", subject=self._subject)
                return
            await self._handle(message)

    async def _handle(self, message: Msg) -> None:
        try:
            event = Event.FromString(message.data)
        except DecodeError:
            _LOG.exception("broadcast_not_an_event", subject=message.subject)
            return
        with trace_of_event(event.traceparent, event.id):
            await self._handler(event)


async def _end(subscription: JetStreamContext.PullSubscription) -> None:
    try:
        await subscription.unsubscribe()
    except UNREACHABLE as error:
        _LOG.debug("broadcast_not_unsubscribed", error=repr(error))
