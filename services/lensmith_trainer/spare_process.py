"""Work that nobody waits for, in a process of its own: it delays no training, and its memory goes back when it ends.

The process is given what registry and dataset said, reads the replica itself, and answers with one message. It holds
nothing: killed at any moment, it is started again with the event that asked for it. When the trainer dies, it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from lensmith_platform.errors import InternalError
from lensmith_trainer.replica import ReplicaDamagedError
from lensmith_trainer.unbroken import ended

__all__ = ["REPLICA_DAMAGED", "SpareProcess", "Task", "read_frames", "write_frame"]

REPLICA_DAMAGED = 3
"""Exit status of a process that could not read its replica."""

SpareWork = Literal["suggest", "learning_curve"]

_LENGTH = struct.Struct("<I")
_NICENESS = 10
"""A tenth of a processor is left to it where all are wanted: less, and a curve would take minutes on a busy machine."""


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

    async def run(self, task: Task, parts: list[bytes]) -> bytes:
        """Have work done and return its answer; when this is cancelled, the process is killed.

        Args:
            task: What to do.
            parts: What to do it with; each is taken out as it is sent, so that its memory is free while work goes on.

        Raises:
            InternalError: SPARE_WORK_FAILED: the process died, or failed; its reason stands in the log.
            ReplicaDamagedError: The process could not read its replica.
        """
        process = _Process({**os.environ, "OPENBLAS_NUM_THREADS": str(self._threads)})
        work = asyncio.ensure_future(asyncio.to_thread(process.run, task.to_bytes(), parts))
        try:
            answer, status = await asyncio.shield(work)
        finally:
            process.stop()
            await ended(work)
        if answer is None and status == REPLICA_DAMAGED:
            raise ReplicaDamagedError(f"the process of {task.work} could not read {task.replica}")
        if answer is None:
            raise InternalError("SPARE_WORK_FAILED", f"the process of {task.work} ended with {status} and no answer")
        return answer


class _Process:
    """A process that is given everything and answers once. `run` blocks; `stop` may come from anywhere, at any time."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, task: bytes, parts: list[bytes]) -> tuple[bytes | None, int]:
        """Return its answer, None where there is none, and its exit status; parts are taken out as they are sent."""
        with self._lock:
            if self._stopped:
                return None, 0
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "lensmith_trainer.spare_work"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                # So that on a desktop it takes less than its share of the whole machine, not only of the trainer's.
                start_new_session=True,
            )
            # From outside: what it imports takes as long as many a work, beside a training that somebody waits for.
            _be_nice(process.pid)
        answer = None
        # What it is sent may meet a process that is dead already; that there is no answer tells of it.
        with suppress(BrokenPipeError), process:
            if process.stdin is not None and process.stdout is not None:
                write_frame(process.stdin, task)
                while parts:
                    write_frame(process.stdin, parts.pop(0))
                write_frame(process.stdin, b"")
                with suppress(EOFError):
                    answer = _frame(process.stdout)
            # Its input stays open up to here: that it ends tells the process that the trainer is gone.
            process.kill()
        return answer, process.returncode

    def stop(self) -> None:
        """Kill it, or do not let it begin."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


def _be_nice(process: int) -> None:
    """Leave the processors to fits and predictions."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, os.getpriority(os.PRIO_PROCESS, process) + _NICENESS)
        # Where sessions share the processor among each other, a process is nice only within its own.
        Path(f"/proc/{process}/autogroup").write_text(str(_NICENESS))


def read_frames(stream: IO[bytes]) -> list[bytes]:
    """Read what `SpareProcess` sends, up to its end.

    Raises:
        EOFError: The trainer died on the way.
    """
    return list(iter(lambda: _frame(stream), b""))


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write one part; an empty one is the end."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _frame(stream: IO[bytes]) -> bytes:
    return _exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0])


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError("the other side is gone")
    return data
