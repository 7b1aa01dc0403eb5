"""What a running platform tells of itself: a file it keeps current, read by `status`, `down` and `logs`."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from lensmith_stack.directory import state_file
from lensmith_stack.files import write_private
from lensmith_stack.supervisor import Part


class Phase(StrEnum):
    """Where a platform stands as a whole."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of the platform.

    Attributes:
        name: as in the logs.
        state: `starting`, `running`, `waiting to restart` or `stopped`.
        healthy: whether it said so when last asked.
        pid: its process, while it has one.
        memory_bytes: what it and its children hold, shared pages divided among their holders where the system tells.
        address: where it listens.
        port: TCP port of `address`, if it is one.
        restarts: how often it was brought back since `up`.
        last_exit: how its previous life ended (``status 1``, ``SIGKILL``), or empty.
    """

    name: str
    state: str
    healthy: bool
    pid: int | None
    memory_bytes: int
    address: str
    port: int | None
    restarts: int
    last_exit: str


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """The whole platform.

    Attributes:
        phase: where it stands; `STOPPED` where no platform runs.
        data_dir: its data directory.
        url: its public address.
        pid: the supervisor.
        started: when the supervisor started, seconds since the epoch.
        error: why it failed, for `FAILED`.
        memory_bytes: of the supervisor itself.
        parts: in order of start.
    """

    phase: Phase
    data_dir: str
    url: str
    pid: int | None
    started: float
    error: str
    memory_bytes: int
    parts: tuple[PartStatus, ...]

    @property
    def total_memory_bytes(self) -> int:
        """Memory of the supervisor and all parts."""
        return self.memory_bytes + sum(part.memory_bytes for part in self.parts)

    def to_json(self) -> str:
        """The same as a JSON object."""
        return json.dumps({**asdict(self), "total_memory_bytes": self.total_memory_bytes}, indent=2)


def write_state(directory: Path, phase: Phase, url: str, parts: Sequence[Part], error: str = "") -> None:
    """Tell others how this process' platform stands."""
    status = PlatformStatus(
        phase=phase,
        data_dir=str(directory),
        url=url,
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        error=error,
        memory_bytes=0,
        parts=tuple(_part_status(part) for part in parts),
    )
    write_private(state_file(directory), json.dumps(asdict(status)), durable=False)


def read_state(directory: Path) -> PlatformStatus:
    """How the platform on `directory` stands now, with the memory its processes hold now."""
    try:
        told = json.loads(state_file(directory).read_text())
        parts = tuple(PartStatus(**part) for part in told.pop("parts"))
        status = PlatformStatus(**{**told, "phase": Phase(told["phase"]), "parts": parts})
    except (OSError, ValueError, TypeError, KeyError):
        return _stopped(directory, "")
    if status.phase is Phase.FAILED or supervisor_process(status) is None:
        return _stopped(directory, status.error, status.phase)
    measured = tuple(PartStatus(**{**asdict(part), "memory_bytes": _memory(part.pid)}) for part in status.parts)
    return PlatformStatus(
        phase=status.phase,
        data_dir=status.data_dir,
        url=status.url,
        pid=status.pid,
        started=status.started,
        error=status.error,
        memory_bytes=_own_memory(status.pid),
        parts=measured,
    )


def supervisor_process(status: PlatformStatus) -> psutil.Process | None:
    """The supervisor that wrote `status`, if it still lives: the pid alone may be somebody else's by now."""
    if status.pid is None:
        return None
    try:
        process = psutil.Process(status.pid)
        # A zombie whose parent has not looked yet is dead.
        if process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - status.started) < 0.02:
            return process
    except psutil.NoSuchProcess:
        pass
    return None


def _stopped(directory: Path, error: str, phase: Phase = Phase.STOPPED) -> PlatformStatus:
    kept = phase if phase is Phase.FAILED else Phase.STOPPED
    return PlatformStatus(kept, str(directory), "", None, 0.0, error, 0, ())


def _part_status(part: Part) -> PartStatus:
    alive = part.child is not None and part.child.process.returncode is None
    port = part.program.address.rpartition(":")[2]
    return PartStatus(
        name=part.program.name,
        state=part.state.value,
        healthy=part.healthy,
        pid=part.child.pid if part.child and alive else None,
        memory_bytes=0,
        address=part.program.address,
        port=int(port) if port.isdigit() else None,
        restarts=part.restarts,
        last_exit=part.last_exit,
    )


def _memory(pid: int | None) -> int:
    """Memory of a process and its descendants."""
    if pid is None:
        return 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return sum(_own_memory(member.pid) for member in (process, *process.children(recursive=True)))
    return 0


def _own_memory(pid: int | None) -> int:
    if pid is None:
        return 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        with suppress(psutil.AccessDenied):
            full = process.memory_full_info()
            # Proportional set size; macOS has the unique set size only.
            return int(getattr(full, "pss", full.uss))
        return int(process.memory_info().rss)
    return 0
