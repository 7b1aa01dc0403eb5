"""The six services as child processes: what each is told by its environment."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2

from lensmith_platform.service_auth import make_key_pair
from lensmith_stack.files import make_private_directory
from lensmith_stack.ports import LOOPBACK
from lensmith_stack.process import Program
from lensmith_stack.servers import OWNERS, Servers

SERVICES = ("auth", "dataset", "registry", "inference", "trainer", "gateway")

SERVICE_PORTS = (*(f"metrics_{name}" for name in SERVICES), "gateway_http")
"""What the services need a port for."""

_GRACE_SECONDS = 10.0
_STORES_BYTES = ("dataset", "registry", "gateway")
_CACHES_FILES = ("inference", "trainer")


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses, keys and environment of the services.

    Attributes:
        servers: what they stand on.
        sockets: directory of the unix sockets on which they answer gRPC.
        keys: directory of their signing keys.
        caches: directory of files that may be deleted while nothing runs.
        ports: a port for each of `SERVICE_PORTS`.
        operator_key_file: the first operator's key, which auth takes over at its first start.
    """

    servers: Servers
    sockets: Path
    keys: Path
    caches: Path
    ports: Mapping[str, int]
    operator_key_file: Path

    def address(self, service: str) -> str:
        """GRPC target of a service."""
        return f"unix:{self.sockets / service}.sock"

    @property
    def gateway_http(self) -> str:
        """Where the gateway answers plain HTTP."""
        return f"{LOOPBACK}:{self.ports['gateway_http']}"

    def programs(self) -> list[Program]:
        """Every service, with its keys made."""
        for service in SERVICES:
            make_key_pair(service, self._key_file(service), self._public_keys)
        return [self._program(service) for service in SERVICES]

    def environment(self, service: str) -> dict[str, str]:
        """The settings of one service; the only place that knows how they are named."""
        settings = {
            "LISTEN": self.address(service),
            "METRICS_LISTEN": f"{LOOPBACK}:{self.ports[f'metrics_{service}']}",
            "NATS_URL": self.servers.nats_url,
            "SERVICE_KEY_FILE": str(self._key_file(service)),
            "SERVICE_KEYS_DIR": str(self._public_keys),
            # Somebody waits at the terminal: a stream that would go on for ever ends sooner than in a cluster.
            "GRACE_SECONDS": str(_GRACE_SECONDS),
            **{f"ADDRESSES__{other.upper()}": self.address(other) for other in SERVICES if other != service},
        }
        if service in OWNERS:
            settings["POSTGRES_URL"] = self.servers.role_url(f"lensmith_{service}")
            settings["WORKER_POSTGRES_URL"] = self.servers.role_url(f"lensmith_{service}_worker")
        if service in _STORES_BYTES:
            settings["S3_URL"] = self.servers.s3_url()
        if service in _CACHES_FILES:
            settings["CACHE_DIR"] = str(make_private_directory(self.caches / service))
        if service == "auth":
            settings["BOOTSTRAP_KEY_FILE"] = str(self.operator_key_file)
        if service == "gateway":
            settings["HTTP_LISTEN"] = self.gateway_http
        return {f"LENSMITH_{service.upper()}_{name}": value for name, value in settings.items()}

    @property
    def _public_keys(self) -> Path:
        return self.keys / "public"

    def _key_file(self, service: str) -> Path:
        return make_private_directory(self.keys / "private") / f"{service}.pem"

    def _program(self, service: str) -> Program:
        socket = self.sockets / f"{service}.sock"

        async def ready() -> bool:
            return socket.exists() and await _is_serving(self.address(service))

        return Program(
            name=service,
            argv=(sys.executable, "-m", f"lensmith_{service}"),
            ready=ready,
            env={**python_environment(), **self.environment(service)},
            cwd=self.sockets,
            address=self.address(service),
            # Longer than what the services give their calls in flight.
            grace=_GRACE_SECONDS + 5.0,
        )


def python_environment() -> dict[str, str]:
    """What every Python child gets: the caller's environment, unbuffered logs, and fewer memory arenas."""
    return {"MALLOC_ARENA_MAX": "2", **os.environ, "PYTHONUNBUFFERED": "1"}


async def _is_serving(address: str) -> bool:
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
