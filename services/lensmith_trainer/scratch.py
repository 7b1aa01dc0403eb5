"""Folders in which networks learn: one for each version, kept when a process is killed, gone when that is over."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from lensmith_platform.errors import PreconditionError

__all__ = ["Scratch"]

_LOCK_SECONDS = 0.1
_FORGOTTEN_SECONDS = 7 * 86400.0
"""A folder that nobody has touched for so long is of a version that another machine has finished."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM_FILE, _ROOM_LOCK = "room", "room.lock"
_ROOM_LEFT = 256 << 20
"""What is left free on the disk for everybody else."""


class Scratch:
    """Folders below one, which several trainers of a machine may share.

    Args:
        folder: Made if it is missing, readable by this user only.
        max_bytes: Most bytes of all folders together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    async def prepare(self) -> None:
        """Make the folder, and remove what was forgotten in it.

        Raises:
            OSError: It cannot be made.
        """
        await asyncio.to_thread(self._prepare)

    @asynccontextmanager
    async def held(self, version_uid: str) -> AsyncIterator[Path]:
        """Hold the folder of a version alone among all processes of the machine; the system frees it when one dies.

        Raises:
            PreconditionError: FINE_TUNING_TOO_LARGE: the disk got full meanwhile.
        """
        # A lock of another process cannot wake us.
        while (lock := self._try_lock(version_uid)) is None:  # noqa: ASYNC110
            await asyncio.sleep(_LOCK_SECONDS)
        try:
            path = self._folder / version_uid
            await asyncio.to_thread(lambda: path.mkdir(mode=0o700, exist_ok=True))
            yield path
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise PreconditionError("FINE_TUNING_TOO_LARGE", "the disk of the trainer is full") from error
        finally:
            os.close(lock)

    async def make_room(self, held: Path, needed: int) -> None:
        """See that a held folder may grow to so many bytes, which are its own from then on, also while it is smaller.

        Folders of others that nobody holds give way, oldest first.

        Raises:
            PreconditionError: FINE_TUNING_TOO_LARGE: the setting or the disk does not allow it.
        """
        await asyncio.to_thread(self._make_room, held, needed)

    async def discard(self, version_uid: str) -> None:
        """Remove the folder of a version that is over, unless another process holds it."""
        await asyncio.to_thread(self._discard, version_uid)

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_forgotten()

    def _remove_forgotten(self) -> None:
        for path in self._folders():
            if time.time() - _touched(path) > _FORGOTTEN_SECONDS:
                self._discard(path.name)

    def _make_room(self, held: Path, needed: int) -> None:
        if needed > self._max_bytes:
            raise _too_large(needed, f"this trainer gives it at most {_text(self._max_bytes)} (scratch_bytes)")
        with self._alone():
            self._remove_forgotten()
            others = sorted((path for path in self._folders() if path != held), key=_touched)
            for path in list(others):
                if _taken(others) + needed <= self._max_bytes and self._free(held, others) >= needed:
                    break
                if self._discard(path.name):
                    others.remove(path)
            if _taken(others) + needed > self._max_bytes:
                raise _too_large(needed, f"others take {_text(_taken(others))} of {_text(self._max_bytes)} already")
            free = self._free(held, others)
            if free < needed:
                raise _too_large(needed, f"only {_text(max(0, free))} are free on the disk")
            (held / _ROOM_FILE).write_text(str(needed))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other trainers from dealing out the same room."""
        descriptor = os.open(self._folder / _ROOM_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _free(self, held: Path, others: Sequence[Path]) -> int:
        """What the disk has left, but for what others have yet to write."""
        owed = sum(_room(path) - _size(path) for path in others)
        return shutil.disk_usage(self._folder).free - _ROOM_LEFT - owed + _size(held)

    def _discard(self, version_uid: str) -> bool:
        lock = self._try_lock(version_uid)
        if lock is None:
            return False
        try:
            shutil.rmtree(self._folder / version_uid, ignore_errors=True)
            # While it is held: whoever waits for the file that goes now waits for one that nobody else finds.
            self._lock_path(version_uid).unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if path.is_dir()]

    def _lock_path(self, version_uid: str) -> Path:
        return self._folder / f"{version_uid}.lock"

    def _try_lock(self, version_uid: str) -> int | None:
        path = self._lock_path(version_uid)
        # Whoever clears a cache may do so at any time.
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have removed the file between the two: then this lock keeps nobody out.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except OSError:
            pass
        os.close(descriptor)
        return None


def _too_large(needed: int, why: str) -> PreconditionError:
    return PreconditionError(
        "FINE_TUNING_TOO_LARGE",
        f"fine-tuning takes {_text(needed)} of scratch space, and {why}",
        metadata={"needed_bytes": str(needed)},
    )


def _text(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def _touched(path: Path) -> float:
    """When anything in a folder was last written."""
    try:
        return max((item.stat().st_mtime for item in (path, *path.rglob("*"))), default=0.0)
    except OSError:
        return time.time()


def _taken(paths: Sequence[Path]) -> int:
    return sum(_room(path) for path in paths)


def _room(path: Path) -> int:
    """What a folder takes or may yet take."""
    try:
        return max(_size(path), int((path / _ROOM_FILE).read_text()))
    except (OSError, ValueError):
        return _size(path)


def _size(path: Path) -> int:
    try:
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    except OSError:
        return 0
