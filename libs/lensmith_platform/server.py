"""The life of a service: built whole, then served, then drained and closed in reverse; telemetry is closed last."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc
import structlog
import uvloop
from prometheus_client import CollectorRegistry, ProcessCollector

from lensmith_platform.auth_client import AuthClient
from lensmith_platform.clients import ServiceClients
from lensmith_platform.clock import SystemClock
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.listener import Listener, StartError
from lensmith_platform.platform import Platform, SettingsT
from lensmith_platform.probes import Probes
from lensmith_platform.readiness import Readiness
from lensmith_platform.revocations import RevocationListener
from lensmith_platform.service_auth import TokenSigner, TokenVerifier
from lensmith_platform.settings import FRAMING_BYTES, BusSettings, SettingsError, load, masked, service_name
from lensmith_platform.telemetry import configure_logging, trace_exporter

__all__ = ["Platform", "RunningService", "Service", "StartError", "main", "run_service", "running"]

_log = structlog.get_logger("lensmith.server")


class Service(Protocol):
    """What a service's `app.py` builds."""

    @property
    def name(self) -> str:
        """Name of the service, `dataset`."""
        ...

    @property
    def service_names(self) -> Sequence[str]:
        """Full names of its gRPC services, for access, health and reflection."""
        ...

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register its servicers."""
        ...

    async def ready(self) -> None:
        """Return when its main RPC can be served; raise why not."""
        ...

    async def run(self) -> None:
        """Work in the background until cancelled; may return at once."""
        ...

    async def close(self) -> None:
        """Close what it opened itself."""
        ...


ServiceT = TypeVar("ServiceT", bound=Service)
Build = Callable[[Platform[SettingsT]], Awaitable[ServiceT]]
"""Builds a service from what the platform gives it."""


@dataclass(frozen=True)
class RunningService(Generic[ServiceT]):
    """A service that answers.

    Attributes:
        service: what was built.
        target: gRPC target that it listens on.
        metrics_address: `host:port` of `/metrics`, `/healthz`, `/readyz`.
        readiness: whether it can serve.
        background: its background work; done only when the work ended or failed.
    """

    service: ServiceT
    target: str
    metrics_address: str
    readiness: Readiness
    background: asyncio.Task[None]


def main(settings_class: type[SettingsT], build: Build[SettingsT, ServiceT]) -> int:
    """Run a service as a process, from its settings to its exit status; for `__main__.py`."""
    try:
        settings = load(settings_class)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return uvloop.run(run_service(settings, build))


async def run_service(settings: SettingsT, build: Build[SettingsT, ServiceT]) -> int:
    """Run a service until SIGTERM or SIGINT, or until its background work fails.

    Returns:
        Exit status: 0 stopped as asked, 1 failed, 2 could not start.
    """
    name = service_name(settings)
    configure_logging(name, level=settings.log_level, form=settings.log_format)
    _log.info("starting", settings=masked(settings))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with running(settings, build) as service:
            # What a service is made of stays until its end: to be walked through again and again, it would hold up
            # whatever call comes at that moment by some 60 ms.
            gc.collect()
            gc.freeze()
            return await _until_stopped(service, stop, settings.drain_seconds)
    except (StartError, SettingsError) as error:
        _log.error("cannot start", cause=str(error))
        return 2
    except Exception:
        # Whoever started the process decides whether to try again.
        _log.exception("failed")
        return 1


async def _until_stopped(service: RunningService[ServiceT], stop: asyncio.Event, drain_seconds: float) -> int:
    stopped = asyncio.create_task(stop.wait())
    status = 0
    try:
        await asyncio.wait({stopped, service.background}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set() and not service.background.cancelled() and (cause := service.background.exception()):
            _log.error("background work failed", exc_info=cause)
            status = 1
        elif not stop.is_set():
            await stopped
    finally:
        stopped.cancel()
    _log.info("stopping")
    await service.readiness.leave()
    if status == 0:
        # Load balancers have this long to learn of it, and calls that come meanwhile are answered.
        await asyncio.sleep(drain_seconds)
    return status


@asynccontextmanager
async def running(settings: SettingsT, build: Build[SettingsT, ServiceT]) -> AsyncIterator[RunningService[ServiceT]]:
    """Run a service, without signals: the whole server with all interceptors on its real listener.

    Raises:
        StartError: it cannot be served; the message is one clear sentence.
        SettingsError: a key of the service cannot be read.
    """
    name = service_name(settings)
    async with AsyncExitStack() as closers:
        tracer = None
        if settings.otlp_endpoint:
            # Closed last: the spans of calls that are drained go out too.
            provider = trace_exporter(name, settings.otlp_endpoint)
            closers.push_async_callback(asyncio.to_thread, provider.shutdown)
            tracer = provider.get_tracer("lensmith")
        clock = SystemClock()
        clients = ServiceClients(
            settings.addresses,
            TokenSigner(name, settings.service_key_file, clock=clock),
            max_message_bytes=settings.max_message_bytes + FRAMING_BYTES,
            default_deadline_seconds=settings.default_deadline_seconds,
            tracer=tracer,
        )
        closers.push_async_callback(clients.close)
        authenticator = Authenticator(
            AuthClient(clients),
            TokenVerifier(settings.service_keys_dir, name, clock=clock),
            clock=clock,
            cache_seconds=settings.key_cache_seconds,
        )
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        platform = Platform(
            settings=settings,
            registry=registry,
            clients=clients,
            authenticator=authenticator,
            closers=closers,
            clock=clock,
            tracer=tracer,
        )
        bus: object = settings
        if isinstance(bus, BusSettings):
            listener = RevocationListener(bus.nats_url.get_secret_value(), authenticator.on_broadcast, service=name)
            await closers.enter_async_context(_background(listener.run()))
        service = await build(platform)
        closers.push_async_callback(service.close)
        if service.name != name:
            raise StartError(f"the settings are for the service {name!r}, what was built is {service.name!r}")
        yield await _serve(platform, service, closers)


async def _serve(platform: Platform[SettingsT], service: ServiceT, closers: AsyncExitStack) -> RunningService[ServiceT]:
    """Open the ports of a service that is built, and begin its background work."""
    settings = platform.settings
    readiness = Readiness(service.service_names, service.ready, interval=settings.ready_interval_seconds)
    await readiness.start()
    background = await closers.enter_async_context(_background(service.run()))
    probes = Probes(platform.registry, lambda: readiness.is_ready)
    try:
        metrics_address = await probes.start(settings.metrics_listen)
    except (OSError, ValueError) as error:
        raise StartError(f"cannot serve metrics on {settings.metrics_listen}: {error}") from error
    closers.push_async_callback(probes.stop)
    server = Listener(platform, service, readiness)
    target = await server.start()
    # Calls in flight end before background work and connections do: their handlers need both.
    closers.push_async_callback(server.stop, settings.grace_seconds)
    await closers.enter_async_context(_background(readiness.run()))
    closers.push_async_callback(readiness.leave)
    _log.info("serving", target=target, metrics=metrics_address, services=list(service.service_names))
    return RunningService(service, target, metrics_address, readiness, background)


@asynccontextmanager
async def _background(work: "Awaitable[None]") -> AsyncIterator[asyncio.Task[None]]:
    """Work in a task that ends with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        # What it failed with was reported by whoever waited for it.
        await asyncio.gather(task, return_exceptions=True)
