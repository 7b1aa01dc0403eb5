"""Killing parts of a running platform."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass

import psutil

from lensmith_stack.commands import status
from lensmith_stack.state import PartStatus, PlatformStatus
from tests.chaos.workload import Workload
from tests.platform_process import PlatformProcess
from tests.polling import until

_RECOVERY_SECONDS = 90


@dataclass(frozen=True)
class Recovery:
    """How long a platform needed after one kill.

    Attributes:
        part: what was killed.
        part_seconds: until it was healthy again.
        road_seconds: until pictures were taken in and predicted again by calls made after the kill.
    """

    part: str
    part_seconds: float
    road_seconds: float

    def __str__(self) -> str:
        return f"{self.part}: healthy again after {self.part_seconds:.1f} s, serving after {self.road_seconds:.1f} s"


async def standing(platform: PlatformProcess) -> PlatformStatus:
    """How the platform stands, without the second that the command line needs to start."""
    return await asyncio.to_thread(status, platform.data_dir)


async def part_of(platform: PlatformProcess, name: str) -> PartStatus:
    """How one part stands."""
    return next(part for part in (await standing(platform)).parts if part.name == name)


async def kill_part(platform: PlatformProcess, name: str) -> PartStatus:
    """Kills a part that runs with SIGKILL; returns how it stood before."""

    async def killed() -> PartStatus | None:
        part = await part_of(platform, name)
        if part.pid is None:
            return None
        try:
            os.kill(part.pid, signal.SIGKILL)
        except ProcessLookupError:
            # It ended by itself, because another part is away.
            return None
        return part

    return await until(killed, seconds=_RECOVERY_SECONDS)


async def kill_and_recover(platform: PlatformProcess, name: str, workload: Workload) -> Recovery:
    """Kills a part under load and waits until the platform serves again."""
    before = await kill_part(platform, name)
    killed = time.monotonic()

    async def is_back() -> bool:
        part = await part_of(platform, name)
        return part.restarts > before.restarts and part.healthy

    async def serves() -> bool:
        return workload.went_well_since(killed, "import", "predict")

    await until(is_back, seconds=_RECOVERY_SECONDS)
    part_seconds = time.monotonic() - killed
    await until(serves, seconds=_RECOVERY_SECONDS)
    return Recovery(name, part_seconds, time.monotonic() - killed)


async def all_healthy(platform: PlatformProcess) -> bool:
    """Whether every part says that it is well."""
    return all(part.healthy for part in (await standing(platform)).parts)


def family_of(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def survivors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; one that ended and was not looked at by its parent yet does not."""
    return [process for process in processes if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        # It ended between the two questions.
        return False
