"""A service starts whole or not at all, says when it is ready, and leaves without losing a call."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lensmith_api.internal.v1 import key_resolver_service_pb2, key_resolver_service_pb2_grpc
from lensmith_platform.errors import DependencyUnavailableError
from lensmith_platform.server import StartError

ECHO = "lensmith.test.v1.EchoService"

PROGRAM = '''
import asyncio, sys
from lensmith_api.internal.v1 import key_resolver_service_pb2 as messages
from lensmith_api.internal.v1 import key_resolver_service_pb2_grpc as rpcs
from lensmith_platform.server import main
from lensmith_platform.settings import ServiceSettings, SettingsConfigDict


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LENSMITH_AUTH_")
    fail: bool = False
    """Whether the background work fails."""


class Resolver(rpcs.KeyResolverServiceServicer):
    async def ResolveApp(self, request, context):
        print("CALLED", flush=True)
        await asyncio.sleep(1)
        return messages.AppIdentity(app=request.app)


class Service:
    name = "auth"
    service_names = ["lensmith.internal.v1.KeyResolverService"]

    def __init__(self, settings):
        self.settings = settings

    def add_to(self, server):
        rpcs.add_KeyResolverServiceServicer_to_server(Resolver(), server)

    async def ready(self):
        pass

    async def run(self):
        if self.settings.fail:
            raise RuntimeError("the work is broken")
        await asyncio.Event().wait()

    async def close(self):
        print("CLOSED", flush=True)


async def build(platform):
    return Service(platform.settings)


sys.exit(main(Settings, build))
'''


@pytest.fixture
async def start(world):
    """Starts the program above as a process of its own."""
    started = []

    async def run(**settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LENSMITH_AUTH_")}
        environment |= {
            "LENSMITH_AUTH_SERVICE_KEY_FILE": str(world.folder / "private" / "auth.pem"),
            "LENSMITH_AUTH_SERVICE_KEYS_DIR": str(world.folder / "public"),
        }
        environment |= {f"LENSMITH_AUTH_{name.upper()}": value for name, value in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process, text):
    """Read the process's output up to a line that holds a text."""
    while line := (await process.stdout.readline()).decode():
        if text in line:
            return line
    raise AssertionError(f"the process ended without {text}: {(await process.stderr.read()).decode()}")


async def test_call_in_flight_is_answered_when_sigterm_arrives(world, start):
    process = await start()
    target = json.loads(await line_with(process, '"serving"'))["target"]
    clients = world.clients("dataset", auth=target)
    stub = key_resolver_service_pb2_grpc.KeyResolverServiceStub(clients.channel("auth"))
    call = asyncio.ensure_future(stub.ResolveApp(key_resolver_service_pb2.ResolveAppRequest(app="slow")))
    try:
        await line_with(process, "CALLED")
        process.send_signal(signal.SIGTERM)
        await line_with(process, '"stopping"')
        assert (await call).app == "slow"
        line = json.loads(await line_with(process, '"event": "rpc"'))
        assert {"request_id", "trace_id", "ms", "timestamp"} <= line.keys()
        assert (line["service"], line["principal"], line["code"]) == ("auth", "services/dataset", "OK")
        await line_with(process, "CLOSED")
        assert await process.wait() == 0
        with pytest.raises(DependencyUnavailableError):
            await stub.ResolveApp(key_resolver_service_pb2.ResolveAppRequest(app="late"))
    finally:
        await clients.close()
    assert (await process.stderr.read()).decode() == ""


async def test_process_fails_when_its_background_work_does(start):
    process = await start(fail="true")
    line = json.loads(await line_with(process, "background work failed"))
    assert "the work is broken" in line["exception"]
    assert await process.wait() == 1


async def test_one_sentence_is_told_when_the_settings_are_wrong(start):
    process = await start(listn="x")
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told.decode() == "LENSMITH_AUTH_LISTN is not a setting; did you mean LENSMITH_AUTH_LISTEN?\n"


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
async def test_address_is_told_when_it_is_taken(world, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError, match=address):
            async with world.echo(**{setting: address}):
                pass


async def test_port_is_refused_when_another_service_serves_there(world):
    async with world.echo():
        with pytest.raises(StartError, match="cannot listen"):
            async with world.echo(listen=world.target):
                pass


async def test_socket_is_open_to_its_owner_only_when_served_on_a_path(world, keys):
    keys.add("secret", world.trash)
    path = world.folder / "run" / "inference.sock"
    async with world.echo(listen=f"unix:{path}") as channel:
        assert await world.call(channel, "UnaryUnary", key="secret")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        with pytest.raises(StartError, match="another process serves there"):
            async with world.echo(listen=f"unix:{path}"):
                pass
        assert await world.call(channel, "UnaryUnary", key="secret")


async def test_socket_is_taken_over_when_a_killed_process_left_it(world, keys):
    keys.add("secret", world.trash)
    path = world.folder / "inference.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with world.echo(listen=f"unix:{path}") as channel:
        assert await world.call(channel, "UnaryUnary", key="secret")


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of somebody else's."""
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


async def test_file_is_kept_when_the_path_of_the_socket_is_a_file(world, precious):
    with pytest.raises(StartError, match="no socket"):
        async with world.echo(listen=f"unix:{precious}"):
            pass
    assert precious.stat().st_size == len("precious")


async def test_health_follows_the_service_when_it_becomes_ready_and_loses_it(world, any_service, echo_parts):
    async def nothing(request):
        pass

    handler = echo_parts(nothing)[1]
    service = any_service("inference", [ECHO], lambda server: server.add_generic_rpc_handlers((handler,)))
    service.ready_error = DependencyUnavailableError("MODEL_MISSING", "no model yet")
    serving = health_pb2.HealthCheckResponse.SERVING
    async with (
        world.serve(service, ready_interval_seconds=0.05) as served,
        grpc.aio.insecure_channel(served.target) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=ECHO))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        service.ready_error = None
        assert (await watch.read()).status == serving
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == serving
        service.ready_error = ValueError("lost")
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
    assert service.closed


async def test_probes_answer_over_http_when_asked(world, probe, until):
    async with world.echo():
        assert await probe("/healthz") == (200, "ok\n")

        async def ready():
            return (await probe("/readyz"))[0] == 200

        await until(ready)
        assert (await probe("/metrics"))[0] == 200
        assert (await probe("/other"))[0] == 404
        reader, writer = await asyncio.open_connection(*world.metrics_address.split(":"))
        writer.write(b"\x00" * 10_000 + b"\r\n\r\n")
        await writer.drain()
        # The server may close before it has read everything.
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert (await probe("/healthz"))[0] == 200
