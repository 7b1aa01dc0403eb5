"""The internal HTTP port: `/metrics` for Prometheus, `/healthz` for liveness, `/readyz` for readiness.

Served by the same event loop as the RPCs: a loop that hangs fails its liveness probe.
"""

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

_SECONDS = 5.0
_MAX_LINE = 4096
_TEXT = "text/plain; charset=utf-8"


class Probes:
    """Answers GET on three paths and nothing else."""

    def __init__(self, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        """Serve these metrics and this readiness."""
        self._registry = registry
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> str:
        """Listen.

        Args:
            listen: `host:port`; port 0 takes any free one.

        Returns:
            `host:port` as it is now.

        Raises:
            OSError: the port is taken.
        """
        host, _, port = listen.rpartition(":")
        self._server = await asyncio.start_server(self._serve, host.strip("[]"), int(port), limit=_MAX_LINE)
        address = self._server.sockets[0].getsockname()
        return f"{host}:{address[1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                line = (await reader.readline()).decode("latin-1").split(" ")
                while (await reader.readline()).strip():
                    pass
                status, kind, body = self._answer(line[0], line[1] if len(line) > 1 else "")
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                )
                writer.write(head.encode() + body)
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            # A probe that speaks no HTTP, or left: nothing to tell it.
            pass
        finally:
            writer.close()

    def _answer(self, verb: str, path: str) -> tuple[str, str, bytes]:
        if verb != "GET":
            return "405 Method Not Allowed", _TEXT, b"only GET\n"
        match path.partition("?")[0]:
            case "/metrics":
                return "200 OK", CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)
            case "/healthz":
                return "200 OK", _TEXT, b"ok\n"
            case "/readyz":
                ready = self._is_ready()
                return ("200 OK", _TEXT, b"ready\n") if ready else ("503 Service Unavailable", _TEXT, b"not ready\n")
        return "404 Not Found", _TEXT, b"there are /metrics, /healthz and /readyz\n"
