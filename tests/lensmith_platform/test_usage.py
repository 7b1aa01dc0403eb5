"""Usage: counted in memory, reported at least once, by one event that counts once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.bus import Bus, WorkConsumer, connect
from lensmith_platform.usage import UsageMeter

if TYPE_CHECKING:
    from tests.lensmith_platform.conftest import Kill, Until

Counts = dict[tuple[int, str, str, str], int]


async def _stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _collect(events: list[Event]) -> Counts:
    counts: Counts = {}
    for event in {event.id: event for event in events}.values():
        for entry in event.usage_recorded.entries:
            assert entry.day == datetime.now(UTC).date().isoformat()
            key = (entry.app_id, entry.operation, entry.model, entry.key_uid)
            counts[key] = counts.get(key, 0) + entry.count
    return counts


async def test_operations_add_up_when_they_are_of_one_app_model_and_key(bus: Bus, until: Until) -> None:
    events: list[Event] = []

    async def handle(event: Event) -> None:
        events.append(event)

    meter = UsageMeter(bus, interval_seconds=0.05)
    meter.record(7, "predict", "m", "k", 3)
    meter.record(7, "predict", "m", "k", 4)
    meter.record(7, "embed", "", "", 1)
    meter.record(8, "predict", "m", "k", 0)
    reporting = asyncio.create_task(meter.run())
    listening = asyncio.create_task(WorkConsumer(bus, "test--see-all", "usage.recorded", handle).run())
    expected = {(7, "predict", "m", "k"): 7, (7, "embed", "", ""): 1}
    await until(lambda: _collect(events) == expected)
    assert len(events) == 1
    meter.record(9, "upload", "", "k", 2)
    # The last report is made when the meter stops.
    await _stop(reporting)
    await until(lambda: _collect(events) == {**expected, (9, "upload", "", "k"): 2})
    await _stop(listening)


async def test_nothing_is_lost_when_nats_is_killed(nats_url: str, kill: Kill, until: Until) -> None:
    events: list[Event] = []
    recorded = 0

    async def handle(event: Event) -> None:
        events.append(event)

    async with await connect(nats_url, wait_seconds=30) as bus:
        meter = UsageMeter(bus, interval_seconds=0.02)
        reporting = asyncio.create_task(meter.run())
        listening = asyncio.create_task(WorkConsumer(bus, "test--see-all", "usage.recorded", handle).run())
        killing: asyncio.Task[None] | None = None
        while killing is None or not killing.done():
            meter.record(7, "predict", "m", "k", 1)
            recorded += 1
            if recorded == 20:
                killing = asyncio.create_task(kill("nats"))
            await asyncio.sleep(0.01)
        await killing
        await until(lambda: sum(_collect(events).values()) == recorded)
        await _stop(reporting, listening)


async def test_many_keys_are_reported_in_several_events(bus: Bus, until: Until) -> None:
    meter = UsageMeter(bus)
    for number in range(2500):
        meter.record(7, "predict", "m", str(number), 1)
    reporting = asyncio.create_task(meter.run())
    await asyncio.sleep(0)
    await _stop(reporting)
    assert (await bus.jetstream().stream_info("USAGE")).state.messages == 3
