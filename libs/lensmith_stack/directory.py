"""The data directory: everything a platform keeps over restarts, held by one platform at a time."""

import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lensmith_stack.errors import (
    AlreadyRunningError,
    DirectoryForeignError,
    DirectoryUnusableError,
    DirectoryVersionError,
)
from lensmith_stack.files import make_private_directory, write_private

FORMAT = 1
"""Layout of the directory that this version writes."""
OLDEST_FORMAT = 1
"""Oldest layout that this version can carry on from."""

_FORMAT_FILE = "lensmith.json"
_LOCK_FILE = "lock"
# A unix socket's path holds 107 bytes on Linux, 103 on macOS.
_LONGEST_SOCKET = 100
_DYING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Names inside a data directory.

    Attributes:
        path: the directory, absolute.
        instance: random id, made with the directory.
    """

    path: Path
    instance: str

    @property
    def logs(self) -> Path:
        """Log files, one per part."""
        return log_directory(self.path)

    @property
    def secrets(self) -> Path:
        """Generated credentials and keys."""
        return self.path / "secrets"

    @property
    def children_file(self) -> Path:
        """Pids of the running parts."""
        return self.path / "children.json"

    @property
    def operator_key_file(self) -> Path:
        """The operator's key, for the command line on this machine."""
        return operator_key_file(self.path)

    @contextmanager
    def sockets(self) -> Iterator[Path]:
        """An empty, closed directory for unix sockets, whose paths are short enough to bind."""
        path = self.path / "run"
        if len(os.fsencode(path / ("x" * 24))) <= _LONGEST_SOCKET:
            shutil.rmtree(path, ignore_errors=True)
            yield make_private_directory(path)
        else:
            base = os.environ.get("XDG_RUNTIME_DIR")
            with tempfile.TemporaryDirectory(prefix="lensmith-", dir=base) as scratch:
                yield Path(scratch)


def default_directory() -> Path:
    """``$LENSMITH_DATA_DIR``, or else ``~/.lensmith``."""
    return Path(os.environ.get("LENSMITH_DATA_DIR") or Path.home() / ".lensmith")


def log_directory(path: Path) -> Path:
    """Where a data directory keeps its log files."""
    return path / "logs"


def operator_key_file(path: Path) -> Path:
    """Where a data directory keeps the operator's key."""
    return path / "operator.key"


def state_file(path: Path) -> Path:
    """Where a running platform tells of itself."""
    return path / "state.json"


@contextmanager
def open_directory(path: Path) -> Iterator[DataDirectory]:
    """Make or open a data directory and hold it until the end of the block.

    Raises:
        DirectoryForeignError: it holds other things.
        DirectoryVersionError: its layout is too new or too old.
        DirectoryUnusableError: the system refuses access.
        AlreadyRunningError: another platform holds it.
    """
    path = path.expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign(path)
        with _lock(path):
            yield DataDirectory(path, _check_format(path))
    except PermissionError as error:
        raise DirectoryUnusableError(
            f"The data directory {path} is not accessible to this user ({error.filename or path}): "
            "choose another one with --data-dir."
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DirectoryUnusableError(f"The data directory {path} is not a directory: choose another one.") from error


def _refuse_foreign(path: Path) -> None:
    # The lock alone: another platform is making the directory at this very moment.
    names = {entry.name for entry in path.iterdir()} - {_LOCK_FILE}
    if names and _FORMAT_FILE not in names:
        raise DirectoryForeignError(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _DYING_SECONDS
        while not _try_lock(descriptor):
            holder = os.pread(descriptor, 32, 0).decode().strip()
            pid = int(holder) if holder.isdigit() else None
            # A holder that was killed keeps the lock until the last of its threads is gone.
            if pid is None or _is_alive(pid) or time.monotonic() > deadline:
                raise AlreadyRunningError(path, pid)
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _check_format(path: Path) -> str:
    file = path / _FORMAT_FILE
    if not file.exists():
        path.chmod(0o700)
        instance = uuid.uuid4().hex
        write_private(file, json.dumps({"product": "lensmith", "format": FORMAT, "instance": instance}))
        return instance
    try:
        content = json.loads(file.read_text())
        product, written, instance = content["product"], int(content["format"]), str(content["instance"])
    except (ValueError, KeyError, TypeError):
        raise DirectoryForeignError(path) from None
    if product != "lensmith":
        raise DirectoryForeignError(path)
    if written > FORMAT:
        raise DirectoryVersionError(
            f"The data directory {path} was written by a newer Lensmith (format {written}, this one reads up to "
            f"{FORMAT}): upgrade Lensmith, or choose another --data-dir."
        )
    if written < OLDEST_FORMAT:
        raise DirectoryVersionError(
            f"The data directory {path} was written by a Lensmith too old for this one (format {written}, this one "
            f"reads from {OLDEST_FORMAT}): upgrade step by step, or choose another --data-dir."
        )
    return instance
