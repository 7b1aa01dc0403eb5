"""The bus: connection, work, broadcasts, reconcilers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import nats
import pytest
from nats.aio.msg import Msg
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from lensmith_api.internal.v1.events_pb2 import Event, ModelChanged, ModelVersionQueued
from lensmith_platform.bus import BroadcastConsumer, Bus, Reconciler, WorkConsumer, connect
from lensmith_platform.db import Database
from lensmith_platform.errors import DependencyUnavailableError, InternalError, InvalidInputError
from tests.lensmith_platform.background import background

if TYPE_CHECKING:
    from tests.lensmith_platform.conftest import Kill, Until

    OpenDatabase = Callable[..., Awaitable[Database]]


def queued() -> Event:
    return Event(app_id=7, model_version_queued=ModelVersionQueued(version_uid=str(uuid.uuid4())))


def changed(model: str = "m") -> Event:
    return Event(app_id=7, model_changed=ModelChanged(model=model))


async def publish(bus: Bus, count: int) -> list[str]:
    events = [queued() for _ in range(count)]
    for event in events:
        await bus.publish(event)
    return [event.id for event in events]


async def unsettled(bus: Bus, durable: str) -> int:
    info = await bus.jetstream().consumer_info("MODELS", durable)
    return int(info.num_ack_pending or 0) + int(info.num_pending or 0)


async def is_settled(bus: Bus, durable: str) -> bool:
    with suppress(NotFoundError):  # The consumer is made when it runs.
        return await unsettled(bus, durable) == 0
    return False


async def letters(worker: Database) -> list[tuple[str, str, int]]:
    async with worker.transaction(None) as connection:
        rows = await connection.fetch("SELECT consumer, reason, deliveries FROM dead_letters ORDER BY created_at")
    return [tuple(row) for row in rows]


async def test_publishing_fails_at_once_when_nats_is_away() -> None:
    async with await connect("nats://u:p@127.0.0.1:1") as bus:
        assert not bus.is_connected
        with pytest.raises(DependencyUnavailableError) as raised:
            await bus.publish(queued())
        assert raised.value.reason == "NATS_UNAVAILABLE"


async def test_the_bus_connects_when_nats_comes_up_later_and_again_after_a_kill(
    nats_url: str, kill: Kill, until: Until
) -> None:
    async with await connect(nats_url) as bus:
        received: list[bytes] = []

        async def listen(payload: bytes) -> None:
            received.append(payload)

        await bus.subscribe_core("auth.revocations", listen)
        await until(lambda: bus.is_connected)
        await bus.publish_core("auth.revocations", b"1")
        await until(lambda: received == [b"1"])
        generation = bus.generation
        await kill("nats")
        await until(lambda: bus.generation > generation)
        await bus.publish_core("auth.revocations", b"2")
        await until(lambda: received == [b"1", b"2"])
        await bus.publish(queued())


async def test_a_callback_is_called_again_when_it_raised(bus: Bus, until: Until) -> None:
    received: list[bytes] = []

    async def listen(payload: bytes) -> None:
        received.append(payload)
        raise ValueError("no")

    subscription = await bus.subscribe_core("auth.revocations", listen)
    for payload in (b"1", b"2"):
        await bus.publish_core("auth.revocations", payload)
    await until(lambda: received == [b"1", b"2"])
    await subscription.unsubscribe()
    await subscription.unsubscribe()


async def test_streams_get_their_configuration_when_another_one_is_there(nats_url: str) -> None:
    async with await connect(nats_url, wait_seconds=30) as bus:
        await bus.jetstream().update_stream(StreamConfig(name="MODELS", subjects=["models.>"], max_age=5))
    async with await connect(nats_url, wait_seconds=30) as bus:
        assert (await bus.jetstream().stream_info("MODELS")).config.max_age == 7 * 24 * 3600


async def test_each_event_is_done_once_when_processes_share_the_work(bus: Bus, until: Until) -> None:
    ids = await publish(bus, 100)
    done: list[str] = []

    async def handle(event: Event) -> None:
        done.append(event.id)

    consumers = [WorkConsumer(bus, "test--work", "models.version_queued", handle, concurrency=4) for _ in range(3)]
    async with background(*(consumer.run() for consumer in consumers)):
        await until(lambda: len(done) == 100)
        await until(lambda: is_settled(bus, "test--work"))
    assert sorted(done) == sorted(ids)


async def test_only_so_many_events_are_in_work_at_once(bus: Bus, until: Until) -> None:
    await publish(bus, 30)
    at_once: list[int] = []
    working = done = 0

    async def handle(_event: Event) -> None:
        nonlocal working, done
        working += 1
        at_once.append(working)
        await asyncio.sleep(0.005)
        working -= 1
        done += 1

    async with background(WorkConsumer(bus, "test--work", "models.version_queued", handle, concurrency=3).run()):
        await until(lambda: done == 30)
    assert max(at_once) == 3


async def test_only_so_many_events_are_in_work_when_more_come_than_were_asked_for(
    bus: Bus, nats_url: str, until: Until
) -> None:
    asked: list[Msg] = []

    async def see(request: Msg) -> None:
        asked.append(request)

    client = await nats.connect(nats_url)
    await client.subscribe("$JS.API.CONSUMER.MSG.NEXT.MODELS.test--work", cb=see)
    await client.flush()
    permits, working, peak, done = asyncio.Semaphore(0), 0, 0, 0

    async def handle(_event: Event) -> None:
        nonlocal working, peak, done
        working += 1
        peak = max(peak, working)
        await permits.acquire()
        working -= 1
        done += 1

    async with background(WorkConsumer(bus, "test--work", "models.version_queued", handle, concurrency=3).run()):
        await until(lambda: asked)
        # A second request in the consumer's name: what the server owes is more than what was asked for last.
        await client.publish(asked[-1].subject, b'{"batch": 12}', reply=asked[-1].reply)
        await publish(bus, 12)
        await until(lambda: working == 3)
        for ended in range(1, 13):
            # Two at a time.
            permits.release()
            if ended % 2 == 0:
                await until(lambda ended=ended: done == ended)
        await until(lambda: is_settled(bus, "test--work"))
    await client.close()
    assert peak == 3
    # Where it asked for several, it would wait for all of them while the second request is open.
    assert {json.loads(request.data)["batch"] for request in asked} == {1, 12}


async def test_a_message_becomes_a_dead_letter_when_its_error_is_permanent(
    dataset: OpenDatabase, bus: Bus, until: Until
) -> None:
    worker = await dataset(worker=True)
    await publish(bus, 1)
    await bus.publish_message("models.version_queued", b"\xff\xff no event", "x")

    async def handle(_event: Event) -> None:
        raise InvalidInputError("VERSION_UNKNOWN", "There is no such version.")

    consumer = WorkConsumer(bus, "test--work", "models.version_queued", handle, database=worker)
    async with background(consumer.run()):
        await until(lambda: is_settled(bus, "test--work"))
    assert sorted(await letters(worker)) == [("test--work", "NOT_AN_EVENT", 1), ("test--work", "VERSION_UNKNOWN", 1)]


async def test_a_message_comes_again_and_then_is_a_dead_letter_when_its_handler_keeps_failing(
    dataset: OpenDatabase, bus: Bus, until: Until
) -> None:
    worker = await dataset(worker=True)
    await publish(bus, 1)
    tries = 0

    async def handle(_event: Event) -> None:
        nonlocal tries
        tries += 1
        raise InternalError("BROKEN", "Broken.") if tries == 1 else KeyError("x")

    consumer = WorkConsumer(bus, "test--work", "models.version_queued", handle, max_deliver=2, database=worker)
    async with background(consumer.run()):
        await until(lambda: is_settled(bus, "test--work"))
    assert tries == 2
    assert await letters(worker) == [("test--work", "HANDLER_FAILED", 2)]


async def test_no_delivery_is_used_up_when_a_dependency_is_away(bus: Bus, until: Until) -> None:
    await publish(bus, 1)
    tries = 0

    async def handle(_event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise DependencyUnavailableError("S3_UNAVAILABLE", "Away.")

    consumer = WorkConsumer(bus, "test--work", "models.version_queued", handle, max_deliver=1)
    async with background(consumer.run()):
        await until(lambda: is_settled(bus, "test--work"))
    assert tries == 3


async def test_the_message_is_kept_when_the_dead_letter_cannot_be_stored(
    dataset: OpenDatabase, bus: Bus, kill: Kill, until: Until
) -> None:
    worker = await dataset(worker=True)
    await publish(bus, 1)
    tries = 0
    dying: list[asyncio.Task[None]] = []

    async def handle(_event: Event) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            dying.append(asyncio.create_task(kill("postgres")))
            await asyncio.sleep(0)
        raise InvalidInputError("VERSION_UNKNOWN", "There is no such version.")

    consumer = WorkConsumer(bus, "test--work", "models.version_queued", handle, database=worker)
    async with background(consumer.run()):
        await until(lambda: is_settled(bus, "test--work"))
        await dying[0]
    assert [letter[:2] for letter in await letters(worker)] == [("test--work", "VERSION_UNKNOWN")]


async def test_a_long_handler_keeps_its_message_when_it_takes_longer_than_the_ack_wait(bus: Bus, until: Until) -> None:
    await publish(bus, 1)
    started = 0
    end = asyncio.Event()

    async def handle(_event: Event) -> None:
        nonlocal started
        started += 1
        await end.wait()

    consumers = [
        WorkConsumer(bus, "test--work", "models.version_queued", handle, concurrency=2, ack_wait=0.6) for _ in range(2)
    ]
    async with background(*(consumer.run() for consumer in consumers)):
        await until(lambda: started)
        before = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > before + 2)
        end.set()
        await until(lambda: is_settled(bus, "test--work"))
    assert started == 1


async def test_work_in_hand_is_finished_when_the_consumer_is_stopped(bus: Bus, until: Until) -> None:
    await publish(bus, 1)
    started, end = asyncio.Event(), asyncio.Event()

    async def handle(_event: Event) -> None:
        started.set()
        await end.wait()

    consumer = WorkConsumer(bus, "test--work", "models.version_queued", handle)
    task = asyncio.create_task(consumer.run())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: is_settled(bus, "test--work"))


async def test_work_comes_back_when_the_grace_of_a_stopped_consumer_was_too_short(bus: Bus, until: Until) -> None:
    (event_id,) = await publish(bus, 1)
    started = asyncio.Event()
    done: list[str] = []

    async def hang(_event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    async def handle(event: Event) -> None:
        done.append(event.id)

    first = WorkConsumer(bus, "test--work", "models.version_queued", hang, ack_wait=1, grace=0.05)
    task = asyncio.create_task(first.run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with background(WorkConsumer(bus, "test--work", "models.version_queued", handle, ack_wait=1).run()):
        await until(lambda: done == [event_id])


async def test_a_message_is_given_up_unhandled_when_it_killed_its_handlers(
    dataset: OpenDatabase, bus: Bus, until: Until
) -> None:
    worker = await dataset(worker=True)
    await publish(bus, 1)
    for _ in range(2):
        started = asyncio.Event()

        async def hang(_event: Event, started: asyncio.Event = started) -> None:
            started.set()
            await asyncio.Event().wait()

        consumer = WorkConsumer(bus, "test--work", "models.version_queued", hang, ack_wait=0.5, grace=0.01)
        task = asyncio.create_task(consumer.run())
        await started.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def never(_event: Event) -> None:
        raise AssertionError("It must not be handled a third time.")

    consumer = WorkConsumer(
        bus, "test--work", "models.version_queued", never, max_deliver=2, database=worker, ack_wait=0.5
    )
    async with background(consumer.run()):
        await until(lambda: is_settled(bus, "test--work"))
    assert await letters(worker) == [("test--work", "DELIVERED_TOO_OFTEN", 3)]


async def test_every_process_hears_a_broadcast_in_order_after_its_resync(bus: Bus, until: Until) -> None:
    await bus.publish(changed("before"))
    heard: list[list[str]] = [[], []]

    def listener(place: list[str]) -> BroadcastConsumer:
        async def handle(event: Event) -> None:
            place.append(event.model_changed.model)

        async def resync() -> None:
            place.append("resync")

        return BroadcastConsumer(bus, "models.changed", handle, resync)

    async with background(*(listener(place).run() for place in heard)):
        await until(lambda: all(heard))
        for number in range(50):
            await bus.publish(changed(str(number)))
        await until(lambda: all(len(place) == 51 for place in heard))
    assert heard == [["resync", *map(str, range(50))]] * 2


async def test_a_broadcast_listener_resyncs_when_the_connection_was_lost(bus: Bus, kill: Kill, until: Until) -> None:
    heard: list[str] = []

    async def handle(event: Event) -> None:
        heard.append(event.model_changed.model)

    async def resync() -> None:
        heard.append("resync")

    async with background(BroadcastConsumer(bus, "models.changed", handle, resync).run()):
        await until(lambda: heard == ["resync"])
        await kill("nats")
        await until(lambda: heard == ["resync", "resync"])
        await bus.publish(changed("later"))
        await until(lambda: heard[-1] == "later")


async def test_a_broadcast_listener_resyncs_when_its_consumer_vanished_or_its_handler_failed(
    bus: Bus, until: Until
) -> None:
    heard: list[str] = []

    async def handle(event: Event) -> None:
        heard.append(event.model_changed.model)
        if event.model_changed.model == "bad":
            raise ValueError("bad")

    async def resync() -> None:
        heard.append("resync")

    async with background(BroadcastConsumer(bus, "models.changed", handle, resync).run()):
        await until(lambda: heard == ["resync"])
        (consumer,) = await bus.jetstream().consumers_info("MODELS")
        await bus.jetstream().delete_consumer("MODELS", consumer.name)
        await until(lambda: heard == ["resync", "resync"])
        await bus.publish(changed("bad"))
        await until(lambda: heard == ["resync", "resync", "bad", "resync"])
        await bus.publish(changed("good"))
        await until(lambda: heard[-1] == "good")


async def test_a_reconciler_goes_on_when_its_action_fails(until: Until) -> None:
    runs = 0

    async def action() -> None:
        nonlocal runs
        runs += 1
        raise DependencyUnavailableError("X", "x") if runs == 1 else ValueError("x")

    async with background(Reconciler("test", 0.001, action).run()):
        await until(lambda: runs > 3)
