"""The whole platform on one machine: which part starts after which."""

import asyncio
import errno
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil

from lensmith_platform.db.roles import bootstrap
from lensmith_stack.directory import DataDirectory, default_directory, open_directory
from lensmith_stack.envoy import Envoy
from lensmith_stack.errors import PortTakenError, StackError
from lensmith_stack.files import make_private_directory, write_private
from lensmith_stack.ports import reserve_ports
from lensmith_stack.process import rotate_log, run_once
from lensmith_stack.s3 import TWIN_PORTS
from lensmith_stack.servers import MIGRATE_ROLE, SERVER_PORTS, Outside, Servers
from lensmith_stack.services import SERVICE_PORTS, SERVICES, Services, python_environment
from lensmith_stack.state import Phase, write_state
from lensmith_stack.supervisor import Supervisor, reap_leftovers

_LOGGER = logging.getLogger("lensmith_stack")

Say = Callable[[str], None]
"""Shows a line to the person at the terminal."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """How `lensmith up` was asked to run.

    Attributes:
        data_dir: kept over restarts.
        host: address of the public port.
        port: the public port.
        cors_origins: origins whose pages may call from a browser; ``*`` is everybody's, none switches CORS off.
        outside: servers that somebody else runs.
    """

    data_dir: Path = field(default_factory=default_directory)
    host: str = "127.0.0.1"
    port: int = 8080
    cors_origins: tuple[str, ...] = ()
    outside: Outside = field(default_factory=Outside.from_env)

    @property
    def url(self) -> str:
        """Public address of the platform."""
        return f"http://{'localhost' if self.host in ('0.0.0.0', '127.0.0.1') else self.host}:{self.port}"  # noqa: S104


class Platform:
    """A platform on one data directory, from start to stop.

    Args:
        options: what was asked for.
        directory: opened and held.
        ports: a port for each of `SERVER_PORTS` and `SERVICE_PORTS`.
        sockets: closed directory for unix sockets.
        say: shows progress.
    """

    def __init__(
        self, options: UpOptions, directory: DataDirectory, ports: Mapping[str, int], sockets: Path, say: Say
    ) -> None:
        self._options = options
        self._directory = directory
        self._say = say
        self._phase = Phase.STARTING
        self._servers = Servers(directory.path, directory.instance, ports, options.outside)
        self._services = Services(
            servers=self._servers,
            sockets=sockets,
            keys=make_private_directory(directory.secrets / "keys"),
            caches=make_private_directory(directory.path / "cache"),
            ports=ports,
            operator_key_file=directory.operator_key_file,
        )
        self._envoy = Envoy(
            directory=directory.path / "envoy",
            admin_socket=sockets / "envoy-admin.sock",
            host=options.host,
            port=options.port,
            targets={name: self._services.address(name) for name in SERVICES if name != "trainer"},
            gateway_http=self._services.gateway_http,
            cors_origins=options.cors_origins,
        )
        self._supervisor = Supervisor(
            make_private_directory(directory.logs), directory.children_file, self._write_state
        )

    async def start(self) -> None:
        """Bring everything up: servers, roles, migrations, services, and the public port last.

        Raises:
            StackError: a part did not come up.
        """
        self._write_state()
        _ensure_operator_key(self._directory.operator_key_file)
        # The configuration depends on nothing that runs, and takes as long as the servers do.
        envoy = asyncio.create_task(self._envoy.prepare(python_environment()))
        try:
            await self._supervisor.start(*await self._servers.programs())
            await self._servers.ensure_bucket()
            await self._prepare_database()
            self._say("The servers are up; starting the services.")
            await self._supervisor.start(*self._services.programs())
            await self._supervisor.start(await envoy)
        finally:
            envoy.cancel()
            with suppress(asyncio.CancelledError, StackError):
                await envoy
        self._welcome()
        self._phase = Phase.READY
        self._write_state()

    async def stop(self, error: str = "") -> None:
        """Drain and stop everything, in reverse order; nothing is left behind.

        Args:
            error: why, if it was not asked for.
        """
        self._phase = Phase.STOPPING
        self._write_state()
        await self._supervisor.stop()
        self._phase = Phase.FAILED if error else Phase.STOPPED
        self._write_state(error)

    async def _prepare_database(self) -> None:
        try:
            await self._servers.ensure_database()
            await bootstrap(self._servers.admin_url(), self._servers.passwords())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StackError(f"The Postgres server cannot be used: {error}") from error
        url = self._servers.role_url(MIGRATE_ROLE)
        env = {**python_environment(), "LENSMITH_MIGRATE_POSTGRES_URL": url}
        argv = (sys.executable, "-m", "lensmith_platform.db.migrate")
        output = await run_once("migrations", argv, env, self._directory.path, None)
        _LOGGER.info("migrations: %s", output or "nothing to do")

    def _welcome(self) -> None:
        directory = self._directory
        self._say(f"Lensmith is ready at {self._options.url} (data in {directory.path}).")
        shown = directory.path / ".operator-key-shown"
        if not shown.exists():
            self._say(f"Operator key, shown this once: {directory.operator_key_file.read_text()}")
            self._say(f"The command line on this machine finds it in {directory.operator_key_file}.")
            write_private(shown, "")

    def _write_state(self, error: str = "") -> None:
        write_state(self._directory.path, self._phase, self._options.url, self._supervisor.parts, error)


async def run_platform(options: UpOptions, say: Say) -> None:
    """Run a platform until SIGTERM, SIGINT or SIGHUP asks it to stop.

    Raises:
        StackError: it could not start; everything is stopped again.
    """
    asked = _stop_signals()
    with ExitStack() as held:
        directory = held.enter_context(open_directory(options.data_dir))
        held.enter_context(_log_to(make_private_directory(directory.logs) / "lensmith.log", say))
        if left := reap_leftovers(directory.children_file):
            _LOGGER.warning("ended %d processes that an earlier run had left behind", left)
        claim_port(options.host, options.port)
        names = (*SERVER_PORTS, *SERVICE_PORTS)
        ports = held.enter_context(reserve_ports(directory.path / "ports.json", names, TWIN_PORTS))
        platform = Platform(options, directory, ports, held.enter_context(directory.sockets()), say)
        error = ""
        try:
            await _run_until(asked, platform)
            say("Stopping; ask again to stop at once.")
        except BaseException as reason:
            error = str(reason) or type(reason).__name__
            raise
        finally:
            await platform.stop(error)


async def _run_until(asked: asyncio.Event, platform: Platform) -> None:
    """Start `platform` and return when it is asked to stop, be it ready or still starting."""
    starting = asyncio.create_task(platform.start())
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            await waiting
    finally:
        for task in (starting, waiting):
            task.cancel()
        await asyncio.gather(starting, waiting, return_exceptions=True)


def claim_port(host: str, port: int) -> None:
    """Make sure that the public port is nobody else's.

    Raises:
        PortTakenError: it is, or may not be used.
    """
    if not 0 < port < 1 << 16:
        raise PortTakenError(host, port, "ports go from 1 to 65535")
    try:
        # Envoy shares its port with whoever asks alike, so it would not notice a second one.
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = f"{_holder(port)} listens there" if error.errno == errno.EADDRINUSE else str(error)
        raise PortTakenError(host, port, reason) from error


def _holder(port: int) -> str:
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid},"
    return "another program"


def _ensure_operator_key(file: Path) -> None:
    if not file.exists():
        write_private(file, f"lsk_{secrets.token_urlsafe(32)}")


def _stop_signals() -> asyncio.Event:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask() -> None:
        if asked.is_set():  # Asked twice: at once, then. The children die with this process.
            os._exit(1)
        asked.set()

    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(name, ask)
    return asked


class _SayHandler(logging.Handler):
    """Shows warnings to the person at the terminal."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


@contextmanager
def _log_to(file: Path, say: Say) -> Iterator[None]:
    """Send the supervisor's log to a file, and its warnings to the terminal."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
    rotate_log(file)
    handlers = (logging.FileHandler(file), _SayHandler(say))
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOGGER.setLevel(logging.INFO)
    for handler in handlers:
        _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            _LOGGER.removeHandler(handler)
            handler.close()
