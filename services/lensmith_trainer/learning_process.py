"""The process in which a network learns: it needs PyTorch, which the trainer itself never loads, and dies with it."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lensmith_vision.card import MODEL_FILE
from lensmith_vision.errors import PackError, TrainingError
from lensmith_vision.fine_tune.job import put_file
from lensmith_vision.pack import load_card

__all__ = ["check_start", "is_checked", "learn", "missing_packages"]

_MODULE = "lensmith_vision.fine_tune"
_NEEDED = ("torch", "lightning", "onnx")
_TOGETHER = ("-m", "torch.distributed.run", "--standalone")
"""What `torchrun` runs. Its processes inherit the pipe, so each of them ends with the trainer."""

_CHECKED_FILE = "checked"
_NICENESS = 10
"""What it gives way to: heads, which take seconds, and predictions."""

_FRUITLESS = 2
"""How often it may die without having finished another epoch."""

_LOG = logging.getLogger(__name__)
Told = Callable[[float, str], None]


def missing_packages() -> list[str]:
    """Return what this trainer lacks to fine-tune."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


async def check_start(pack: Path) -> None:
    """Refuse a base network that cannot learn on, and note in its folder which one can.

    Raises:
        TrainingError: NETWORK_NOT_TRAINABLE.
    """
    code = await _run(["--check", str(pack)], lambda fraction, message: None)
    if code:
        raise _crashed(code)
    await asyncio.to_thread(lambda: put_file(pack / _CHECKED_FILE, load_card(pack).sha256.encode()))


def is_checked(pack: Path) -> bool:
    """Tell whether a base network lies in a folder, whole, and can learn on, whatever was killed or lost its power."""
    try:
        with (pack / MODEL_FILE).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return found == load_card(pack).sha256 == (pack / _CHECKED_FILE).read_text()
    except (OSError, ValueError, PackError):
        return False


async def learn(folder: Path, told: Told, processes: int = 1) -> None:
    """Do the job of a folder in a process of its own, going on where an earlier one was killed.

    Cancelled, it kills the process; what that had finished is kept in the folder.

    Args:
        folder: As `lensmith_vision.fine_tune.layout` lays it out.
        told: Told part of the work done, and a sentence, after every epoch.
        processes: How many learn it together, each on a GPU of its own where there are any.

    Raises:
        TrainingError: The job cannot be done, or its process dies again and again.
        OSError: The disk is full.
    """
    best, fruitless = -1.0, 0

    def hear(fraction: float, message: str) -> None:
        nonlocal best, fruitless
        if fraction > best:
            best, fruitless = fraction, 0
        told(fraction, message)

    while code := await _run([str(folder)], hear, processes):
        fruitless += 1
        if fruitless >= _FRUITLESS:
            raise _crashed(code)
        _LOG.warning("the process that fine-tunes ended with status %d; it goes on from the last epoch", code)


async def _run(arguments: list[str], told: Told, processes: int = 1) -> int:
    """Run it; returns its status.

    Raises:
        TrainingError: It says that another try would fail as well.
        OSError: It says that the disk is full.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(() if processes == 1 else (*_TOGETHER, f"--nproc-per-node={processes}")),
        "-m",
        _MODULE,
        "--until-eof",
        *arguments,
        # Held open by this process alone, so it ends with it, however that is killed.
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=_environment(),
        # A Ctrl-C at the terminal is for the trainer, which stops it in order.
        start_new_session=True,
    )
    failure: TrainingError | OSError | None = None
    try:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        if process.stdout is None:
            raise RuntimeError("the process was started without a pipe")
        async for line in process.stdout:
            failure = _heard(line, told) or failure
        code = await process.wait()
    finally:
        if process.stdin is not None:
            # Those that learn together are in sessions of their own: this is what ends them.
            process.stdin.close()
        if process.returncode is None:
            # Every file in its folder is complete or not there, so there is nothing that it would have to finish.
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if failure is not None:
        raise failure
    return code


def _failed(reason: str, message: str) -> TrainingError | OSError:
    return OSError(errno.ENOSPC, message) if reason == "DISK_FULL" else TrainingError(reason, message)


def _heard(line: bytes, told: Told) -> TrainingError | OSError | None:
    """Take in what the process says; other programs' words on its output are passed over."""
    try:
        document = json.loads(line)
        if "error" in document:
            return _failed(str(document["error"]["reason"]), str(document["error"]["message"]))
        event = document["event"]
        told(float(event["fraction"]), str(event["message"]))
    except (ValueError, KeyError, TypeError):
        _LOG.debug("fine-tuning says: %r", line[:500])
    return None


def _environment() -> dict[str, str]:
    """What the process may know: nothing of the platform, whose settings hold secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LENSMITH_")}


def _crashed(code: int) -> TrainingError:
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    memory = "; it may have run out of memory" if code == -9 else ""
    return TrainingError("FINE_TUNING_CRASHED", f"the process that fine-tunes {how}{memory}: see the trainer's log")
