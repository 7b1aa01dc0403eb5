"""How the platform is, in one answer: every service asked side by side."""

import asyncio
from collections.abc import Iterable

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lensmith_platform.clients import ServiceClients
from lensmith_platform.errors import LensmithError

_KEEP_SECONDS = 1.0
SERVING = "SERVING"


class PlatformHealth:
    """Asks the services how they are; at most once a second, whoever asks.

    Args:
        clients: channels to them.
        services: their names.
        seconds: how long one may take to answer.
    """

    def __init__(self, clients: ServiceClients, services: Iterable[str], seconds: float) -> None:
        self._clients = clients
        self._services = sorted(services)
        self._seconds = seconds
        self._known: dict[str, str] = {}
        self._asked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def check(self) -> dict[str, str]:
        """State by service: `SERVING`, `NOT_SERVING` or `UNREACHABLE`."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._asked_at > _KEEP_SECONDS:
                states = await asyncio.gather(*(self._ask(name) for name in self._services))
                self._known = dict(zip(self._services, states, strict=True))
                self._asked_at = loop.time()
            return dict(self._known)

    async def get(self, _: Request) -> Response:
        """Answer `GET /healthz`: 200 when every service can serve, 503 when one cannot."""
        services = await self.check()
        well = all(state == SERVING for state in services.values())
        body = {"status": SERVING if well else "NOT_SERVING", "services": {"gateway": SERVING, **services}}
        return JSONResponse(body, 200 if well else 503, headers={"Cache-Control": "no-store"})

    async def _ask(self, name: str) -> str:
        check = self._clients.channel(name).unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            answer = await check(HealthCheckRequest(), timeout=self._seconds)
        except (grpc.RpcError, LensmithError):
            return "UNREACHABLE"
        return HealthCheckResponse.ServingStatus.Name(answer.status)
