"""The gateway's plain HTTP: Starlette on uvicorn, in the event loop that also serves gRPC."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lensmith_gateway.http_errors import TOLD_KEY
from lensmith_platform.listener import StartError
from lensmith_platform.telemetry import REQUEST_ID_KEY, TRACEPARENT_KEY, continue_trace, request_id_from, set_trace

ROUTE_KEY = "lensmith.route"
"""Where a route notes its template in the scope, for logs and metrics."""
PRINCIPAL_KEY = "lensmith.principal"
"""Where it notes who called."""

_log = structlog.get_logger("lensmith.access")
# Longer than Envoy keeps an idle connection, so that it never sends on one that is just being closed.
_KEEP_ALIVE_SECONDS = 90


class RequestLog:
    """Outermost layer: request id, trace context, one log line and one measurement per request."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._seconds = Histogram(
            "lensmith_http_seconds",
            "Time to answer a plain HTTP request.",
            ["route", "status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = request_id_from(headers.get(REQUEST_ID_KEY))
        set_trace(continue_trace(headers.get(TRACEPARENT_KEY), request_id))
        started, status = asyncio.get_running_loop().time(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except Exception:
            # Starlette raises again what it has answered.
            if TOLD_KEY not in scope:
                raise
        finally:
            seconds = asyncio.get_running_loop().time() - started
            # The template, never the path: image links are secrets.
            route = str(scope.get(ROUTE_KEY, "none"))
            self._seconds.labels(route, str(status)).observe(seconds)
            _log.info(
                "http",
                method=f"{scope['method']} {route}",
                code=status,
                ms=round(seconds * 1000, 2),
                principal=scope.get(PRINCIPAL_KEY, "anonymous"),
            )


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The platform's server takes the signals, for gRPC and HTTP together.
        yield


class HttpServer:
    """Serves an ASGI app on a port or socket.

    Args:
        app: what answers.
        listen: `host:port` or `unix:/path`.
        grace_seconds: how long requests in flight may take to end.
    """

    def __init__(self, app: ASGIApp, listen: str, grace_seconds: float) -> None:
        self._listen = listen
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(grace_seconds)),
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen.

        Returns:
            The address, with the port that was chosen.

        Raises:
            StartError: the port or socket cannot be had.
        """
        try:
            opened = _open_socket(self._listen)
        except (OSError, ValueError) as error:
            raise StartError(f"cannot serve HTTP on {self._listen}: {error}") from error
        address = self._listen
        if opened.family != socket.AF_UNIX:
            host, port = opened.getsockname()[:2]
            address = f"{host}:{port}"
        self._task = asyncio.create_task(self._server.serve(sockets=[opened]), name="http")
        return address

    async def serve(self) -> None:
        """Wait until the server ends or fails."""
        if self._task:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Take no new requests and wait for those in flight."""
        if self._task:
            self._server.should_exit = True
            await self._task
            self._task = None


def _open_socket(listen: str) -> socket.socket:
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        opened = socket.socket(socket.AF_UNIX)
        # The socket must never be open to other users, not even for a moment.
        mask = os.umask(0o177)
        try:
            opened.bind(str(path))
        finally:
            os.umask(mask)
        return opened
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((host.strip("[]"), int(port)))
    return opened
