"""Fixtures for every test: real servers, once per process; a database, a bucket and empty streams for each test.

Embedded servers by default; ``LENSMITH_POSTGRES_URL``, ``LENSMITH_NATS_URL`` and ``LENSMITH_S3_URL`` name others, which
must be for tests only: every stream on that NATS server is deleted after each test.
"""

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
import urllib3
from minio import Minio
from threadpoolctl import threadpool_limits

from lensmith_platform.db.roles import bootstrap
from lensmith_stack.background import BackgroundServers, background_servers
from lensmith_stack.servers import MIGRATE_ROLE, Outside, Servers
from tests.platform_process import PlatformProcess, platform_process


@dataclass(frozen=True)
class Database:
    """A migrated database of one test."""

    name: str
    servers: Servers

    @property
    def admin_url(self) -> str:
        """Superuser, whom row-level security does not bind: for arranging and inspecting only."""
        return self.servers.admin_url(self.name)

    @property
    def migrate_url(self) -> str:
        """Owner of the schemas and tables."""
        return self.servers.role_url(MIGRATE_ROLE, self.name)

    def url(self, service: str, *, worker: bool = False) -> str:
        """Login of a service (`auth`, `dataset`, `registry`) or of its workers."""
        return self.servers.role_url(f"lensmith_{service}{'_worker' if worker else ''}", self.name)


@dataclass(frozen=True)
class Bucket:
    """An empty S3 bucket of one test, with a client that may read and write it."""

    name: str
    url: str
    client: Minio


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_blas() -> Iterator[None]:
    """Keep matrix products of this process to one thread: beside other workers, threads mostly wait for each other.

    Processes that tests start, the platform among them, choose for themselves.
    """
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def servers() -> Iterator[BackgroundServers]:
    """Postgres, NATS and S3, running."""
    with background_servers(Outside.from_env()) as running:
        yield running


@pytest.fixture(scope="session")
def template_database(servers: BackgroundServers) -> Iterator[str]:
    """Name of a migrated database that tests copy."""
    name = f"lensmith_template_{uuid.uuid4().hex[:12]}"
    place = servers.servers
    servers.run(place.ensure_database(name))
    servers.run(bootstrap(place.admin_url(name), place.passwords()))
    migration = subprocess.run(
        [sys.executable, "-m", "lensmith_platform.db.migrate"],
        env={**os.environ, "LENSMITH_MIGRATE_POSTGRES_URL": place.role_url(MIGRATE_ROLE, name)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert migration.returncode == 0, migration.stdout + migration.stderr
    yield name
    servers.run(_drop_database(place, name))


@pytest.fixture
def database(servers: BackgroundServers, template_database: str) -> Iterator[Database]:
    """A fresh migrated database."""
    name = f"lensmith_test_{uuid.uuid4().hex[:12]}"
    # By files: through the log, page by page, a copy takes several times the processor time.
    copy = f'CREATE DATABASE "{name}" TEMPLATE "{template_database}" STRATEGY FILE_COPY'
    servers.run(_administer(servers.servers, copy))
    yield Database(name, servers.servers)
    servers.run(_drop_database(servers.servers, name))


@pytest.fixture
def nats_url(servers: BackgroundServers) -> Iterator[str]:
    """A NATS server without streams."""
    yield servers.servers.nats_url
    servers.run(_delete_streams(servers.servers.nats_url))


@pytest.fixture
def s3(servers: BackgroundServers) -> Iterator[Bucket]:
    """An empty bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    servers.run(servers.servers.ensure_bucket(name))
    url = servers.servers.s3_url(name)
    parts = urlsplit(url)
    with urllib3.PoolManager() as pool:
        endpoint = parts.netloc.rpartition("@")[2]
        secure = parts.scheme == "https"
        client = Minio(endpoint, parts.username, parts.password, secure=secure, http_client=pool, region="us-east-1")
        yield Bucket(name, url, client)
    servers.run(servers.servers.remove_bucket(name))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The given photographs and networks (``LENSMITH_SHARED``); skips where they are not."""
    path = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[2] / "shared")).resolve()
    if not (path / "datasets").is_dir():
        pytest.skip(f"NO SHARED DATA at {path}: set LENSMITH_SHARED to run the tests on real photographs")
    return path


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """The whole platform, running. It stands here, not beside its tests: imported, a fixture is made once more."""
    with platform_process(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="session")
def shaken_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """Another one for tests that kill its parts and load it; each leaves it healthy."""
    # A trainer that was killed keeps its version for as long as its lease: short, so that the test is.
    settings = {"LENSMITH_REGISTRY_LEASE_SECONDS": "6", "LENSMITH_REGISTRY_RECONCILE_SECONDS": "2"}
    with platform_process(tmp_path_factory.mktemp("shaken"), **settings) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_unhandled_exceptions() -> Iterator[None]:
    """Fail a test in which an event loop met an exception that nobody handled."""
    unhandled: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told = self.format(record)
            # gRPC polls for all loops of the process at once: what ends after its test's loop was closed is told to
            # the loop of the next test. Nobody waits for it any more.
            late = "PollerCompletionQueue._handle_events" in told and "Event loop is closed" in told
            # asyncpg leaves a future behind when a connection is given up while it is being opened.
            given_up = "unexpected connection_lost() call" in told
            if not (late or given_up):
                unhandled.append(told)

    # Every event loop reports there what nobody retrieves: tasks, callbacks, destroyed pending tasks.
    handler = Keep(level=logging.ERROR)
    logging.getLogger("asyncio").addHandler(handler)
    yield
    logging.getLogger("asyncio").removeHandler(handler)
    if unhandled:
        pytest.fail("unhandled in an event loop:\n" + "\n".join(unhandled))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured (`record_property("measured", …)`): recovery times and rates, which nobody asserts."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)


async def _administer(place: Servers, statement: str) -> None:
    connection = await asyncpg.connect(place.admin_url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _drop_database(place: Servers, name: str) -> None:
    await _administer(place, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _delete_streams(url: str) -> None:
    client = await nats.connect(url, allow_reconnect=False)
    try:
        manager = client.jetstream()
        for stream in await manager.streams_info():
            await manager.delete_stream(str(stream.config.name))
    finally:
        await client.close()
