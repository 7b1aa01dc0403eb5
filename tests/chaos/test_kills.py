"""SIGKILL for every process of the platform while pictures are taken in, models train and predictions are asked."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.chaos.invariants import assert_nothing_is_lost
from tests.chaos.killing import (
    all_healthy,
    family_of,
    kill_and_recover,
    kill_part,
    standing,
    survivors,
)
from tests.chaos.workload import ROADS, Workload
from tests.platform_process import PlatformProcess
from tests.polling import until

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(400)]

# The trainer first: its version comes back from the bus while the others die.
PARTS = ("trainer", "postgres", "nats", "s3", "envoy", "auth", "dataset", "registry", "inference", "gateway")
Record = Callable[[str, object], None]


async def test_nothing_acknowledged_is_lost_when_each_process_is_killed(
    platform: PlatformProcess, workload: Workload, record_property: Record
) -> None:
    restarts = {part.name: part.restarts for part in (await standing(platform)).parts}
    assert restarts.keys() == set(PARTS)
    async with workload.running():
        for name in PARTS:
            recovery = await kill_and_recover(platform, name, workload)
            record_property("measured", str(recovery))
        await _all_roads_are_open(workload)
    await until(lambda: all_healthy(platform), seconds=60)
    for part in (await standing(platform)).parts:
        assert part.restarts == restarts[part.name] + 1, f"{part.name} died {part.restarts} times: {part.last_exit}"
    await assert_nothing_is_lost(workload)
    record_property("measured", _said(workload))
    assert workload.ledger.refused == []


async def test_nothing_acknowledged_is_lost_when_the_platform_is_stopped_and_started_during_an_import(
    platform: PlatformProcess, workload: Workload, record_property: Record
) -> None:
    await _restart_during_an_import(platform, workload, signal.SIGTERM)
    record_property("measured", _said(workload))


async def test_no_orphan_is_left_and_nothing_is_lost_when_the_supervisor_is_killed(
    platform: PlatformProcess, workload: Workload, record_property: Record
) -> None:
    await _restart_during_an_import(platform, workload, signal.SIGKILL)
    record_property("measured", _said(workload))


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_nothing_acknowledged_is_lost_when_processes_are_killed_at_random(
    platform: PlatformProcess, workload: Workload, record_property: Record
) -> None:
    minutes = float(os.environ.get("LENSMITH_TEST_MINUTES", "3"))
    seed = int(os.environ.get("LENSMITH_TEST_SEED", str(time.time_ns() % 10**6)))
    record_property("measured", f"random kills for {minutes:g} minutes with LENSMITH_TEST_SEED={seed}")
    chance = random.Random(seed)
    killed = dict.fromkeys(PARTS, 0)
    async with workload.running():
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            # Not one after another: the next one may die while the last one is coming back.
            await asyncio.sleep(chance.uniform(0.5, 8.0))
            for part in chance.sample(PARTS, chance.choice((1, 1, 2))):
                await kill_part(platform, part)
                killed[part] += 1
        await _all_roads_are_open(workload, seconds=180)
    await until(lambda: all_healthy(platform), seconds=120)
    await assert_nothing_is_lost(workload)
    record_property("measured", f"killed {killed}; {_said(workload)}")


async def _restart_during_an_import(platform: PlatformProcess, workload: Workload, end: signal.Signals) -> None:
    """End the supervisor; once all its children are gone start it again, and look for everything."""
    pid = (await standing(platform)).pid
    assert pid is not None
    before = family_of(pid)
    async with workload.running():
        await _all_roads_are_open(workload)
        os.kill(pid, end)
        await _until_gone(before)
        await _up(platform)
        await _all_roads_are_open(workload)
    await assert_nothing_is_lost(workload)


async def _all_roads_are_open(workload: Workload, *, seconds: float = 120) -> None:
    """Waits until calls that begin now succeed on every road."""
    now = time.monotonic()

    async def open_() -> bool:
        return workload.went_well_since(now, *ROADS)

    await until(open_, seconds=seconds)


async def _until_gone(processes: list[psutil.Process]) -> None:
    async def gone() -> bool:
        return not survivors(processes)

    try:
        await until(gone, seconds=60)
    except TimeoutError:
        pytest.fail(f"still running: {survivors(processes)}")


async def _up(platform: PlatformProcess) -> None:
    await asyncio.to_thread(platform.cli, "up", "--detach", "--port", str(platform.port))


def _said(workload: Workload) -> str:
    ledger = workload.ledger
    return (
        f"{len(ledger.inputs)} inputs, {len(ledger.annotations)} annotations and {len(ledger.versions)} versions "
        f"acknowledged, {ledger.answers} predictions; {len(ledger.refused)} calls failed for good {ledger.refused[:5]}"
    )
