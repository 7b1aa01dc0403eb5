"""A supervisor of the three servers as a process of its own, for tests that kill it: three_servers.py DIRECTORY."""

import asyncio
import signal
import sys
from pathlib import Path

from lensmith_stack.files import make_private_directory
from lensmith_stack.ports import reserve_ports
from lensmith_stack.s3 import TWIN_PORTS
from lensmith_stack.servers import SERVER_PORTS, Servers
from lensmith_stack.supervisor import Supervisor, reap_leftovers


async def run(directory: Path) -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    children = directory / "children.json"
    reap_leftovers(children)
    supervisor = Supervisor(make_private_directory(directory / "logs"), children)
    with reserve_ports(directory / "ports.json", SERVER_PORTS, TWIN_PORTS) as ports:
        servers = Servers(directory, directory.parent.name, ports, fast=True)
        try:
            await supervisor.start(*await servers.programs())
            sys.stdout.write(" ".join(str(part.child.pid) for part in supervisor.parts if part.child) + "\n")
            sys.stdout.flush()
            await asked.wait()
        finally:
            await supervisor.stop()


asyncio.run(run(Path(sys.argv[1])))
