"""What a service gets from the platform to build itself with."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from lensmith_platform.clients import ServiceClients
from lensmith_platform.clock import Clock
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.settings import ServiceSettings

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
_SettingsT_co = TypeVar("_SettingsT_co", bound=ServiceSettings, covariant=True)
_Entered = TypeVar("_Entered")


@dataclass(frozen=True)
class Platform(Generic[_SettingsT_co]):
    """The parts that every service shares, already running.

    Attributes:
        settings: the service's settings.
        registry: where its metrics are defined.
        clients: channels to other services.
        authenticator: who calls; auth sets its own store as its source.
        closers: what closes when the service stops, last in first out, after the service itself.
        clock: where the time comes from.
        tracer: makes spans; None: nobody collects them.
    """

    settings: _SettingsT_co
    registry: CollectorRegistry
    clients: ServiceClients
    authenticator: Authenticator
    closers: AsyncExitStack
    clock: Clock
    tracer: Tracer | None = None

    async def enter(self, manager: AbstractAsyncContextManager[_Entered]) -> _Entered:
        """Open something that is closed when the service stops."""
        return await self.closers.enter_async_context(manager)
