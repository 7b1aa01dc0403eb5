"""Vectors in a file that is mapped into memory.

The system keeps of it what there is room for, and other processes of the machine see the same pages. One row a place;
what stands in which place is the replica's to know.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_vision.halves import floats
from lensmith_vision.threads import in_threads

__all__ = ["VectorFile"]

_FIRST_ROOM = 1024
_GROWTH = 1.25
_BLOCK = 2048
_ITEM = 2

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


class VectorFile:
    """Vectors of one length as little-endian float16. Not safe to write from several threads at once.

    Args:
        path: The file; made where it is missing.
        dim: Numbers of a vector.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.dim = dim
        self._path = path
        self._vectors = np.empty((0, dim), "<f2")
        self._map: mmap.mmap | None = None
        if dim and path.exists():
            self._open()

    @property
    def room(self) -> int:
        """Places that there are."""
        return len(self._vectors)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self._vectors.nbytes

    def reserve(self, places: int) -> None:
        """Make room for so many places, and for some more to come.

        Raises:
            OSError: The disk is full.
        """
        if places <= self.room:
            return
        size = max(_FIRST_ROOM, places, int(self.room * _GROWTH)) * self.dim * _ITEM
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Room that is there for sure: writing to a mapping for which the disk has none kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        self._open()

    def put(self, places: Sequence[int], vectors: Sequence[bytes]) -> None:
        """Write vectors to places for which there is room.

        Raises:
            ValueError: A vector has another length.
        """
        wrong = next((len(one) for one in vectors if len(one) != self.dim * _ITEM), None)
        if wrong is not None:
            raise ValueError(f"a vector has {wrong // _ITEM} numbers, those before it {self.dim}")
        if vectors:
            self._vectors[np.asarray(places)] = np.frombuffer(b"".join(vectors), "<f2").reshape(-1, self.dim)

    def raw(self, place: int) -> bytes:
        """Return one vector as it is stored.

        Raises:
            IndexError: There is no such place.
        """
        return bytes(self._vectors[place].tobytes())

    def take(self, places: Ints) -> Floats:
        """Copy vectors out as float32 [n, d], in the order of the places."""
        return floats(self.halves(places))

    def halves(self, places: Ints) -> Halves:
        """Copy vectors out as they are stored, [n, d], in the order of the places."""
        taken = np.empty((len(places), self.dim), np.float16)
        # From the file's beginning to its end: what was copied has no need to stay in the memory of this process too.
        order = np.argsort(places, kind="stable")

        def fill(start: int) -> None:
            rows = order[start : start + _BLOCK]
            found = places[rows]
            taken[rows] = self._vectors[found]
            self._let_go(int(found[0]), int(found[-1]))

        if len(places) <= _BLOCK:
            taken[:] = self._vectors[places]
        else:
            in_threads(fill, range(0, len(places), _BLOCK))
        return taken

    def _let_go(self, first: int, last: int) -> None:
        """Let the system have the pages of some places back."""
        row, page = self.dim * _ITEM, mmap.PAGESIZE
        start, end = -(-first * row // page) * page, last * row // page * page
        if self._map is not None and end > start and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)

    def release(self) -> None:
        """Let the system have the pages back; they come again when they are read."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            places = os.fstat(descriptor).st_size // (self.dim * _ITEM)
            if not places:
                return
            self._map = mmap.mmap(descriptor, places * self.dim * _ITEM, access=mmap.ACCESS_WRITE)
        finally:
            os.close(descriptor)
        # The map before lives as long as anybody looks at it.
        self._vectors = np.frombuffer(self._map, "<f2").reshape(places, self.dim)
