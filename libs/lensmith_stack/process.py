"""One child process: how it is described, started, asked whether it is ready, and stopped."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lensmith_stack import launch
from lensmith_stack.errors import StartError

_PROBE_INTERVAL = 0.03
_TAIL_BYTES = 8192
_LOG_ROTATE_BYTES = 16 * 1024 * 1024
_LOG_KEEP = 3


@dataclass(frozen=True, slots=True)
class Account:
    """A system user that a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """A child process as the supervisor knows it. Started again, it comes back on the same address.

    Attributes:
        name: unique in the platform; also the name of its log file.
        argv: absolute path of the executable, then its arguments.
        ready: asks the running server itself; true once it can serve. An `OSError` or `TimeoutError` counts as no.
        env: the whole environment of the child, nothing is inherited.
        cwd: working directory.
        account: the system user to become; ``None`` stays.
        address: where it listens, for people (``127.0.0.1:5432``, ``unix:/run/…``).
        drain: called before the stop signal, to let work in flight end; what it raises is ignored.
        leftovers: files outside its directory that it may leave behind; removed when it has ended.
        stop_signal: asks for a graceful end.
        death_signal: what the kernel sends when the supervisor dies.
        ready_within: seconds from start to ready.
        grace: seconds from the stop signal to SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str]
    cwd: Path
    address: str
    account: Account | None = None
    drain: Callable[[], Awaitable[None]] | None = None
    leftovers: tuple[Path, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    ready_within: float = 60.0
    grace: float = 15.0


@dataclass(slots=True)
class Child:
    """One life of a program, from start to exit."""

    program: Program
    log: Path
    process: asyncio.subprocess.Process
    _log_start: int = 0
    _swept: bool = False

    @classmethod
    async def start(cls, program: Program, log: Path) -> "Child":
        """Start the program; its output goes to the end of `log`.

        Raises:
            StartError: the executable cannot be run.
        """
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            log_start = os.fstat(descriptor).st_size
            process = await asyncio.create_subprocess_exec(
                *launcher(program),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=program.cwd,
                env=dict(program.env),
                # Its own group: Ctrl-C at the terminal reaches the supervisor only, which stops the parts in order.
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(program.name, str(error), "") from error
        finally:
            os.close(descriptor)
        return cls(program, log, process, log_start)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of the child's process group."""
        return self.process.pid

    async def until_ready(self) -> None:
        """Wait until the server says that it can serve.

        Raises:
            StartError: it exited, or `Program.ready_within` passed.
        """
        exit_task = asyncio.ensure_future(self.process.wait())
        try:
            async with asyncio.timeout(self.program.ready_within):
                while not exit_task.done():
                    if await _answers(self.program):
                        return
                    await asyncio.wait([exit_task], timeout=_PROBE_INTERVAL)
        except TimeoutError:
            raise self._failure(f"not ready after {self.program.ready_within:g} s") from None
        finally:
            exit_task.cancel()
            with suppress(asyncio.CancelledError):
                await exit_task
        raise self._failure(f"it ended with {exit_reason(self.process.returncode)}")

    async def stop(self) -> None:
        """Ask for a graceful end, then kill what is left of its process group after the grace."""
        if self.process.returncode is None:
            if self.program.drain:
                with suppress(Exception):
                    await self.program.drain()
            with suppress(ProcessLookupError):
                self.process.send_signal(self.program.stop_signal)
            try:
                async with asyncio.timeout(self.program.grace):
                    await self.process.wait()
            except TimeoutError:
                pass
        await self.kill()

    async def kill(self) -> None:
        """Kill the whole process group and wait for the child's end."""
        if not self._swept:  # Once: later the number may be somebody else's.
            self._swept = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()
        for file in self.program.leftovers:
            file.unlink(missing_ok=True)

    def tail(self) -> str:
        """The last lines of this life's output."""
        with self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            # Shorter than it was: it has been rotated since.
            start = self._log_start if self._log_start <= end else 0
            file.seek(max(start, end - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-20:])

    def _failure(self, reason: str) -> StartError:
        return StartError(self.program.name, reason, self.tail())


def launcher(program: Program) -> tuple[str, ...]:
    """Argument list that starts `program` through `lensmith_stack.launch`, as a child of this process."""
    account = program.account
    return (
        *(sys.executable, "-I", "-S", launch.__file__),
        *(str(os.getpid()), str(int(program.death_signal))),
        *((str(account.uid), str(account.gid)) if account else ("-1", "-1")),
        *program.argv,
    )


def exit_reason(code: int | None) -> str:
    """Say an exit status in words: ``status 1`` or ``SIGKILL``."""
    if code is None or code >= 0:
        return f"status {code}"
    return signal.Signals(-code).name


def rotate_log(log: Path, *, in_use: bool = False) -> None:
    """Move a log that has grown large aside, keeping the last few.

    Args:
        log: the file.
        in_use: a program writes to it. Its file is then copied and emptied, for the program knows no other; it appends,
            so it goes on at the new end. What it writes between the two is lost.

    Raises:
        OSError: the disk is full, or access is refused.
    """
    if not log.exists() or log.stat().st_size < _LOG_ROTATE_BYTES:
        return
    aside = log.with_name(f"{log.name}.new")
    if in_use:
        try:
            shutil.copy(log, aside)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        os.truncate(log, 0)
    else:
        log.replace(aside)
    for number in range(_LOG_KEEP - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    aside.replace(log.with_name(f"{log.name}.1"))


async def run_once(name: str, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path, account: Account | None) -> str:
    """Run a short-lived program to its end and return its output.

    Raises:
        StartError: it could not run or ended with a failure.
    """

    async def never() -> bool:
        return False

    program = Program(name=name, argv=argv, ready=never, env=env, cwd=cwd, address="", account=account)
    try:
        process = await asyncio.create_subprocess_exec(
            *launcher(program),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except OSError as error:
        raise StartError(name, str(error), "") from error
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise StartError(name, f"it ended with {exit_reason(process.returncode)}", "\n".join(text.splitlines()[-20:]))
    return text


async def _answers(program: Program) -> bool:
    try:
        return await program.ready()
    except (OSError, TimeoutError):
        return False
