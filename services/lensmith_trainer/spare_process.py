"""Work that nobody waits for, in a process of its own: it delays no training, and its memory goes back when it ends.

The process is given what registry and dataset said, reads the replica itself, and answers with one message. It holds
nothing: killed at any moment, it is started again with the event that asked for it. When the trainer dies, it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import AsyncIterable, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Literal

from lensmith_platform.errors import InternalError

__all__ = ["SpareProcess", "Task", "read_frames", "write_frame"]

SpareWork = Literal["suggest", "learning_curve"]

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        work: Which work.
        replica: Path of the replica to read.
        app_id: Whose it is.
        space: Of its vectors.
    """

    work: SpareWork
    replica: str
    app_id: int
    space: str

    def to_bytes(self) -> bytes:
        """Write it for `from_bytes`."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Task:
        """Read what `to_bytes` wrote."""
        return cls(**json.loads(data))


class SpareProcess:
    """Starts a process for each piece of work, one at a time.

    Args:
        threads: Of its mathematics.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.turn = asyncio.Lock()
        """Held by whoever has work done: two processes would need twice the memory."""

    async def run(self, task: Task, parts: Sequence[bytes], more: AsyncIterable[bytes] | None = None) -> bytes:
        """Have work done and return its answer.

        Args:
            task: What to do.
            parts: What the work begins with.
            more: Whatever comes after it.

        Raises:
            InternalError: SPARE_WORK_FAILED: the process died, or failed; its reason stands in the log.
        """
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(self._threads)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lensmith_trainer.spare_work",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            # So that on a desktop it takes less than its share of the whole machine, not only of the trainer's.
            start_new_session=True,
        )
        try:
            answering = asyncio.create_task(_answer(process))
            try:
                await _send(process, [task.to_bytes(), *parts], more)
                answer = await answering
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        finally:
            if process.returncode is None:
                process.kill()
            status = await process.wait()
        if answer is None:
            raise InternalError("SPARE_WORK_FAILED", f"the process of {task.work} ended with {status} and no answer")
        return answer


async def _send(process: asyncio.subprocess.Process, parts: Sequence[bytes], more: AsyncIterable[bytes] | None) -> None:
    """Send everything; the pipe stays open, and its end tells the process that the trainer is gone."""
    if process.stdin is None:
        raise RuntimeError("the process has no input")
    try:
        for part in parts:
            process.stdin.write(_LENGTH.pack(len(part)) + part)
            await process.stdin.drain()
        if more is not None:
            async for part in more:
                process.stdin.write(_LENGTH.pack(len(part)) + part)
                await process.stdin.drain()
        process.stdin.write(_LENGTH.pack(0))
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        # It died; that there is no answer tells of it.
        return


async def _answer(process: asyncio.subprocess.Process) -> bytes | None:
    if process.stdout is None:
        raise RuntimeError("the process has no output")
    try:
        (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
        return await process.stdout.readexactly(length)
    except asyncio.IncompleteReadError:
        return None


def read_frames(stream: BinaryIO) -> list[bytes]:
    """Read what `SpareProcess` sends, up to its end.

    Raises:
        EOFError: The trainer died on the way.
    """
    frames: list[bytes] = []
    while True:
        (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
        if not length:
            return frames
        if length > _MOST_BYTES:
            raise ValueError("a part is too long")
        frames.append(_exactly(stream, length))


def write_frame(stream: BinaryIO, data: bytes) -> None:
    """Answer."""
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the trainer is gone")
    return data
