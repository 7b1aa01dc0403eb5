"""The supervisor: order, backoff, failures, and that nothing outlives it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from lensmith_stack.errors import StartError
from lensmith_stack.files import make_private_directory
from lensmith_stack.process import Program
from lensmith_stack.supervisor import PartState, Supervisor, reap_leftovers

THREE_SERVERS = Path(__file__).with_name("three_servers.py")


def program(directory: Path, name: str, source: str, **options: object) -> Program:
    """A program that is ready when it has made the file ``<name>.ready``."""
    mark = directory / f"{name}.ready"

    async def ready() -> bool:
        return mark.exists()

    settings: dict[str, object] = {
        "name": name,
        "argv": (sys.executable, "-c", source, str(mark)),
        "ready": ready,
        "env": {"PATH": os.defpath},
        "cwd": directory,
        "address": "",
        **options,
    }
    return Program(**settings)  # type: ignore[arg-type]  # the tests vary single fields


STEADY = "import sys, pathlib, signal; pathlib.Path(sys.argv[1]).touch(); signal.pause()"


@pytest.fixture
def supervisor(directory: Path) -> Supervisor:
    return Supervisor(make_private_directory(directory / "logs"), directory / "children.json")


async def until_gone(pids: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(_lives(pid) for pid in pids):
            await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_start_tells_the_last_words_when_a_program_fails(supervisor: Supervisor, directory: Path) -> None:
    broken = program(directory, "broken", "import sys; sys.exit('no such luck')")
    with pytest.raises(StartError, match=r"(?s)broken did not start: it ended with status 1.*no such luck"):
        await supervisor.start(broken)
    await supervisor.stop()


async def test_start_gives_up_when_a_program_is_never_ready(supervisor: Supervisor, directory: Path) -> None:
    silent = program(directory, "silent", "import signal; signal.pause()", ready_within=0.3)
    with pytest.raises(StartError, match=r"not ready after 0\.3 s"):
        await supervisor.start(silent)
    pid = supervisor.parts[0].child.pid if supervisor.parts[0].child else 0
    await supervisor.stop()
    assert not _lives(pid)


async def test_a_program_is_killed_when_it_ignores_the_stop_signal(supervisor: Supervisor, directory: Path) -> None:
    deaf = program(
        directory, "deaf", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {STEADY}", grace=0.2
    )
    await supervisor.start(deaf)
    await supervisor.stop()
    assert supervisor.parts[0].last_exit == "SIGKILL"


async def test_what_a_program_forked_ends_with_it_when_it_is_killed(supervisor: Supervisor, directory: Path) -> None:
    pid_file = directory / "forked"
    source = (
        f"import os, pathlib, signal\npid = os.fork()\nif pid == 0:\n    signal.pause()\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(pid))\n"
    )
    await supervisor.start(program(directory, "parent", source + STEADY))
    forked = int(pid_file.read_text())
    part = supervisor.parts[0]
    assert part.child is not None
    os.kill(part.child.pid, signal.SIGKILL)
    await until_gone([forked])
    await supervisor.stop()


async def test_pauses_grow_when_a_program_keeps_dying(
    supervisor: Supervisor, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Well at its first start, and never again.
    source = f"import os, sys\nif os.path.exists(sys.argv[1]):\n    sys.exit(3)\n{STEADY}"
    await supervisor.start(program(directory, "frail", source))
    part = supervisor.parts[0]
    assert part.child is not None
    part.child.process.kill()
    async with asyncio.timeout(30):
        while part.restarts < 3:
            await asyncio.sleep(0.02)
    await supervisor.stop()
    told = [record.getMessage() for record in caplog.records if "restart" in record.getMessage()]
    assert [line.rpartition("restart ")[2] for line in told[:3]] == ["1 in 0.1 s", "2 in 0.2 s", "3 in 0.4 s"]
    assert part.state is PartState.STOPPED


async def test_parts_stop_in_reverse_when_they_started_in_groups(supervisor: Supervisor, directory: Path) -> None:
    record = directory / "record"
    source = (
        "import signal, sys, pathlib\n"
        "def end(*_):\n"
        f"    open({str(record)!r}, 'a').write(pathlib.Path(sys.argv[1]).stem + ' ')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
    )
    for name in ("base", "middle", "top"):
        await supervisor.start(program(directory, name, source + STEADY))
    await supervisor.stop()
    assert record.read_text().split() == ["top", "middle", "base"]


def test_leftovers_are_ended_only_when_the_start_time_is_theirs(directory: Path) -> None:
    with _sleeper() as left, _sleeper() as stranger:
        recorded = {left.pid: psutil.Process(left.pid).create_time(), stranger.pid: 12345.0}
        (directory / "children.json").write_text(json.dumps(recorded))
        assert reap_leftovers(directory / "children.json") == 1
        assert not _lives(left.pid)
        assert stranger.poll() is None


@contextmanager
def _sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def _three_servers(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    process = subprocess.Popen([sys.executable, str(THREE_SERVERS), str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        yield process, _families(pids)
    finally:
        process.kill()
        process.communicate()


def _families(pids: list[int]) -> list[int]:
    return [
        member.pid for pid in pids for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
async def test_no_orphan_is_left_when_the_supervisor_ends(directory: Path, signal_: signal.Signals) -> None:
    with _three_servers(directory) as (supervisor, pids):
        assert len(pids) > 3, "Postgres has children of its own"
        supervisor.send_signal(signal_)
        await asyncio.to_thread(supervisor.wait, 30)
        if signal_ is signal.SIGTERM:
            assert not [pid for pid in pids if _lives(pid)]
        await until_gone(pids)


def test_the_servers_come_back_when_their_supervisor_was_killed(directory: Path) -> None:
    with _three_servers(directory) as (supervisor, _):
        supervisor.kill()
        supervisor.wait()
        with _three_servers(directory) as (again, _):
            again.terminate()
            assert again.wait(30) == 0
