"""The connection to NATS: made in the background, kept for ever."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.bus.streams import ensure_streams
from lensmith_platform.cancellation import ending_when_cancelled, heed_cancellation
from lensmith_platform.errors import DependencyUnavailableError
from lensmith_platform.events import complete, subject_of

_LOG = structlog.get_logger(__name__)

UNREACHABLE = (nats.errors.Error, OSError, TimeoutError)
"""What the NATS client raises when the server does not answer as it should."""

_RECONNECT_SECONDS = 0.25
_CONNECT_SECONDS = 2
_PUBLISH_SECONDS = 5.0
_PING_SECONDS = 5
_CLOSE_SECONDS = 5

CoreCallback = Callable[[bytes], Awaitable[None]]


class Bus:
    """One process's connection to NATS.

    It may be used before NATS is up and while NATS is away: publishing then raises, subscriptions come (back) to life
    with the connection. `connect` makes it; `close` it, or use it as an async context manager.

    Args:
        url: with credentials, ``nats://user:password@host:port``.
        name: shown by the server's monitoring.
        replicas: copies of each stream, in a NATS cluster.
    """

    def __init__(self, url: str, *, name: str = "lensmith", replicas: int = 1) -> None:
        self._url = url
        self._name = name
        self._replicas = replicas
        self._client: Client | None = None
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._generation = 0
        self._core: dict[CoreSubscription, Subscription | None] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._preparation: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._keeper = asyncio.create_task(self._keep_connected(), name="bus connection")

    @property
    def is_connected(self) -> bool:
        """Whether NATS answers and has the streams."""
        return self._connected.is_set()

    @property
    def generation(self) -> int:
        """Number of the connection; another number means that something may have been missed."""
        return self._generation

    async def wait_connected(self) -> None:
        """Wait until NATS answers and has the streams."""
        await self._connected.wait()

    def jetstream(self) -> JetStreamContext:
        """JetStream on the present connection.

        Raises:
            DependencyUnavailableError: there is none (`NATS_UNAVAILABLE`).
        """
        return self._require().jetstream(timeout=_PUBLISH_SECONDS)

    async def publish(self, event: Event) -> None:
        """Publish an event and wait until its stream has it; what the envelope lacks is filled in.

        For news of a change in the database use `outbox.publish`, which cannot be lost.

        Raises:
            DependencyUnavailableError: NATS did not confirm it; it may have it (`NATS_UNAVAILABLE`).
        """
        complete(event)
        await self.publish_message(subject_of(event), event.SerializeToString(), event.id)

    async def publish_message(self, subject: str, payload: bytes, message_id: str) -> None:
        """Publish to a stream, which drops a second message of the same id within two minutes.

        Raises:
            DependencyUnavailableError: as `publish`.
        """
        jetstream = self.jetstream()
        try:
            await jetstream.publish(subject, payload, headers={"Nats-Msg-Id": message_id})
        except UNREACHABLE as error:
            raise _unavailable(f"The bus did not confirm a message: {error!r}.") from error

    async def publish_core(self, subject: str, payload: bytes) -> None:
        """Send to whoever listens now, without any confirmation.

        Raises:
            DependencyUnavailableError: NATS is away (`NATS_UNAVAILABLE`).
        """
        client = self._require()
        try:
            await client.publish(subject, payload)
        except UNREACHABLE as error:
            raise _unavailable("The bus is away.") from error

    async def subscribe_core(self, subject: str, callback: CoreCallback) -> "CoreSubscription":
        """Call back with the payload of each message that is sent while this process is connected.

        Messages are handed over one at a time. A callback that raises is logged and called again for the next one.
        """
        subscription = CoreSubscription(self, subject, callback)
        self._core[subscription] = None
        if self._client is not None and self._client.is_connected:
            await self._activate(self._client, subscription)
        return subscription

    async def unsubscribe(self, subscription: "CoreSubscription") -> None:
        """End a subscription; ending it twice is no error."""
        active = self._core.pop(subscription, None)
        if active is not None:
            with suppress(*UNREACHABLE):
                await active.unsubscribe()

    async def close(self) -> None:
        """Send what is still buffered and disconnect; for ever."""
        # From here on, whatever the client still does begins nothing new.
        client, self._client = self._client, None
        self._connected.clear()
        tasks = [task for task in (self._keeper, self._preparation) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client is not None:
            await _close(client)

    async def __aenter__(self) -> Self:
        """The bus itself; it need not be connected yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    def _require(self) -> Client:
        if self._client is None or not self._client.is_connected:
            raise _unavailable("The bus is away.")
        return self._client

    async def _keep_connected(self) -> None:
        """Hold a client; NATS' own one reconnects by itself, unless the server refused it."""
        while True:
            client = Client()
            closed = asyncio.Event()
            try:
                await self._connect(client, closed)
                self._client = client
                self._prepare(client)
                await closed.wait()
            except UNREACHABLE as error:
                _LOG.warning("bus_refused", error=repr(error))
            except asyncio.CancelledError:
                if self._client is not client:
                    await _close(client)
                raise
            self._client = None
            self._connected.clear()
            self._core = dict.fromkeys(self._core)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self, client: Client, closed: asyncio.Event) -> None:
        async def on_disconnect() -> None:
            self._connected.clear()
            if self._client is client:  # Not when we close it ourselves.
                _LOG.warning("bus_disconnected")

        async def on_reconnect() -> None:
            if self._client is client:
                self._prepare(client)

        async def on_close() -> None:
            closed.set()

        async def on_error(error: Exception) -> None:
            _LOG.debug("bus_error", error=repr(error))

        await ending_when_cancelled(
            client.connect(
                self._url,
                name=self._name,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                closed_cb=on_close,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # typed int, but slept on
                connect_timeout=_CONNECT_SECONDS,
                ping_interval=_PING_SECONDS,
            )
        )

    def _prepare(self, client: Client) -> None:
        if self._preparation is not None:
            self._preparation.cancel()
        self._preparation = asyncio.create_task(self._announce(client), name="bus preparation")

    async def _announce(self, client: Client) -> None:
        """Make what may be missing on the server we met, then say that the bus is there."""
        for subscription, active in list(self._core.items()):
            if active is None:
                await self._activate(client, subscription)
        while client.is_connected:
            heed_cancellation()
            try:
                await ending_when_cancelled(ensure_streams(client.jetstream(timeout=_PUBLISH_SECONDS), self._replicas))
            except UNREACHABLE as error:
                # JetStream answers a little later than the server itself.
                _LOG.info("bus_streams_missing", error=repr(error))
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                self._generation += 1
                self._connected.set()
                _LOG.info("bus_connected", connection=self._generation)
                return

    async def _activate(self, client: Client, subscription: "CoreSubscription") -> None:
        async def deliver(message: Msg) -> None:
            try:
                await subscription.callback(message.data)
            except Exception:
                _LOG.exception("bus_callback_failed", subject=subscription.subject)

        with suppress(*UNREACHABLE):
            self._core[subscription] = await client.subscribe(subscription.subject, cb=deliver)


class CoreSubscription:
    """A subscription outside the streams, as `Bus.subscribe_core` returns it.

    Attributes:
        subject: what it listens to.
        callback: who is told.
    """

    def __init__(self, bus: Bus, subject: str, callback: CoreCallback) -> None:
        self._bus = bus
        self.subject = subject
        self.callback = callback

    async def unsubscribe(self) -> None:
        """End it."""
        await self._bus.unsubscribe(self)


async def connect(url: str, *, name: str = "lensmith", replicas: int = 1, wait_seconds: float = 0.0) -> Bus:
    """Open the bus. It connects in the background, for ever; NATS need not be up yet.

    Args:
        url: with credentials, ``nats://user:password@host:port``.
        name: shown by the server's monitoring.
        replicas: copies of each stream, in a NATS cluster.
        wait_seconds: how long to wait for the connection before returning anyway.
    """
    bus = Bus(url, name=name, replicas=replicas)
    bus.start()
    if wait_seconds:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await bus.wait_connected()
    return bus


async def _close(client: Client) -> None:
    # A limit for each: one cancellation of both could be lost in the first.
    if client.is_connected:
        with suppress(*UNREACHABLE):
            await client.flush(_CLOSE_SECONDS)
    with suppress(*UNREACHABLE):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()


def _unavailable(message: str) -> DependencyUnavailableError:
    return DependencyUnavailableError("NATS_UNAVAILABLE", message)
