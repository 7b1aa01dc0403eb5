"""Keeps child processes alive: starts them in order, brings back those that die, and stops them in reverse."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import psutil

from lensmith_stack.errors import StackError
from lensmith_stack.files import write_private
from lensmith_stack.process import Child, Program, exit_reason, rotate_log

_LOGGER = logging.getLogger("lensmith_stack")
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_STEADY_AFTER = 60.0
_PROBE_EVERY = 5.0


class PartState(StrEnum):
    """Where a part stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting to restart"
    STOPPED = "stopped"


@dataclass(slots=True)
class Part:
    """A program under supervision and what became of it.

    Attributes:
        healthy: whether it said so when last asked.
        restarts: how often it has been brought back.
        last_exit: how its previous life ended, in words.
    """

    program: Program
    log: Path
    state: PartState = PartState.STARTING
    healthy: bool = False
    restarts: int = 0
    last_exit: str = ""
    child: Child | None = None
    _watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Runs programs as children of this process.

    A child that ends by itself is started again after a pause that doubles from 0.1 s up to 30 s and returns to the
    first after a minute of steady life. Children die with this process, whatever kills it (on Linux; elsewhere
    `reap_leftovers` ends them before the next start).

    Args:
        logs: directory of the log files, one per program.
        children_file: where the children's pids and start times are kept for `reap_leftovers`.
        on_change: called whenever a part's state changes.
    """

    def __init__(self, logs: Path, children_file: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self._logs = logs
        self._children_file = children_file
        self._on_change = on_change
        self._groups: list[list[Part]] = []
        self._health: asyncio.Task[None] | None = None

    @property
    def parts(self) -> list[Part]:
        """Every part, in order of start."""
        return [part for group in self._groups for part in group]

    async def start(self, *programs: Program) -> None:
        """Start programs side by side, as one group, and return when all are ready.

        Raises:
            StackError: one of them did not come up; the others are left to `stop`.
        """
        group = []
        for program in programs:
            log = self._logs / f"{program.name}.log"
            rotate_log(log)
            group.append(Part(program, log))
        self._groups.append(group)
        tasks = [asyncio.create_task(self._bring_up(part)) for part in group]
        try:
            await asyncio.gather(*tasks)
        finally:
            # One that fails takes the others' waiting with it; what runs already is left to `stop`.
            for task in tasks:
                await _cancel(task)
        for part in group:
            part._watch = asyncio.create_task(self._watch(part), name=f"watch {part.program.name}")
        if self._health is None:
            self._health = asyncio.create_task(self._ask_health(), name="ask health")

    async def stop(self) -> None:
        """Stop everything, the last started group first; nothing is left behind."""
        if self._health:
            await _cancel(self._health)
            self._health = None
        for group in reversed(self._groups):
            await asyncio.gather(*(self._stop_part(part) for part in group))
        self._children_file.unlink(missing_ok=True)

    async def _bring_up(self, part: Part) -> None:
        part.state, part.healthy = PartState.STARTING, False
        part.child = await Child.start(part.program, part.log)
        self._changed()
        began = time.monotonic()
        await part.child.until_ready()
        part.state, part.healthy = PartState.RUNNING, True
        _LOGGER.info("%s is ready after %.1f s", part.program.name, time.monotonic() - began)
        self._changed()

    async def _watch(self, part: Part) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            await self._until_it_ends(part)
            if time.monotonic() - began > _STEADY_AFTER:
                pause = _FIRST_PAUSE
            part.state, part.healthy = PartState.WAITING, False
            part.restarts += 1
            _LOGGER.warning(
                "%s ended with %s; restart %d in %.1f s", part.program.name, part.last_exit, part.restarts, pause
            )
            self._changed()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                await self._bring_up(part)
            except StackError as error:
                _LOGGER.warning("%s", error)
                if part.child:
                    await part.child.kill()

    async def _until_it_ends(self, part: Part) -> None:
        if part.child is None:
            return
        await part.child.process.wait()
        part.last_exit = exit_reason(part.child.process.returncode)
        # What it may have forked must not hold its address or its files.
        await part.child.kill()

    async def _stop_part(self, part: Part) -> None:
        if part._watch:
            await _cancel(part._watch)
            part._watch = None
        if part.child:
            await part.child.stop()
            part.last_exit = exit_reason(part.child.process.returncode)
        part.state, part.healthy = PartState.STOPPED, False
        self._changed()

    async def _ask_health(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_EVERY)
            for part in self.parts:
                await _keep_small(part.log)
                if part.state is not PartState.RUNNING:
                    continue
                healthy = await _healthy(part.program)
                if healthy != part.healthy and part.state is PartState.RUNNING:
                    part.healthy = healthy
                    _LOGGER.warning("%s is %s", part.program.name, "healthy again" if healthy else "not healthy")
                    self._changed()

    def _changed(self) -> None:
        alive = {}
        for part in self.parts:
            if part.child and part.child.process.returncode is None:
                with suppress(psutil.NoSuchProcess):
                    alive[part.child.pid] = psutil.Process(part.child.pid).create_time()
        try:
            write_private(self._children_file, json.dumps(alive), durable=False)
            self._on_change()
        except OSError as error:  # A full disk must not keep a part from coming back.
            _LOGGER.warning("the state cannot be written: %s", error)


def reap_leftovers(children_file: Path) -> int:
    """Kill children that a supervisor left behind (it was killed where the kernel does not pass that on); say how many.

    A process is taken for a leftover only if its pid and its start time are the recorded ones.
    """
    try:
        recorded = {int(pid): float(started) for pid, started in json.loads(children_file.read_text()).items()}
    except (FileNotFoundError, ValueError, AttributeError):
        return 0
    leftovers = []
    for pid, started in recorded.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 0.02:
                family = [process, *process.children(recursive=True)]
                for member in family:
                    with suppress(psutil.NoSuchProcess):
                        member.kill()
                leftovers += family
    psutil.wait_procs(leftovers, timeout=10)
    children_file.unlink(missing_ok=True)
    return len(leftovers)


async def _healthy(program: Program) -> bool:
    try:
        async with asyncio.timeout(_PROBE_EVERY):
            return await program.ready()
    except (OSError, TimeoutError, StackError):
        return False


async def _keep_small(log: Path) -> None:
    try:
        await asyncio.to_thread(rotate_log, log, in_use=True)
    except OSError as error:
        _LOGGER.warning("%s cannot be rotated: %s", log, error)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
