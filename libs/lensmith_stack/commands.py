"""What the command line calls: `up`, `status`, `down`, `logs`."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import psutil

from lensmith_stack.composition import Say, UpOptions, run_platform
from lensmith_stack.directory import log_directory, open_directory, operator_key_file
from lensmith_stack.errors import NotRunningError, StackError
from lensmith_stack.files import make_private_directory
from lensmith_stack.state import Phase, PlatformStatus, read_state, supervisor_process

_POLL = 0.1


def up(options: UpOptions, say: Say, *, detach: bool = False) -> int:
    """Run the platform until it is told to stop; detached, return as soon as it is ready.

    Args:
        options: where and how.
        say: shows a line to the person at the terminal.
        detach: leave it running in the background, with its output in the log.

    Returns:
        Exit code for the shell: 0, or 1 after saying what went wrong.
    """
    try:
        if detach:
            return _start_detached(options, say)
        asyncio.run(run_platform(options, say))
    except StackError as error:
        say(str(error))
        return 1
    return 0


def status(data_dir: Path) -> PlatformStatus:
    """How the platform on `data_dir` stands; its phase is `STOPPED` where none runs."""
    return read_state(_absolute(data_dir))


def down(data_dir: Path, say: Say, *, timeout: float = 90.0) -> int:
    """Ask the platform on `data_dir` to stop and wait until it has.

    Returns:
        Exit code for the shell: 0 when nothing runs any more, else 1 after saying why.
    """
    path = _absolute(data_dir)
    told = read_state(path)
    process = supervisor_process(told)
    if process is None:
        say(str(NotRunningError(path)))
        return 0
    try:
        process.terminate()
        process.wait(timeout)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        say(f"Lensmith on {path} belongs to another user (process {process.pid}).")
        return 1
    except psutil.TimeoutExpired:
        say(f"Lensmith (process {process.pid}) has not stopped within {timeout:g} s.")
        return 1
    say("Lensmith has stopped; its data is kept.")
    return 0


def logs(data_dir: Path, parts: Sequence[str] = (), *, lines: int = 100, follow: bool = False) -> Iterator[str]:
    """Log lines of the platform, each led by the name of its part.

    Args:
        data_dir: of the platform, running or not.
        parts: names as in `status`, and `lensmith` for the supervisor itself; all of them if empty.
        lines: how many of the last lines of each part.
        follow: go on with new lines as they come, until the caller stops asking.

    Raises:
        StackError: a part has no log.
    """
    directory = log_directory(_absolute(data_dir))
    names = list(parts) or sorted(file.stem for file in directory.glob("*.log"))
    with ExitStack() as opened:
        files = []
        for name in names:
            file = directory / f"{name}.log"
            if Path(name).name != name or not file.is_file():
                known = ", ".join(sorted(file.stem for file in directory.glob("*.log"))) or "none yet"
                raise StackError(f"There is no log of {name}; there are: {known}.")
            files.append((name, opened.enter_context(file.open("rb"))))
        for name, stream in files:
            yield from (f"{name}: {line}" for line in _last_lines(stream, lines))
        while follow:
            quiet = True
            for name, stream in files:
                if stream.tell() > os.fstat(stream.fileno()).st_size:
                    stream.seek(0)  # It was rotated.
                for line in stream.read().decode(errors="replace").splitlines():
                    quiet = False
                    yield f"{name}: {line}"
            if quiet:
                time.sleep(_POLL)


def operator_key(data_dir: Path) -> str | None:
    """The operator's key of the platform on `data_dir`, if this user may read it."""
    try:
        return operator_key_file(_absolute(data_dir)).read_text().strip()
    except OSError:
        return None


def _start_detached(options: UpOptions, say: Say) -> int:
    # What is wrong with the directory is said here and now; the background process takes the lock itself.
    with open_directory(options.data_dir) as directory:
        path = directory.path
        output = make_private_directory(directory.logs) / "up.log"
    asked = json.dumps(
        {
            "data_dir": str(path),
            "host": options.host,
            "port": options.port,
            "cors_origins": options.cors_origins,
        }
    )
    environment = {**os.environ, **options.outside.to_env()}  # Not among the arguments: the URLs hold passwords.
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "lensmith_stack", asked],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, written, 1),
                (os.POSIX_SPAWN_DUP2, written, 2),
            ],
        )
    finally:
        os.close(written)
    with output.open() as read:
        while True:
            ended, exit_status = os.waitpid(pid, os.WNOHANG)
            told = read_state(path)
            for line in read:
                say(line.rstrip("\n"))
            if ended:
                return os.waitstatus_to_exitcode(exit_status) or 1
            if told.phase is Phase.READY and told.pid == pid:
                return 0
            time.sleep(_POLL)


def _last_lines(stream: BinaryIO, count: int) -> list[str]:
    end = stream.seek(0, os.SEEK_END)
    # Long enough for any reasonable line; a log may hold gigabytes.
    stream.seek(max(0, end - count * 1000))
    return stream.read().decode(errors="replace").splitlines()[-count:] if count else []


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()
