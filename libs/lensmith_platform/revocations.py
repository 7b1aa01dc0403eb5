"""Hears auth's broadcasts of revoked keys, on a NATS connection of its own.

Of its own, so that no flood of other messages delays a heartbeat. Without NATS the service works on and asks auth.
"""

import asyncio
from collections.abc import Callable

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from lensmith_platform.cancellation import ending_when_cancelled, heed_cancellation
from lensmith_platform.key_cache import REVOCATIONS_SUBJECT

_log = structlog.get_logger("lensmith.revocations")
_RETRY_SECONDS = 0.25
_CLOSE_SECONDS = 5.0


class RevocationListener:
    """Hands every broadcast to a callback, reconnecting for ever."""

    def __init__(self, url: str, on_broadcast: Callable[[bytes], None], *, service: str) -> None:
        """Prepare to listen.

        Args:
            url: NATS with credentials.
            on_broadcast: takes the payload.
            service: names the connection on the server.
        """
        self._url = url
        self._on_broadcast = on_broadcast
        self._service = service

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                await self._listen()
            except (nats.errors.Error, OSError, TimeoutError) as error:
                # The address may hold a password, so only the kind of error is told.
                _log.warning("not hearing revocations", cause=type(error).__name__)
            heed_cancellation()
            await asyncio.sleep(_RETRY_SECONDS)

    async def _listen(self) -> None:
        closed = asyncio.Event()

        async def on_closed() -> None:
            closed.set()

        leaving = False

        async def on_disconnected() -> None:
            if not leaving:
                _log.warning("not hearing revocations", cause="disconnected")

        async def on_reconnected() -> None:
            _log.info("hearing revocations")

        async def on_error(error: Exception) -> None:
            _log.debug("nats", cause=type(error).__name__)

        async def on_message(message: Msg) -> None:
            self._on_broadcast(message.data)

        client = Client()
        try:
            await ending_when_cancelled(
                client.connect(
                    self._url,
                    name=f"{self._service} revocations",
                    connect_timeout=2,
                    reconnect_time_wait=_RETRY_SECONDS,  # type: ignore[arg-type]  # typed int, but slept on
                    max_reconnect_attempts=-1,
                    ping_interval=5,
                    closed_cb=on_closed,
                    disconnected_cb=on_disconnected,
                    reconnected_cb=on_reconnected,
                    error_cb=on_error,
                )
            )
            await client.subscribe(REVOCATIONS_SUBJECT, cb=on_message)
            _log.info("hearing revocations")
            heed_cancellation()
            await closed.wait()
        finally:
            leaving = True
            async with asyncio.timeout(_CLOSE_SECONDS):
                await client.close()
