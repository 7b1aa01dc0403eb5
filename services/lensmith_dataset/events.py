"""What the process does besides answering calls: what it listens to, and what it does again and again."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta

from nats.js.errors import NotFoundError

from lensmith_dataset.backfill import Backfill
from lensmith_dataset.indexer import Indexer
from lensmith_dataset.purge import Purge
from lensmith_dataset.settings import DatasetSettings
from lensmith_platform.bus import Bus, Reconciler, WorkConsumer
from lensmith_platform.bus.connection import UNREACHABLE
from lensmith_platform.bus.streams import stream_of
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import DependencyUnavailableError
from lensmith_platform.outbox import OutboxRelay
from lensmith_platform.usage import UsageMeter

_INDEX_DURABLE = "dataset--embed-inputs"
_INDEX_SUBJECT = "inputs.created"
_QUEUE_PATIENCE = 10
"""How much longer an input may wait while there is a queue before it counts as forgotten."""
_MESSAGES_AT_ONCE = 16
"""Messages of new inputs in work: enough to fill batches when each is about one input."""


class Background:
    """The work of this process besides answering.

    Args:
        bus: the connection to NATS.
        worker: the database as the worker role.
        relay: publishes this service's events.
        purge: removes what was deleted; None where another process does.
        indexer: has inputs embedded; None where another process does.
        backfill: has inputs embedded anew; None where another process does.
        meter: tells of usage.
        settings: how often.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        worker: Database,
        relay: OutboxRelay,
        purge: Purge | None,
        indexer: Indexer | None,
        backfill: Backfill | None,
        meter: UsageMeter,
        settings: DatasetSettings,
    ) -> None:
        self._bus = bus
        self._worker = worker
        self._relay = relay
        self.purge = purge
        self._indexer = indexer
        self._backfill = backfill
        self._meter = meter
        self._settings = settings

    async def run(self) -> None:
        """Work until cancelled."""
        work: list[Coroutine[None, None, None]] = [self._relay.run(), self._meter.run()]
        if self.purge is not None:
            work.append(self._delete_apps(self.purge).run())
            work.append(Reconciler("purge", self._settings.purge_interval_seconds, self.purge.run_once).run())
        if self._backfill is not None:
            work.append(self._backfill.run())
        if self._indexer is not None:
            work.append(self._index(self._indexer))
            interval = self._settings.index_poll_seconds
            work.append(Reconciler("index--republish", interval, self._republish).run())
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)

    def _delete_apps(self, purge: Purge) -> WorkConsumer:
        return WorkConsumer(
            self._bus, "dataset--delete-app", "apps.deleted", purge.delete_app, concurrency=1, database=self._worker
        )

    async def _index(self, indexer: Indexer) -> None:
        consumer = WorkConsumer(
            self._bus,
            _INDEX_DURABLE,
            _INDEX_SUBJECT,
            indexer.handle,
            concurrency=_MESSAGES_AT_ONCE,
            database=self._worker,
            grace=5.0,
        )
        async with asyncio.TaskGroup() as tasks:
            batches = tasks.create_task(indexer.run())
            try:
                await consumer.run()
            finally:
                # After the consumer: when the process stops, messages in work are finished first.
                batches.cancel()

    async def _republish(self) -> None:
        """Tell again of inputs that were forgotten, not of those that wait their turn in a long queue."""
        if self._indexer is None:
            return
        # While the bus is away nobody could be told anyway.
        await self._bus.wait_connected()
        age = timedelta(seconds=self._settings.index_stale_seconds)
        try:
            queue = await self._bus.jetstream().consumer_info(stream_of(_INDEX_SUBJECT), _INDEX_DURABLE)
        except NotFoundError:  # Nobody has indexed yet.
            queue = None
        except UNREACHABLE as error:
            raise DependencyUnavailableError("NATS_UNAVAILABLE", "The bus did not tell of its queue.") from error
        if queue is not None and queue.num_pending:
            age *= _QUEUE_PATIENCE
        await self._indexer.republish(age)
