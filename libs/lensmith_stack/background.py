"""The servers for a program that is not itself a supervisor: tests, benchmarks, notebooks.

They run on an event loop in a thread of their own, so that blocking and asynchronous callers can use them alike, and
die with that thread.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from lensmith_stack.files import make_private_directory
from lensmith_stack.ports import reserve_ports
from lensmith_stack.s3 import TWIN_PORTS
from lensmith_stack.servers import SERVER_PORTS, Outside, Servers
from lensmith_stack.supervisor import Supervisor

Result = TypeVar("Result")


class BackgroundServers:
    """Running servers, and the loop they run on.

    Attributes:
        servers: addresses and credentials.
        supervisor: keeps the embedded ones alive.
    """

    def __init__(self, servers: Servers, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        self.servers = servers
        self.supervisor = supervisor
        self._loop = loop

    def run(self, coroutine: Coroutine[object, object, Result]) -> Result:
        """Run a coroutine on the servers' loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


@contextmanager
def background_servers(outside: Outside | None = None) -> Iterator[BackgroundServers]:
    """Start fast, throw-away servers in a temporary directory; stop and forget them at the end.

    Raises:
        StartError: one of them did not come up.
    """
    with ExitStack() as held:
        scratch = held.enter_context(tempfile.TemporaryDirectory(prefix="lensmith-", ignore_cleanup_errors=True))
        ports = held.enter_context(reserve_ports(Path(scratch) / "ports.json", SERVER_PORTS, TWIN_PORTS))
        loop = held.enter_context(_loop())
        # The scratch directory is closed to others; the system user that Postgres runs as for root must pass through.
        Path(scratch).chmod(0o711)
        directory = make_private_directory(Path(scratch) / "stack")
        servers = Servers(directory, Path(scratch).name, ports, outside, fast=True)
        supervisor = Supervisor(make_private_directory(directory / "logs"), directory / "children.json")
        running = BackgroundServers(servers, supervisor, loop)

        async def start() -> None:
            await supervisor.start(*await servers.programs())

        try:
            running.run(start())
            yield running
        finally:
            running.run(supervisor.stop())
            # Elsewhere, if Postgres' system user could not get through to the scratch directory.
            shutil.rmtree((directory / "postgres").resolve(), ignore_errors=True)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    # A child is tied to the thread that started it: this one lives as long as the servers.
    thread = threading.Thread(target=loop.run_forever, name="lensmith servers", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
