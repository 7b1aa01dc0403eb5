"""Readiness: whether the service can serve its main RPC, asked again and again; changes are logged."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from grpc_health.v1 import health, health_pb2

from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import LensmithError

_log = structlog.get_logger("lensmith.readiness")
_STARTING_SECONDS = 0.2


class Readiness:
    """Tells gRPC health and HTTP probes what the service says of itself; NOT_SERVING until it has said yes."""

    def __init__(self, services: Sequence[str], ready: Callable[[], Awaitable[None]], *, interval: float) -> None:
        """Begin as not ready.

        Args:
            services: full names of the gRPC services; the empty name stands for all of them together.
            ready: raises when the main RPC cannot be served.
            interval: seconds between two questions.
        """
        self.servicer = health.aio.HealthServicer()
        self.is_ready = False
        self._services = ("", *services)
        self._ready = ready
        self._interval = interval

    async def start(self) -> None:
        """Make every service known as NOT_SERVING."""
        await self._tell(False)

    async def run(self) -> None:
        """Ask until cancelled; often until the first yes, so that starting is quick."""
        ever_ready = False
        told: str | None = None
        while True:
            cause = await self._ask()
            heed_cancellation()
            if cause is None:
                ever_ready = True
                if not self.is_ready:
                    _log.info("ready")
            elif cause != told:
                _log.warning("not ready", cause=cause)
            told = cause
            if (cause is None) != self.is_ready:
                self.is_ready = cause is None
                await self._tell(self.is_ready)
            await asyncio.sleep(self._interval if ever_ready else min(self._interval, _STARTING_SECONDS))

    async def leave(self) -> None:
        """Say NOT_SERVING for good: the process is about to stop."""
        self.is_ready = False
        await self.servicer.enter_graceful_shutdown()

    async def _ask(self) -> str | None:
        limit = self._interval * 0.9
        try:
            async with asyncio.timeout(limit):
                await self._ready()
        except TimeoutError:
            return f"no answer within {limit:g} s"
        except LensmithError as error:
            return str(error)
        except Exception as error:
            # Whatever it is, it means that the service cannot serve; the cause is logged with its kind.
            return f"{type(error).__name__}: {error}"
        return None

    async def _tell(self, serving: bool) -> None:
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if serving else answer.NOT_SERVING
        for service in self._services:
            await self.servicer.set(service, status)
