"""The scores behind the evaluation of a version, where they lie and how they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from lensmith_platform.blobs import Blobs
from lensmith_platform.cancellation import thread_to_its_end
from lensmith_platform.errors import InternalError, PreconditionError
from lensmith_registry.version_store import VersionRow
from lensmith_vision import out_of_fold
from lensmith_vision.errors import VisionError
from lensmith_vision.out_of_fold import OutOfFoldPredictions

__all__ = ["EvaluationScores", "out_of_fold_key", "require_ready"]

_LARGE = 2_000_000
"""From so many scores on, a version's take up to 270 MB of memory, so that only one is read at a time."""
_AT_ONCE = 4
"""Of the others, which take up to 40 MB each: whatever no processor is free for would only wait in memory."""


def out_of_fold_key(app_id: int, version_uid: str, sha256: str) -> str:
    """Key of scores among the blobs: of the version that was evaluated; others may name them too, see purging."""
    return f"evaluations/{app_id}/{version_uid}/{sha256}"


def require_ready(row: VersionRow) -> None:
    """Hold that a version has been evaluated.

    Raises:
        PreconditionError: VERSION_NOT_READY.
    """
    if row.state != "READY":
        raise PreconditionError(
            "VERSION_NOT_READY", f"{row.name} is {row.state}, not READY", metadata={"state": row.state}
        )


class EvaluationScores:
    """Reads scores; those of large versions one after the other, and of others a few at a time.

    Args:
        blobs: Where they lie.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._large = asyncio.Lock()
        self._others = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def of(self, row: VersionRow) -> AsyncIterator[OutOfFoldPredictions]:
        """Give the scores of a READY version, which stay in memory until the caller is done.

        Raises:
            PreconditionError: VERSION_NOT_READY, or EVALUATION_SCORES_NOT_STORED.
        """
        self.require(row)
        async with self._place(row):
            yield await self._read(row)

    async def rows_of(self, row: VersionRow, places: Sequence[int]) -> OutOfFoldPredictions:
        """Give the scores of some inputs of a READY version, by their places in the evaluation; at least one.

        Raises:
            PreconditionError: VERSION_NOT_READY, or EVALUATION_SCORES_NOT_STORED.
        """
        self.require(row)
        async with self._place(row):
            return await self._read(row, places)

    @asynccontextmanager
    async def of_two(
        self, first: VersionRow, other: VersionRow
    ) -> AsyncIterator[tuple[OutOfFoldPredictions, OutOfFoldPredictions]]:
        """Give the scores of two READY versions.

        Raises:
            PreconditionError: VERSION_NOT_READY, or EVALUATION_SCORES_NOT_STORED.
        """
        self.require(first)
        self.require(other)
        async with self._place(first, other):
            yield await self._read(first), await self._read(other)

    def _place(self, *rows: VersionRow) -> AbstractAsyncContextManager[None]:
        large = any(row.input_count * len(row.concepts) > _LARGE for row in rows)
        return self._large if large else self._others

    @staticmethod
    def require(row: VersionRow) -> None:
        """Hold that a version is READY and has scores.

        Raises:
            PreconditionError: VERSION_NOT_READY, or EVALUATION_SCORES_NOT_STORED.
        """
        require_ready(row)
        if not row.out_of_fold:
            why = (
                "it was trained before scores were stored: train again"
                if row.head
                else "it came trained and was not evaluated here"
            )
            raise PreconditionError(
                "EVALUATION_SCORES_NOT_STORED",
                f"the scores behind the evaluation of {row.name} are not stored: {why}",
                metadata={"version": str(row.number)},
            )

    async def _read(self, row: VersionRow, places: Sequence[int] | None = None) -> OutOfFoldPredictions:
        data = await self._blobs.get(row.out_of_fold)
        try:
            return await thread_to_its_end(out_of_fold.load, data, places)
        except VisionError as error:
            raise InternalError("EVALUATION_SCORES_DAMAGED", f"the scores of {row.name} cannot be read") from error
