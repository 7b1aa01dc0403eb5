"""The real Envoy with the generated configuration, in front of small real servers."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from lensmith_gateway.contract import load_contract
from lensmith_gateway.envoy_config import READY_PATH, envoy_yaml
from lensmith_gateway.envoy_settings import Address, EnvoySettings
from lensmith_stack.ports import free_ports
from lensmith_stack.programs import script
from tests.contract.backends import MAX_MESSAGE, Backends, Received, running_backends

ORIGIN = "https://console.example"


@dataclass(frozen=True)
class Edge:
    """A running Envoy."""

    port: int
    backends: Backends

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def received(self) -> Received:
        return self.backends.received


@pytest.fixture(scope="session")
def edge() -> Iterator[Edge]:
    """Envoy in front of every backend; nobody answers where the gateway's HTTP should be."""
    with tempfile.TemporaryDirectory(prefix="lensmith-") as scratch:
        directory = Path(scratch)
        (port,) = free_ports(1)
        with running_backends(directory) as backends:
            settings = EnvoySettings(
                public=Address("127.0.0.1", port),
                targets={owner: Address(socket=str(path)) for owner, path in backends.sockets.items()},
                gateway_http=Address(socket=str(directory / "nobody.sock")),
                admin=Address(socket=str(directory / "admin.sock")),
                cors_origins=[ORIGIN],
                access_log="json",
            )
            with running_envoy(envoy_yaml(load_contract(), settings), directory, port):
                yield Edge(port, backends)
                # A script that fails lets the request through.
                assert "script log" not in (directory / "envoy.log").read_text()


@contextmanager
def running_envoy(config: str, directory: Path, port: int) -> Iterator[None]:
    """Run the real Envoy until the block ends."""
    (directory / "envoy.yaml").write_text(config)
    log = directory / "envoy.log"
    command = [str(script("envoy")), "-c", str(directory / "envoy.yaml")]
    command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 30
            while not _is_ready(port):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.02)
            yield
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{READY_PATH}").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def rest(edge: Edge) -> Iterator[httpx.Client]:
    """A REST client."""
    with httpx.Client(base_url=edge.url, timeout=60) as client:
        yield client


@pytest.fixture
def channel(edge: Edge) -> Iterator[grpc.Channel]:
    """A gRPC client's channel through the same port."""
    options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
    with grpc.insecure_channel(f"127.0.0.1:{edge.port}", options=options) as channel:
        yield channel
