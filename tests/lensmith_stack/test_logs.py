"""Logs stay small, and lose nothing that a program wrote before or after they were set aside."""

import os
from pathlib import Path

import pytest

from lensmith_stack.commands import logs
from lensmith_stack.process import rotate_log

LARGE = 17 * 1024 * 1024


@pytest.fixture
def log(directory: Path) -> Path:
    folder = directory / "logs"
    folder.mkdir()
    return folder / "part.log"


def grow(log: Path, first: str) -> None:
    log.write_text(f"{first}\n")
    os.truncate(log, LARGE)


def test_a_log_is_emptied_under_its_writer_when_it_has_grown_large(log: Path) -> None:
    with log.open("a") as writer:
        for life in ("first", "second", "third", "fourth", "fifth"):
            grow(log, life)
            rotate_log(log, in_use=True)
            writer.write(f"after {life}\n")
            writer.flush()
            assert log.read_text() == f"after {life}\n"
    kept = sorted(file.name for file in log.parent.iterdir())
    assert kept == ["part.log", "part.log.1", "part.log.2", "part.log.3"]
    assert log.with_name("part.log.1").read_bytes().startswith(b"fifth\n")
    assert log.with_name("part.log.3").read_bytes().startswith(b"third\n")


def test_a_log_is_moved_aside_when_nobody_writes(log: Path) -> None:
    grow(log, "life")
    rotate_log(log)
    assert [file.name for file in log.parent.iterdir()] == ["part.log.1"]


def test_a_log_stays_when_it_is_small(log: Path) -> None:
    log.write_text("life\n")
    rotate_log(log, in_use=True)
    assert [file.name for file in log.parent.iterdir()] == ["part.log"]


def test_a_follower_goes_on_when_the_log_was_set_aside(directory: Path, log: Path) -> None:
    log.write_text("before\n")
    lines = logs(directory, ["part"], follow=True)
    assert next(lines) == "part: before"
    with log.open("a") as writer:
        grow(log, "large")
        rotate_log(log, in_use=True)
        writer.write("new\n")
    assert next(lines) == "part: new"
