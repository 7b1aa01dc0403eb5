"""The gRPC server of a service: its port or socket, its limits, its chain."""

import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lensmith_platform.access_table import BUILTIN_SERVICES, HEALTH, AccessError, Method, access_table, builtin_method
from lensmith_platform.interceptors.chain import Chain
from lensmith_platform.interceptors.standard import standard_links
from lensmith_platform.metrics import RpcMetrics
from lensmith_platform.platform import Platform
from lensmith_platform.readiness import Readiness
from lensmith_platform.settings import FRAMING_BYTES, ServiceSettings

if TYPE_CHECKING:
    from lensmith_platform.server import Service

_METADATA_BYTES = 64 * 1024


class StartError(Exception):
    """The service cannot be served; the message is one sentence for the person who starts it."""


@runtime_checkable
class Reflecting(Protocol):
    """A service that tells by reflection of more than it serves itself: the gateway, for the whole platform."""

    @property
    def reflected_names(self) -> Sequence[str]:
        """Full names of the gRPC services to tell of; their generated modules must be imported."""
        ...


class _Registrations(grpc.aio.Server):
    """Notes what a service registers, before it is handed to the real server."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.services: set[str] = set()

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        handlers = tuple(generic_rpc_handlers)
        for handler in handlers:
            if isinstance(handler, grpc.ServiceRpcHandler):
                self.services.add(handler.service_name())
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        self.services.add(service_name)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        return await self._server.wait_for_termination(timeout)


class Listener:
    """Serves a service: access checked against its contract, health and reflection added."""

    def __init__(self, platform: Platform[ServiceSettings], service: "Service", readiness: Readiness) -> None:
        """Register everything.

        Raises:
            StartError: an RPC declares no access, or the service registers other servicers than it names.
        """
        self._settings = platform.settings
        try:
            methods = access_table(service.service_names)
        except AccessError as error:
            raise StartError(f"the service {service.name} cannot start: {error}") from error
        links = standard_links(
            tracer=platform.tracer,
            metrics=RpcMetrics(platform.registry),
            default_deadline_seconds=self._settings.default_deadline_seconds,
            authenticator=platform.authenticator,
        )
        limit = self._settings.max_message_bytes + FRAMING_BYTES
        self._server = grpc.aio.server(
            interceptors=(Chain(links, methods, _builtin),),
            options=(
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                # What Envoy lets in, long query strings among it, is answered here, with a reason.
                ("grpc.max_metadata_size", _METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
                # Two processes on one port would each get half of the calls: refuse instead.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        registered = _Registrations(self._server)
        service.add_to(registered)
        if registered.services != set(service.service_names):
            raise StartError(
                f"the service {service.name} names {sorted(service.service_names)} "
                f"but registers {sorted(registered.services)}"
            )
        health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, self._server)
        told = service.reflected_names if isinstance(service, Reflecting) else service.service_names
        reflection.enable_server_reflection((*told, HEALTH, reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Listen.

        Returns:
            The gRPC target: the setting, with the port that was chosen.

        Raises:
            StartError: the port or socket cannot be had.
        """
        listen = self._settings.listen
        try:
            if listen.startswith("unix:"):
                _listen_on_socket(self._server, Path(listen.removeprefix("unix:")))
                target = listen
            else:
                host, _, _ = listen.rpartition(":")
                target = f"{host}:{self._server.add_insecure_port(listen)}"
            await self._server.start()
        except (RuntimeError, OSError) as error:
            raise StartError(f"cannot listen on {listen}: {error}") from error
        return target

    async def stop(self, grace: float) -> None:
        """Refuse new calls and wait for those in flight."""
        await self._server.stop(grace)


def _builtin(path: str) -> Method | None:
    service = path.removeprefix("/").partition("/")[0]
    return builtin_method(path) if service in BUILTIN_SERVICES else None


def _listen_on_socket(server: grpc.aio.Server, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise StartError(f"cannot listen on {path}: a file of that name is there, which is no socket")
        if _answers(path):
            raise StartError(f"cannot listen on {path}: another process serves there")
        # What a killed process left behind.
        path.unlink()
    # The socket must never be open to other users, not even for a moment.
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(mask)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
