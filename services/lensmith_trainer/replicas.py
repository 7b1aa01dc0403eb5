"""All replicas of this machine: brought up to date before a job, thrown away when they are damaged or too many."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lensmith_api.internal.v1.training_data_service_pb2 import StreamTrainingDataRequest
from lensmith_platform.errors import InternalError, InvalidInputError
from lensmith_trainer.holding import Holding, TrainingRows
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.replica import Replica, ReplicaDamagedError, ReplicaUpdate, files_of
from lensmith_trainer.unbroken import ended

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["Replicas"]

_LOCK_SECONDS = 0.1
_FORGOTTEN_SECONDS = 7 * 86400.0
"""Nobody tells a trainer which apps are deleted: what it knows of one goes when nobody has asked for it for so long."""
_SUFFIX = ".sqlite"
_Argument = TypeVar("_Argument")
_LOG = logging.getLogger(__name__)


class Replicas:
    """Replicas in one folder, which several trainers of a machine may share.

    Args:
        folder: Made if it is missing, readable by this user only.
        max_bytes: Most bytes to keep between jobs.
        memory_bytes: Most bytes of them to keep in memory as well.
        training_data: dataset, which streams what has changed.
        stream_seconds: Deadline of such a stream.
        metrics: Where what it sends is counted.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        memory_bytes: int,
        training_data: TrainingDataServiceAsyncStub,
        stream_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._folder = folder
        self._max_bytes = max_bytes
        self._memory_bytes = memory_bytes
        self._holdings: OrderedDict[Path, Holding] = OrderedDict()
        self._lent: Counter[Path] = Counter()
        self._training_data = training_data
        self._stream_seconds = stream_seconds

    async def prepare(self) -> None:
        """Make the folder, and remove what was forgotten in it.

        Raises:
            OSError: It cannot be made.
        """
        await asyncio.to_thread(lambda: self._folder.mkdir(parents=True, exist_ok=True, mode=0o700))
        await self._make_room()

    async def rows(
        self,
        app_id: int,
        space: str,
        concepts: Iterable[str],
        on_received: Callable[[int], None],
        *,
        tests: bool = False,
    ) -> TrainingRows:
        """Bring a replica up to date and return the inputs that carry any of the concepts, in order of uid.

        Args:
            app_id: The app.
            space: Space of the vectors.
            concepts: Own ids.
            on_received: Told the number of inputs received so far.
            tests: Whether those marked as test are wanted too.

        Raises:
            LensmithError: dataset is away, or refuses.
        """
        wanted = tuple(concepts)
        async with self.opened(app_id, space, on_received) as holding:
            return await asyncio.to_thread(holding.take, wanted, tests=tests)

    @asynccontextmanager
    async def lent(self, app_id: int, space: str) -> AsyncIterator[Path]:
        """Bring a replica up to date for another process to read; gives the path of its database.

        It is not thrown away meanwhile, but others may go on with it: whoever reads does so in one transaction.

        Raises:
            LensmithError: dataset is away, or refuses; or the other process found the files damaged.
        """
        path = self._path(app_id, space)
        self._lent[path] += 1
        try:
            async with self.opened(app_id, space, lambda received: None):
                pass
            yield path
        except ReplicaDamagedError as error:
            # What is held in memory may be whole while the files are not: next time they are read, and made anew.
            async with _exclusive(path.with_suffix(".lock")):
                self._holdings.pop(path, None)
            raise InternalError(
                "REPLICA_DAMAGED", f"the replica is looked through when it is used next: {error}"
            ) from error
        finally:
            self._lent[path] -= 1
            await self._make_room()

    @asynccontextmanager
    async def opened(self, app_id: int, space: str, on_received: Callable[[int], None]) -> AsyncIterator[Holding]:
        """Bring a replica up to date and hold it: as long as the block lasts, nobody changes it.

        Raises:
            LensmithError: dataset is away, or refuses.
        """
        path = self._path(app_id, space)
        try:
            async with _exclusive(path.with_suffix(".lock")):
                yield await self._whole(path, app_id, space, on_received)
        finally:
            await self._make_room()

    @asynccontextmanager
    async def held(self, app_id: int, space: str) -> AsyncIterator[Holding | None]:
        """Hold a replica as it is, where it is in memory: as long as the block lasts, nobody changes it."""
        path = self._path(app_id, space)
        async with _exclusive(path.with_suffix(".lock")):
            yield self._holdings.get(path)

    async def _whole(self, path: Path, app_id: int, space: str, on_received: Callable[[int], None]) -> Holding:
        replica = Replica(path, app_id, space)
        for _ in range(2):
            try:
                return await self._updated(replica, path, app_id, space, on_received)
            except ReplicaDamagedError as error:
                _LOG.warning("replica is made anew: %s", error)
                await asyncio.to_thread(replica.discard)
        raise InternalError("REPLICA_DAMAGED", f"the replica {path} is damaged again as soon as it is made")

    async def _updated(
        self, replica: Replica, path: Path, app_id: int, space: str, on_received: Callable[[int], None]
    ) -> Holding:
        """Fetch what has changed, write it down, and apply it to what is held in memory."""
        cursor = await asyncio.to_thread(replica.cursor)
        # Taken out until it is whole again: a failure on the way leaves the files to begin from.
        holding = self._holdings.pop(path, None)
        if holding is None or holding.cursor != cursor:
            # Another process went on with the files, or they are new.
            holding = await asyncio.to_thread(replica.hold)
        request = StreamTrainingDataRequest(app_id=app_id, space=space, cursor=holding.cursor, side_by_side=True)
        try:
            with replica.update(holding) as update:
                cursor = await self._received(request, update, on_received)
                if cursor != holding.cursor:
                    await _unbroken(update.finish, cursor)
        except InvalidInputError as error:
            if not request.cursor:
                raise
            # The cursor is of another life of dataset's database: begin again.
            raise ReplicaDamagedError(f"dataset refuses the cursor: {error}") from error
        except ValueError as error:
            raise ReplicaDamagedError(f"what dataset sends does not fit to {path}: {error}") from error
        self._keep(path, holding)
        return holding

    async def _received(
        self, request: StreamTrainingDataRequest, update: ReplicaUpdate, on_received: Callable[[int], None]
    ) -> str:
        """Receive a stream and apply it, each part while the next one is on its way; return its cursor."""
        received, next_cursor = 0, ""
        applying: asyncio.Task[int] | None = None
        try:
            async for message in self._training_data.StreamTrainingData(request, timeout=self._stream_seconds):
                if applying is not None:
                    received += await asyncio.shield(applying)
                    on_received(received)
                applying = asyncio.create_task(asyncio.to_thread(update.apply, message))
                next_cursor = message.next_cursor or next_cursor
            if applying is not None:
                received += await asyncio.shield(applying)
                on_received(received)
        finally:
            # Nothing may be closed under a thread that still writes.
            if applying is not None:
                await ended(applying)
            self._metrics.inputs_received.inc(received)
        if not next_cursor:
            raise InternalError("STREAM_INCOMPLETE", "the stream of training data ended without a cursor")
        return next_cursor

    def _keep(self, path: Path, holding: Holding) -> None:
        """Keep it in memory, and of the others those used last, as far as there is room."""
        self._holdings[path] = holding
        total = sum(kept.nbytes for kept in self._holdings.values())
        while total > self._memory_bytes and self._holdings:
            _, dropped = self._holdings.popitem(last=False)
            total -= dropped.nbytes

    def _path(self, app_id: int, space: str) -> Path:
        return self._folder / f"{app_id}-{hashlib.sha256(space.encode()).hexdigest()[:16]}{_SUFFIX}"

    async def _make_room(self) -> None:
        """Delete the replicas that were unused for too long, or for longest until the rest fits; those in use stay."""
        for path in await asyncio.to_thread(self._evict):
            # The system keeps the bytes of a file that is still mapped.
            self._holdings.pop(path, None)

    def _evict(self) -> list[Path]:
        """Delete files as `_make_room` says; return the paths of the replicas that are gone."""
        found, gone = [], []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, sum(map(_size, files_of(path))), path))
        total = sum(size for _, size, _ in found)
        for used_at, size, path in sorted(found):
            if total <= self._max_bytes and used_at > time.time() - _FORGOTTEN_SECONDS:
                break
            if self._lent[path]:
                continue
            lock = _try_lock(path.with_suffix(".lock"))
            if lock is None:
                continue
            try:
                for file in files_of(path):
                    file.unlink(missing_ok=True)
                total -= size
                gone.append(path)
            finally:
                os.close(lock)
        return gone


@asynccontextmanager
async def _exclusive(path: Path) -> AsyncIterator[None]:
    """Hold a replica alone among all processes of the machine; the system frees it when a process dies."""
    # A lock of another process cannot wake us.
    while (lock := _try_lock(path)) is None:  # noqa: ASYNC110
        await asyncio.sleep(_LOCK_SECONDS)
    try:
        yield
        # Its last use, for the order of eviction.
        await asyncio.to_thread(_touch, path.with_suffix(_SUFFIX))
    finally:
        os.close(lock)


async def _unbroken(function: Callable[[_Argument], None], argument: _Argument) -> None:
    """Run a write in a thread to its end, also when cancelled: the lock must not be freed before."""
    writing = asyncio.ensure_future(asyncio.to_thread(function, argument))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await ended(writing)
        raise


def _try_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _size(file: Path) -> int:
    """Bytes of a file; others may close their database, or delete it, at any moment."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _touch(path: Path) -> None:
    if path.exists():
        os.utime(path)
