"""The outbox: what was committed reaches the bus, at least once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lensmith_api.internal.v1.events_pb2 import Event, InputsCreated
from lensmith_platform.bus import Bus, WorkConsumer
from lensmith_platform.db import Database
from lensmith_platform.errors import DependencyUnavailableError, InternalError
from lensmith_platform.events import SUBJECTS, subject_of
from lensmith_platform.outbox import OutboxRelay, publish
from lensmith_platform.telemetry import trace_of_event
from tests.lensmith_platform.background import background

if TYPE_CHECKING:
    from tests.lensmith_platform.conftest import Kill, Until

    OpenDatabase = Callable[..., Awaitable[Database]]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def created(app_id: int) -> Event:
    return Event(app_id=app_id, inputs_created=InputsCreated(input_uids=[str(uuid.uuid4())]))


async def left(worker: Database) -> int:
    async with worker.transaction(None) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM outbox"))


def test_every_kind_of_event_has_a_subject_of_a_stream() -> None:
    payloads = {field.name for field in Event.DESCRIPTOR.oneofs_by_name["payload"].fields}
    assert set(SUBJECTS) == payloads
    assert {subject.partition(".")[0] for subject in SUBJECTS.values()} == {"inputs", "models", "apps", "usage"}
    with pytest.raises(ValueError, match="payload"):
        subject_of(Event())


async def test_an_event_arrives_with_its_trace_when_its_transaction_commits(
    dataset: OpenDatabase, bus: Bus, until: Until
) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    received: list[Event] = []

    async def handle(event: Event) -> None:
        received.append(event)

    consumer = WorkConsumer(bus, "test--see-all", "inputs.created", handle)
    async with background(OutboxRelay(worker, bus).run(), consumer.run()):
        with trace_of_event(TRACEPARENT):
            async with service.transaction(7) as connection:
                event = created(7)
                await publish(connection, event)
        with suppress(ZeroDivisionError):
            async with service.transaction(7) as connection:
                await publish(connection, created(7))
                raise ZeroDivisionError
        await until(lambda: received)
        await until(lambda: left_is_zero(worker))
    assert received == [event]
    assert received[0].traceparent.split("-")[1] == TRACEPARENT.split("-")[1]
    assert uuid.UUID(received[0].id)
    assert received[0].create_time.seconds > 0


async def left_is_zero(worker: Database) -> bool:
    return await left(worker) == 0


async def test_an_event_of_another_app_is_refused_when_the_transaction_is_bound(dataset: OpenDatabase) -> None:
    service = await dataset()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with service.transaction(7) as connection:
            await publish(connection, created(8))
    async with service.transaction(7) as connection:
        await publish(connection, created(0))
    async with service.transaction(None) as connection:
        await publish(connection, created(8))
    async with service.transaction(7) as connection:
        assert await connection.fetch("SELECT * FROM outbox") == []


async def test_a_huge_event_is_refused(dataset: OpenDatabase) -> None:
    event = Event(app_id=7, inputs_created=InputsCreated(input_uids=["x" * 1_000_000]))
    with pytest.raises(InternalError) as raised:
        async with (await dataset()).transaction(7) as connection:
            await publish(connection, event)
    assert raised.value.reason == "EVENT_TOO_LARGE"


async def test_events_keep_their_order_when_one_relay_publishes_them(dataset: OpenDatabase, bus: Bus) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    events = [created(7) for _ in range(600)]
    for start in range(0, len(events), 100):
        async with service.transaction(7) as connection:
            for event in events[start : start + 100]:
                await publish(connection, event)
    relay = OutboxRelay(worker, bus)
    while await relay.relay_once():
        pass
    jetstream = bus.jetstream()
    stored = [Event.FromString((await jetstream.get_msg("INPUTS", number + 1)).data) for number in range(600)]
    assert [event.id for event in stored] == [event.id for event in events]


async def test_processed_events_are_forgotten_when_no_stream_holds_them_any_more(
    dataset: OpenDatabase, bus: Bus, until: Until
) -> None:
    worker = await dataset(worker=True)

    async def remembered() -> list[int]:
        async with worker.transaction(None) as connection:
            rows = await connection.fetch("SELECT (now() - processed_at) FROM processed_events ORDER BY 1")
        return [row[0].days for row in rows]

    async with worker.transaction(None) as connection:
        for days in (0, 29, 32):
            await connection.execute(
                "INSERT INTO processed_events VALUES (gen_random_uuid(), 'x', now() - $1 * interval '1 day')", days
            )

    async def is_forgotten() -> bool:
        return await remembered() == [0, 29]

    async with background(OutboxRelay(worker, bus).run()):
        await until(is_forgotten)


async def test_nothing_is_published_twice_when_several_relays_share_an_outbox(dataset: OpenDatabase, bus: Bus) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    async with service.transaction(7) as connection:
        for _ in range(1000):
            await publish(connection, created(7))
    counts = await asyncio.gather(*(OutboxRelay(worker, bus).relay_once() for _ in range(6)))
    assert sum(counts) == 1000
    assert (await bus.jetstream().stream_info("INPUTS")).state.messages == 1000


async def test_a_batch_is_finished_when_the_relay_is_cancelled(dataset: OpenDatabase, bus: Bus, until: Until) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    async with service.transaction(7) as connection:
        for _ in range(200):
            await publish(connection, created(7))
    task = asyncio.create_task(OutboxRelay(worker, bus).run())

    async def is_claimed() -> bool:
        async with worker.transaction(None) as connection:
            return not await connection.fetchval("SELECT count(*) FROM outbox WHERE attempts = 0")

    await until(is_claimed)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left(worker) == 0
    assert (await bus.jetstream().stream_info("INPUTS")).state.messages == 200


async def test_no_event_is_lost_when_nats_is_killed(dataset: OpenDatabase, bus: Bus, kill: Kill, until: Until) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    written: set[str] = set()
    received: set[str] = set()
    writing = True

    async def handle(event: Event) -> None:
        received.add(event.id)

    async def write() -> None:
        while writing:
            event = created(7)
            async with service.transaction(7) as connection:
                await publish(connection, event)
            written.add(event.id)
            await asyncio.sleep(0.001)

    relay = OutboxRelay(worker, bus)
    consumer = WorkConsumer(bus, "test--see-all", "inputs.created", handle, concurrency=50)
    writer = asyncio.create_task(write())
    async with background(relay.run(), consumer.run()):
        await until(lambda: len(received) > 50)
        await kill("nats")
        seen = len(received)
        await until(lambda: len(received) > seen + 50)
        writing = False
        await writer
        await until(lambda: received >= written)
        await until(lambda: left_is_zero(worker))


async def test_no_event_is_lost_when_postgres_is_killed(
    dataset: OpenDatabase, bus: Bus, kill: Kill, until: Until
) -> None:
    service, worker = await dataset(), await dataset(worker=True)
    committed: set[str] = set()
    received: set[str] = set()

    async def handle(event: Event) -> None:
        received.add(event.id)

    async def write() -> None:
        event = created(7)
        with suppress(DependencyUnavailableError):
            async with service.transaction(7) as connection:
                await publish(connection, event)
            committed.add(event.id)

    consumer = WorkConsumer(bus, "test--see-all", "inputs.created", handle, concurrency=50)
    async with background(OutboxRelay(worker, bus).run(), consumer.run()):
        for _ in range(50):
            await write()
        killing = asyncio.create_task(kill("postgres"))
        while not killing.done():
            await write()
            await asyncio.sleep(0.01)
        await killing
        before = len(committed)
        while len(committed) < before + 50:
            await write()
        await until(lambda: received >= committed)
