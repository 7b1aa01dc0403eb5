"""The indexer: has inputs embedded in batches, across messages, and makes them READY or FAILED.

A message is acknowledged when all its inputs are settled. Whatever dies in between, dies without a trace: the inputs
stay PENDING, the message comes back, and what was settled already is skipped. Nothing is locked while bytes travel.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from lensmith_api.internal.v1.events_pb2 import Event, InputsCreated
from lensmith_dataset.embedder import Embedded, Embedder, Picture
from lensmith_dataset.metrics import IndexMetrics
from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_dataset.settings import DatasetSettings
from lensmith_dataset.store import apps, blobs, indexing, missing_embeddings, spaces
from lensmith_dataset.store.indexing import Waiting
from lensmith_platform import outbox
from lensmith_platform.blobs import blob_key
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import (
    ConflictError,
    DependencyUnavailableError,
    LensmithError,
    NotFoundError,
    QuotaExceededError,
    to_status,
)
from lensmith_platform.principal import AppRef

_LOG = structlog.get_logger(__name__)

_ALONE_AFTER_ATTEMPTS = 3
"""Failed batches after which a picture travels alone: it may be the one that makes its whole batch fail."""
_EVENT_INPUTS = 128
_STALE_AT_ONCE = 2048
_GETS_AT_ONCE = 8

Settled = asyncio.Future[None]
"""Done when an input is settled, or with the error that left it waiting."""


@dataclass(frozen=True, slots=True)
class _Item:
    """An input on its way."""

    app: AppRef
    input: Waiting
    settled: Settled

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch."""
        return self.input.attempts >= _ALONE_AFTER_ATTEMPTS


class Indexer:
    """Has inputs embedded.

    Args:
        database: of the worker role.
        files: where the bytes are.
        embedder: asks inference.
        settings: sizes and numbers of batches.
        metrics: what is counted.
    """

    def __init__(
        self,
        database: Database,
        files: RecentBlobs,
        embedder: Embedder,
        settings: DatasetSettings,
        metrics: IndexMetrics,
    ) -> None:
        self._database = database
        self._files = files
        self._embedder = embedder
        self._settings = settings
        self._metrics = metrics
        self._queues: OrderedDict[int, deque[_Item]] = OrderedDict()
        self._known: dict[UUID, Settled] = {}
        self._arrived = asyncio.Event()
        # One batch more than inference has: its bytes are fetched meanwhile.
        self._room = asyncio.Semaphore(settings.index_batches_at_once + 1)
        self._embedding = asyncio.Semaphore(settings.index_batches_at_once)

    async def handle(self, event: Event) -> None:
        """Have the inputs of an `inputs.created` embedded; return when none of them waits any more.

        Raises:
            DependencyUnavailableError: some had to be left waiting.
        """
        uids = [UUID(uid) for uid in event.inputs_created.input_uids]
        async with self._database.transaction(event.app_id) as connection:
            app = await apps.get(connection, event.app_id)
            found = await indexing.waiting(connection, event.app_id, uids) if app is not None else []
        if app is None:
            return
        settled = [self._enqueue(app, item) for item in found]
        if settled:
            # Not gathered: a cancelled handler must not take along what another message waits for as well.
            await asyncio.wait(settled)
        for future in settled:
            if (error := future.exception()) is not None:
                raise error

    def _enqueue(self, app: AppRef, waiting: Waiting) -> Settled:
        # A second message about an input that is on its way, from the reconciler for example, waits for the first.
        if (known := self._known.get(waiting.uid)) is not None:
            return known
        settled: Settled = asyncio.get_running_loop().create_future()
        self._known[waiting.uid] = settled
        self._queues.setdefault(app.app_id, deque()).append(_Item(app, waiting, settled))
        self._arrived.set()
        return settled

    async def run(self) -> None:
        """Form batches and have them embedded until cancelled; what is under way then stays PENDING."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._room.acquire()
                batch = await self._next_batch()
                tasks.create_task(self._process(batch)).add_done_callback(lambda _: self._room.release())

    async def _next_batch(self) -> list[_Item]:
        """Wait for a batch: of the app that has waited longest, full or as old as a batch may grow."""
        while not self._queues:
            self._arrived.clear()
            await self._arrived.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.index_wait_seconds
        while len(next(iter(self._queues.values()))) < self._settings.index_batch and loop.time() < until:
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                break
        return self._take()

    def _take(self) -> list[_Item]:
        app_id, queue = self._queues.popitem(last=False)
        batch = [queue.popleft()]
        size = batch[0].input.size_bytes
        while queue and len(batch) < self._settings.index_batch and not (batch[0].alone or queue[0].alone):
            size += queue[0].input.size_bytes
            if size > self._settings.index_batch_bytes:
                break
            batch.append(queue.popleft())
        if queue:
            self._queues[app_id] = queue  # at the end: the other apps come first
        return batch

    async def _process(self, batch: list[_Item]) -> None:
        """Settle a batch; whatever happens, its messages learn of it."""
        # What a cancelled batch leaves behind: its messages must not be acknowledged.
        outcome: set[int] | DependencyUnavailableError = _later("the indexer stopped")
        try:
            outcome = await self._settle(batch)
        except LensmithError as error:
            outcome = error if isinstance(error, DependencyUnavailableError) else _later(str(error))
            _LOG.warning("index_batch_waits", app_id=batch[0].app.app_id, inputs=len(batch), reason=error.reason)
        except Exception as error:
            outcome = _later(type(error).__name__)
            _LOG.exception("index_batch_failed", app_id=batch[0].app.app_id, inputs=len(batch))
        finally:
            for item in batch:
                self._tell(item, outcome)

    async def _count_failure(self, app_id: int, ids: list[int]) -> None:
        if not ids:
            return
        try:
            async with self._database.transaction(app_id) as connection:
                await indexing.count_failure(connection, app_id, ids)
        except LensmithError as error:
            # Only a count: without it a picture that breaks its batches is found a round later.
            _LOG.warning("index_failure_not_counted", app_id=app_id, reason=error.reason)

    def _tell(self, item: _Item, outcome: set[int] | DependencyUnavailableError) -> None:
        """Tell the messages that wait for an input what became of it: settled, or one of those left waiting."""
        self._known.pop(item.input.uid, None)
        if isinstance(outcome, DependencyUnavailableError):
            item.settled.set_exception(outcome)
        elif item.input.id in outcome:
            item.settled.set_exception(_later("inference did not embed it"))
        else:
            item.settled.set_result(None)
            return
        item.settled.exception()  # its message may be gone: nobody has to ask

    async def _settle(self, batch: list[_Item]) -> set[int]:
        """Get the bytes, have them embedded, and write down what became of them; return the inputs still waiting."""
        app = batch[0].app
        room = asyncio.Semaphore(_GETS_AT_ONCE)

        async def get(item: _Item) -> bytes | NotFoundError:
            async with room:
                try:
                    return await self._files.get(blob_key(app.uid, item.input.sha256.hex()))
                except NotFoundError as error:
                    return error

        gotten = await asyncio.gather(*(get(item) for item in batch))
        failures: dict[int, bytes] = {}
        missing: list[bytes] = []
        pictures: list[Picture] = []
        for item, data in zip(batch, gotten, strict=True):
            if isinstance(data, NotFoundError):
                failures[item.input.id] = to_status(data).SerializeToString()
                missing.append(item.input.sha256)
            else:
                hopeless = item.input.attempts >= self._settings.index_give_up_attempts
                pictures.append(Picture(item.input.id, data, hopeless))
        embedded = Embedded("", {}, {})
        if pictures:
            embedded = await self._embed(app, pictures)
        await self._write(app, embedded, failures | dict(embedded.failures), missing)
        return {item.input.id for item in batch} - embedded.vectors.keys() - embedded.failures.keys() - failures.keys()

    async def _embed(self, app: AppRef, pictures: list[Picture]) -> Embedded:
        try:
            async with self._embedding:
                async with self._database.transaction(app.app_id) as connection:
                    space = await spaces.current(connection, app.app_id)
                embedded = await self._embedder.embed(app, pictures, space)
        except (QuotaExceededError, ConflictError):
            raise  # Inference is busy: no picture is to blame, and small batches would make it busier.
        except LensmithError:
            await self._count_failure(app.app_id, [picture.id for picture in pictures])
            raise
        await self._count_failure(app.app_id, sorted(embedded.broken))
        return embedded

    async def _write(self, app: AppRef, embedded: Embedded, failures: dict[int, bytes], missing: list[bytes]) -> None:
        async def write() -> tuple[int, int]:
            async with self._database.transaction(app.app_id) as connection:
                if missing:
                    await blobs.mark_missing(connection, app.app_id, missing)
                others = await spaces.others_wanted(connection, app.app_id, embedded.space) if embedded.vectors else []
                done = await indexing.finish(
                    connection, app.app_id, embedded.space, embedded.vectors, failures, embedded.general
                )
                await missing_embeddings.note_missing(connection, app.app_id, others, list(embedded.vectors))
                return done

        ready, failed = await self._database.retry(write)
        self._metrics.inputs.labels("ready").inc(ready)
        self._metrics.inputs.labels("failed").inc(failed)

    async def quiet(self, seconds: float) -> None:
        """Return when no input is on its way, or after `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._known and (left := until - loop.time()) > 0:
            await asyncio.wait(set(self._known.values()), timeout=left)

    async def republish(self, age: timedelta) -> None:
        """Tell again of inputs that have waited for `age` without progress: their message was lost or given up."""
        async with self._database.transaction(None) as connection:
            stale = await indexing.claim_stale(connection, age, _STALE_AT_ONCE)
            for app_id, uids in stale.items():
                for start in range(0, len(uids), _EVENT_INPUTS):
                    created = InputsCreated(input_uids=[str(uid) for uid in uids[start : start + _EVENT_INPUTS]])
                    await outbox.publish(connection, Event(app_id=app_id, inputs_created=created))
        if stale:
            _LOG.info("index_republished", inputs=sum(map(len, stale.values())))


def _later(why: str) -> DependencyUnavailableError:
    return DependencyUnavailableError("INPUT_WAITS", f"an input could not be embedded now: {why}")
