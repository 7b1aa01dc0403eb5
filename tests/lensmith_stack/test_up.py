"""The whole platform by `up`: as a user starts it, in a process of its own."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lensmith_stack.commands import down, logs, operator_key, status, up
from lensmith_stack.composition import UpOptions
from lensmith_stack.ports import free_ports
from lensmith_stack.servers import Outside
from lensmith_stack.services import SERVICES
from lensmith_stack.state import Phase

# Ten programs start here, several times, on a machine that other tests use as well.
pytestmark = pytest.mark.timeout(400)

PARTS = ["postgres", "nats", "s3", *SERVICES, "envoy"]


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def options(directory: Path) -> Iterator[UpOptions]:
    options = UpOptions(data_dir=directory / "platform", port=free_ports(1)[0], outside=Outside())
    directory.chmod(0o711)
    yield options
    down(options.data_dir, lambda _: None)


def test_platform_goes_up_heals_and_goes_down_when_asked(options: UpOptions) -> None:
    path = options.data_dir
    said: list[str] = []
    assert up(options, said.append, detach=True) == 0, said

    running = status(path)
    assert running.phase is Phase.READY
    assert [part.name for part in running.parts] == PARTS
    assert all(part.healthy and part.state == "running" and part.memory_bytes > 0 for part in running.parts)
    assert httpx.get(f"{options.url}/readyz").status_code == 200
    assert any(line.startswith("lensmith: ") for line in logs(path))

    refused: list[str] = []
    assert up(options, refused.append, detach=True) == 1
    assert "already running" in refused[0]

    for part in running.parts:
        assert part.pid is not None
        os.kill(part.pid, signal.SIGKILL)
    until(lambda: all(part.restarts > 0 and part.healthy for part in status(path).parts))
    assert [part.address for part in status(path).parts] == [part.address for part in running.parts]
    assert httpx.get(f"{options.url}/readyz").status_code == 200

    pids = [part.pid for part in status(path).parts]
    assert down(path, said.append) == 0
    assert not [pid for pid in pids if lives(pid)]
    assert status(path).phase is Phase.STOPPED


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties children to the life of their parent")
def test_nothing_is_left_and_all_comes_back_when_the_supervisor_was_killed(options: UpOptions) -> None:
    path = options.data_dir
    said: list[str] = []
    assert up(options, said.append, detach=True) == 0, said
    key = operator_key(path)
    assert key is not None
    assert [line for line in said if key in line], "shown at the first start"
    running = status(path)
    assert running.pid is not None
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: not [part.pid for part in running.parts if lives(part.pid)])
    assert status(path).phase is Phase.STOPPED

    again: list[str] = []
    assert up(options, again.append, detach=True) == 0, again
    assert operator_key(path) == key
    assert not [line for line in again if key in line], "shown once"


def test_up_says_why_and_leaves_nothing_when_a_part_cannot_start(options: UpOptions) -> None:
    said: list[str] = []
    broken = UpOptions(
        data_dir=options.data_dir, port=options.port, outside=Outside(s3_url="http://access:secret@127.0.0.1:1/bucket")
    )
    assert up(broken, said.append, detach=True) == 1
    assert "S3" in said[-1]
    failed = status(options.data_dir)
    assert failed.phase is Phase.FAILED
    assert "S3" in failed.error
    assert failed.parts == ()
