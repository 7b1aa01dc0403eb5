"""The embedded servers: their credentials are required and their data outlives them."""

import asyncio
import io
import json
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import nats
import pytest
import urllib3
from minio import Minio
from minio.error import S3Error

from lensmith_stack.background import BackgroundServers
from lensmith_stack.errors import DirectoryUnusableError
from lensmith_stack.files import make_private_directory
from lensmith_stack.ports import reserve_ports
from lensmith_stack.s3 import TWIN_PORTS
from lensmith_stack.servers import SERVER_PORTS, Outside, Servers
from lensmith_stack.supervisor import PartState, Supervisor
from tests.conftest import Bucket, Database


class Stack:
    """Servers under a supervisor on the test's own loop."""

    def __init__(self, directory: Path, *, fast: bool = True) -> None:
        self._held = ExitStack()
        ports = self._held.enter_context(reserve_ports(directory / "ports.json", SERVER_PORTS, TWIN_PORTS))
        self.servers = Servers(directory, directory.parent.name, ports, fast=fast)
        self.supervisor = Supervisor(make_private_directory(directory / "logs"), directory / "children.json")

    async def start(self) -> None:
        await self.supervisor.start(*await self.servers.programs())

    async def stop(self) -> None:
        await self.supervisor.stop()
        self._held.close()

    async def kill_and_wait(self, name: str) -> None:
        part = next(part for part in self.supervisor.parts if part.program.name == name)
        restarts = part.restarts
        assert part.child is not None
        os.kill(part.child.pid, signal.SIGKILL)
        await until(lambda: part.restarts > restarts and part.state is PartState.RUNNING)


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def stack(directory: Path) -> AsyncIterator[Stack]:
    stack = Stack(directory)
    try:
        await stack.start()
        yield stack
    finally:
        await stack.stop()


@contextmanager
def _client(stack: Stack) -> Iterator[Minio]:
    s3 = stack.servers.s3
    with urllib3.PoolManager() as pool:
        yield Minio(s3.endpoint, "lensmith", s3.secret_key, secure=False, http_client=pool, region="us-east-1")


async def test_everything_acknowledged_is_there_when_each_server_was_killed(stack: Stack) -> None:
    await stack.servers.ensure_database()
    await stack.servers.ensure_bucket("pictures")
    database = await asyncpg.connect(stack.servers.admin_url())
    await database.execute("CREATE TABLE kept (id int PRIMARY KEY)")
    await database.execute("INSERT INTO kept SELECT generate_series(1, 100)")
    client = await nats.connect(stack.servers.nats_url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept.*"])
    for number in range(100):
        await client.jetstream().publish("kept.one", str(number).encode())
    await asyncio.to_thread(_put_objects, stack, 50)
    addresses = [part.program.address for part in stack.supervisor.parts]

    for name in ("postgres", "nats", "s3"):
        await stack.kill_and_wait(name)

    assert [part.program.address for part in stack.supervisor.parts] == addresses
    database.terminate()
    database = await asyncpg.connect(stack.servers.admin_url())
    assert await database.fetchval("SELECT count(*) FROM kept") == 100
    await database.close()
    await until(lambda: client.is_connected)
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 100
    await client.close()
    assert await asyncio.to_thread(_count_objects, stack) == 50


async def test_data_is_there_when_the_servers_moved_to_other_ports(directory: Path) -> None:
    first = Stack(directory, fast=False)
    await first.start()
    await first.servers.ensure_bucket("pictures")
    await first.servers.ensure_database("moved")
    await asyncio.to_thread(_put_objects, first, 5)
    await first.stop()

    with socket.create_server(("127.0.0.1", first.servers.s3.ports["s3"])):
        second = Stack(directory, fast=False)
    await second.start()
    try:
        assert second.servers.s3.endpoint != first.servers.s3.endpoint
        assert await asyncio.to_thread(_count_objects, second) == 5
        await asyncio.to_thread(_put_objects, second, 10)
        assert await asyncio.to_thread(_count_objects, second) == 10
        await (await asyncpg.connect(second.servers.admin_url("moved"))).close()
    finally:
        await second.stop()


async def test_postgres_refuses_when_the_password_is_wrong_or_missing(servers: BackgroundServers) -> None:
    place = servers.servers.postgres
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(place.url("postgres", password="wrong"))
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InterfaceError)):
        await asyncpg.connect(host="127.0.0.1", port=place.port, user="postgres", database="postgres", password="")


@pytest.mark.parametrize("login", [{}, {"user": "lensmith", "pass": "wrong"}, {"user": "sys", "pass": ""}])
async def test_nats_refuses_when_the_password_is_wrong_or_missing(
    servers: BackgroundServers, login: dict[str, str]
) -> None:
    # By hand: the client library leaves its socket open when it is refused.
    reader, writer = await asyncio.open_connection("127.0.0.1", servers.servers.nats.port)
    try:
        await reader.readline()
        writer.write(f"CONNECT {json.dumps({'verbose': False, **login})}\r\nPING\r\n".encode())
        assert b"Authorization Violation" in await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_s3_refuses_when_the_caller_is_anonymous_or_wrong(servers: BackgroundServers, s3: Bucket) -> None:
    place = servers.servers.s3
    with urllib3.PoolManager(retries=False) as pool:
        client = Minio(place.endpoint, "lensmith", "wrong", secure=False, http_client=pool, region="us-east-1")
        with pytest.raises(S3Error) as refused:
            await asyncio.to_thread(client.list_buckets)
        assert refused.value.code in ("SignatureDoesNotMatch", "AccessDenied")
        assert pool.request("GET", f"http://{place.endpoint}/{s3.name}").status == 403
        assert pool.request("PUT", f"http://{place.endpoint}/{s3.name}/x", body=b"x").status == 403


async def test_inner_parts_of_s3_refuse_when_the_caller_has_no_token(servers: BackgroundServers) -> None:
    place = servers.servers.s3
    with urllib3.PoolManager(retries=False) as pool:
        filer = f"http://127.0.0.1:{place.ports['s3_filer']}"
        assert pool.request("GET", f"{filer}/buckets/").status in (401, 403)
        assert pool.request("PUT", f"{filer}/buckets/x", body=b"x").status in (401, 403)


@pytest.mark.usefixtures("stack")
def test_nobody_else_can_look_in_when_the_servers_run(directory: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *sorted(directory.iterdir()))}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o007} == {}
    for path in (directory / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_nothing_is_started_when_all_servers_are_outside_ones(
    servers: BackgroundServers, database: Database, s3: Bucket, directory: Path
) -> None:
    outside = Outside(database.admin_url, servers.servers.nats_url, s3.url)
    place = Servers(directory, "outside", dict.fromkeys(SERVER_PORTS, 0), outside)
    assert await place.programs() == []
    assert (place.nats_url, place.s3_url()) == (outside.nats_url, outside.s3_url)
    await place.ensure_bucket()
    await place.ensure_database(database.name)
    again = Servers(make_private_directory(directory / "other"), "other", dict.fromkeys(SERVER_PORTS, 0), outside)
    assert again.role_url("lensmith_auth") == place.role_url("lensmith_auth"), "users of one server agree"
    assert "lensmith_auth_worker:" in place.role_url("lensmith_auth_worker", "x")


async def test_start_says_so_when_the_databases_password_is_lost(directory: Path) -> None:
    first = Stack(directory)
    await first.start()
    await first.stop()
    (directory / "secrets" / "postgres").unlink()
    second = Stack(directory)
    with pytest.raises(DirectoryUnusableError, match="put it back"):
        await second.start()
    await second.stop()


def _put_objects(stack: Stack, count: int) -> None:
    with _client(stack) as client:
        for number in range(count):
            client.put_object("pictures", f"{number}.bin", io.BytesIO(bytes([number]) * 4096), 4096)


def _count_objects(stack: Stack) -> int:
    """How many objects come out whole."""
    whole = 0
    with _client(stack) as client:
        for item in client.list_objects("pictures"):
            response = client.get_object("pictures", str(item.object_name))
            whole += len(response.read()) == 4096
            response.close()
            response.release_conn()
    return whole
