"""The command line where no platform is needed: help, usage, and what errors look like."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lensmith.cli.output import print_table

LENSMITH = Path(sys.executable).parent / "lensmith"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_program(str(LENSMITH), *arguments, folder=folder, **environment)


def run_program(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "LENSMITH_CONFIG": str(folder / "config.toml"),
            "LENSMITH_DATA_DIR": str(folder / "data"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [[], ["apps"], ["keys"], ["models"], ["inputs"], ["concepts"], ["base-models"]])
def test_every_group_explains_itself(command: list[str], tmp_path: Path) -> None:
    done = run(*command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "Usage: lensmith" in done.stdout


def test_an_error_says_what_and_what_may_help(tmp_path: Path) -> None:
    done = run("--url", "http://127.0.0.1:1", "whoami", folder=tmp_path, LENSMITH_KEY="lsk_secret")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "lensmith up" in done.stderr
    assert "Traceback" not in done.stderr
    assert "lsk_secret" not in done.stderr


def test_wrong_use_has_a_status_of_its_own(tmp_path: Path) -> None:
    assert run("predict", folder=tmp_path).returncode == 2
    assert run("train", "m", "--type", "guess", folder=tmp_path).returncode == 2


def test_a_report_is_not_asked_for_when_nothing_can_take_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "report.pdf"
    for output, why in (
        (str(missing), f"the report cannot be written: there is no folder {missing.parent}"),
        (str(tmp_path), f"the report cannot be written: {tmp_path} is a folder"),
        ("-", "--pdf is written to a file, not to the terminal"),
    ):
        # No platform runs: whoever asked one would say so.
        done = run("report", "m", "--pdf", "--output", output, folder=tmp_path, LENSMITH_KEY="lsk_secret")
        assert done.returncode != 0
        assert why in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("command", "what", "name"),
    [(("explain", "m", "photo.jpg"), "the heat map", "heat.png"), (("export", "m"), "the archive", "model.zip")],
)
def test_nothing_is_asked_for_when_no_file_can_take_it(
    command: tuple[str, ...], what: str, name: str, tmp_path: Path
) -> None:
    target = tmp_path / "missing" / name
    done = run(*command, "-o", str(target), folder=tmp_path, LENSMITH_KEY="lsk_secret")
    assert done.returncode == 1
    assert f"error: {what} cannot be written: there is no folder {target.parent}\n" in done.stderr


def test_a_heat_map_is_refused_when_its_name_promises_another_format(tmp_path: Path) -> None:
    done = run("explain", "m", "photo.jpg", "-o", str(tmp_path / "heat.jpg"), folder=tmp_path)
    assert done.returncode == 2
    assert "error: heat maps are drawn as PNG: name the file heat.png, not heat.jpg\n" in done.stderr


def test_a_report_is_not_asked_for_when_no_browser_can_print_it(tmp_path: Path) -> None:
    arguments = ("--url", "http://127.0.0.1:1", "report", "m", "--pdf")
    done = run(*arguments, folder=tmp_path, LENSMITH_KEY="lsk_secret", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "there is no Chromium or Chrome here to print with: leave out --pdf" in " ".join(done.stderr.split())


def test_status_and_down_of_no_platform_say_so(tmp_path: Path) -> None:
    status = run("status", folder=tmp_path)
    assert status.returncode == 3
    assert "stopped" in status.stdout
    assert run("down", folder=tmp_path).returncode == 0


def test_completion_is_there_for_the_shell(tmp_path: Path) -> None:
    # That is the shell it is called from, of which the tests need not have any.
    done = run_program("bash", "-c", '"$0" --show-completion; exit $?', str(LENSMITH), folder=tmp_path)
    assert done.returncode == 0
    assert "_LENSMITH_COMPLETE" in done.stdout


def test_the_version_is_told(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout.startswith("lensmith 0.")


def test_a_table_becomes_lists_when_the_terminal_is_too_narrow() -> None:
    rows = "['!id', 'what', '#n'], [('i' * 36, 'w' * 9, 5)]"
    program = f"from lensmith.cli.output import print_table; print_table('', {rows})"
    shown = {width: _on_terminal(width, sys.executable, "-c", program) for width in (50, 60)}
    assert shown[60].split() == ["id", "what", "n", "i" * 36, "w" * 9, "5"]
    assert [line.split() for line in shown[50].splitlines()] == [["id", "i" * 36], ["what", "w" * 9], ["n", "5"], []]


def _on_terminal(columns: int, *command: str) -> str:
    """What a command writes to a terminal so wide, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    subprocess.run(command, stdout=theirs, env={"TERM": "xterm", "PATH": "/usr/bin:/bin"}, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as file:
        return re.sub(r"\x1b\[[0-9;]*m", "", file.read1().decode())


def test_texts_of_others_command_no_terminal_when_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["name"], [("red\x1b[31m\x07[bold]\u202e",)])
    assert capsys.readouterr().out.split() == ["name", "red\ufffd[31m\ufffd[bold]\ufffd"]
