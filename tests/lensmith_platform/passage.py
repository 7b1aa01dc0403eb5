"""A port before a real server, which knows how far the talk with the server has come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_PIECE_BYTES = 1 << 16


class Passage:
    """Passes connections on to a server and counts the pieces of its answers.

    Args:
        url: of the server.

    Attributes:
        url: of the passage.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._server = urlsplit(url)
        self._pieces = 0
        self._came = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def more(self, pieces: int, *, within: float) -> bool:
        """Wait for so many pieces from now on; tell whether they came."""
        wanted = self._pieces + pieces
        with suppress(TimeoutError):
            async with asyncio.timeout(within), self._came:
                await self._came.wait_for(lambda: self._pieces >= wanted)
        return self._pieces >= wanted

    async def open(self) -> asyncio.Server:
        """Begin to listen."""
        listener = await asyncio.start_server(self._accept, "127.0.0.1")
        login = self._server.netloc.rpartition("@")[0]
        port = listener.sockets[0].getsockname()[1]
        self.url = self._server._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
        return listener

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with _closing(writer):
            from_server, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
            async with _closing(to_server):
                ways = [
                    asyncio.create_task(self._pass(reader, to_server, counted=False)),
                    asyncio.create_task(self._pass(from_server, writer, counted=True)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            if counted:
                self._pieces += 1
                async with self._came:
                    self._came.notify_all()
            await writer.drain()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def passage(url: str) -> AsyncIterator[Passage]:
    """Open a passage to a server; its connections end with the block."""
    one = Passage(url)
    listener = await one.open()
    try:
        yield one
    finally:
        listener.close()
        await one.close()
