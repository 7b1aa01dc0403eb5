"""Packs on disk: complete or not at all, proven by their hashes, shared by the processes of one machine."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from lensmith_platform.errors import InternalError
from lensmith_vision.errors import VisionError
from lensmith_vision.pack import CARD_FILE, check_hash, load_card, load_labels, space_of

__all__ = ["PackFolder", "checked", "is_whole"]

_LEFTOVER_SECONDS = 3600.0
_FORGOTTEN_SECONDS = 7 * 86_400.0
"""What was not loaded for so long goes where there is a budget: its version may have been deleted since."""
_IN_USE_SECONDS = 60.0
"""A pack that was used so lately may just be being loaded, by whichever process: it stays, whatever the budget."""

T = TypeVar("T")

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class PackFolder:
    """Where packs are kept. Every method blocks.

    Attributes:
        path: The folder.
        budget: Most bytes of it to keep; beyond, the packs unused for longest go. None: all of them stay.
    """

    path: Path
    budget: int | None = None

    def place(self, space: str, sha256: str) -> Path:
        """Return where the pack of a space is kept, or would be."""
        return self.path / f"{space}-{sha256[:16]}"

    def staging(self) -> Path:
        """Make a folder to fetch a pack into, and remove what processes left behind that were killed over that."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self.path.glob(".*-*"):
            with suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=".fetching-", dir=self.path))

    def put(self, staging: Path, kept: Path) -> None:
        """Make a fetched pack appear at its place, replacing a damaged one."""
        for path in staging.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if kept.exists():
            self._take_away(kept)
        try:
            staging.rename(kept)
        except OSError:
            # Another process put the same pack there meanwhile; it was checked just as this one was.
            if not (kept / CARD_FILE).is_file():
                raise
        self.shrink()

    def packs(self) -> list[tuple[str, Path]]:
        """List the packs with their spaces, the last used first."""
        found = []
        for _, folder in self._by_use():
            try:
                found.append((space_of(load_card(folder)).id, folder))
            except VisionError as error:
                _LOG.warning("pack_unusable", pack=folder.name, error=str(error))
        return found[::-1]

    def _by_use(self) -> list[tuple[float, Path]]:
        """The packs, the longest unused first."""
        found = []
        for folder in self.path.glob("[a-z0-9]*-*"):
            with suppress(OSError):
                found.append((folder.stat().st_mtime, folder))
        return sorted(found)

    def shrink(self) -> None:
        """Remove what is over the budget, and what nobody has asked for in a week."""
        if self.budget is None:
            return
        packs = [(used, _bytes_of(folder), folder) for used, folder in self._by_use()]
        total = sum(size for _, size, _ in packs)
        for used, size, folder in packs:
            unused = time.time() - used
            if unused < _IN_USE_SECONDS or (total <= self.budget and unused < _FORGOTTEN_SECONDS):
                return
            self._take_away(folder)
            total -= size

    def _take_away(self, folder: Path) -> None:
        """Remove a pack in one step, so that nobody ever sees half of it."""
        away = Path(tempfile.mkdtemp(prefix=".leaving-", dir=self.path))
        try:
            folder.rename(away / folder.name)
        except FileNotFoundError:
            pass  # another process removed it first
        finally:
            shutil.rmtree(away, ignore_errors=True)


def is_whole(folder: Path, space: str, sha256: str) -> bool:
    """Tell whether a folder holds the pack of a space, byte for byte; notes that it was used."""
    if not (folder / CARD_FILE).is_file():
        return False
    try:
        card = load_card(folder)
        if space_of(card).id != space or card.sha256 != sha256:
            return False
        check_hash(folder, card)
        if card.logits is not None:
            load_labels(folder)
        os.utime(folder)
    except (VisionError, FileNotFoundError) as error:
        _LOG.warning("pack_not_whole", pack=folder.name, error=str(error))
        return False
    return True


def checked(read: Callable[[Path], T], folder: Path) -> T:
    """Read something of a fetched pack.

    Raises:
        InternalError: It breaks its format.
    """
    try:
        return read(folder)
    except VisionError as error:
        raise InternalError(error.reason, f"registry sent a pack that cannot be used: {error}") from error


def _bytes_of(folder: Path) -> int:
    size = 0
    with suppress(OSError):
        for path in folder.iterdir():
            size += path.stat().st_size
    return size
