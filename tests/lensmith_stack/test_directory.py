"""The data directory: closed, held by one platform, and never mistaken for another's."""

import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from lensmith_stack.commands import down, logs, status, up
from lensmith_stack.composition import UpOptions
from lensmith_stack.directory import FORMAT, open_directory
from lensmith_stack.errors import (
    AlreadyRunningError,
    DirectoryForeignError,
    DirectoryUnusableError,
    DirectoryVersionError,
    StackError,
)
from lensmith_stack.ports import free_ports, reserve_ports
from lensmith_stack.state import Phase


def refused(options: UpOptions) -> str:
    """What `up` says when it refuses; it must be one sentence."""
    said: list[str] = []
    assert up(options, said.append) == 1
    (line,) = said
    assert "\n" not in line
    return line


def test_directory_is_closed_and_keeps_its_identity_when_opened_again(tmp_path: Path) -> None:
    with open_directory(tmp_path / "new") as directory:
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        instance = directory.instance
    with open_directory(tmp_path / "new") as directory:
        assert directory.instance == instance


def test_open_refuses_when_the_directory_holds_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DirectoryForeignError), open_directory(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "not a Lensmith data directory" in refused(UpOptions(data_dir=tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"product": "other", "format": 1, "instance": "x"}'])
def test_open_refuses_when_the_format_file_is_not_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / "lensmith.json").write_text(content)
    with pytest.raises(DirectoryForeignError), open_directory(tmp_path):
        pass


@pytest.mark.parametrize(("written", "word"), [(FORMAT + 1, "newer"), (0, "too old")])
def test_open_refuses_when_the_format_is_another_ones(tmp_path: Path, written: int, word: str) -> None:
    content = {"product": "lensmith", "format": written, "instance": "x"}
    (tmp_path / "lensmith.json").write_text(json.dumps(content))
    with pytest.raises(DirectoryVersionError, match=word), open_directory(tmp_path):
        pass
    assert word in refused(UpOptions(data_dir=tmp_path))


def test_open_refuses_when_the_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryUnusableError), open_directory(tmp_path / "file"):
        pass


def test_open_refuses_when_another_platform_holds_it(tmp_path: Path) -> None:
    with open_directory(tmp_path):
        with pytest.raises(AlreadyRunningError, match=str(os.getpid())), open_directory(tmp_path):
            pass
        assert "already running" in refused(UpOptions(data_dir=tmp_path))


def test_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    holder = (
        "import sys, pathlib, lensmith_stack.directory as d\n"
        "with d.open_directory(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
        process.wait()
    with open_directory(tmp_path):
        pass


def test_up_refuses_when_the_public_port_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refused(UpOptions(data_dir=tmp_path, port=taken.getsockname()[1]))
    assert "--port" in line
    assert str(os.getpid()) in line


def test_up_refuses_when_the_port_is_no_port(tmp_path: Path) -> None:
    assert "--port" in refused(UpOptions(data_dir=tmp_path, port=70000))


def test_status_and_down_say_stopped_when_nothing_runs(tmp_path: Path) -> None:
    said: list[str] = []
    assert status(tmp_path).phase is Phase.STOPPED
    assert down(tmp_path, said.append) == 0
    assert "not running" in said[0]


def test_logs_refuse_when_the_part_is_unknown(tmp_path: Path) -> None:
    for name in ("nobody", "../../etc/passwd"):
        with pytest.raises(StackError, match="There is no log"):
            list(logs(tmp_path, [name]))


def test_ports_are_the_same_when_reserved_again_unless_one_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    with reserve_ports(file, ["one", "two"]) as first:
        pass
    with reserve_ports(file, ["one", "two", "three"]) as second:
        assert {name: second[name] for name in first} == first
    with socket.create_server(("127.0.0.1", first["two"])), reserve_ports(file, ["one", "two"]) as third:
        assert not set(third.values()) & set(first.values())


def test_ports_are_never_shared_when_reserved_by_several(tmp_path: Path) -> None:
    with ExitStack() as held:
        ports = [
            port
            for number in range(20)
            for port in held.enter_context(reserve_ports(tmp_path / f"{number}.json", ["one", "two"])).values()
        ]
    assert len(set(ports)) == 40
    assert len(set(free_ports(200))) == 200


def test_sockets_lie_elsewhere_when_the_directory_is_too_deep_for_them(tmp_path: Path) -> None:
    with open_directory(tmp_path / ("deep" * 30)) as directory, directory.sockets() as sockets:
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(sockets / "inference.sock"))
    assert not sockets.exists()
