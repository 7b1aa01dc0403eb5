"""The whole platform on a fresh data directory, with the CPU time of each part: what the benchmarks measure."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from lensmith_stack.commands import status
from lensmith_stack.directory import operator_key_file
from lensmith_stack.state import Phase

START_SECONDS = 120.0


@dataclass(frozen=True)
class RunningPlatform:
    """A running platform: where it is, the operator's key, and its processes."""

    data_dir: Path
    port: int
    key: str
    parts: dict[str, psutil.Process]

    @property
    def target(self) -> str:
        """Target for gRPC."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address for the SDK."""
        return f"http://{self.target}"

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each part so far, its children included."""
        return {name: sum(map(_cpu_of, [part, *part.children(recursive=True)])) for name, part in self.parts.items()}


@contextmanager
def running_platform(data_dir: Path | None = None, **environment: str) -> Iterator[RunningPlatform]:
    """Starts a platform, on a data directory that exists or on a fresh one, and stops it at the end."""
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-", ignore_cleanup_errors=True) as scratch:
        # Postgres runs as a user of its own when this is root, and must get through.
        Path(scratch).chmod(0o711)
        directory = data_dir or Path(scratch) / "data"
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = int(listening.getsockname()[1])
        options = {"data_dir": str(directory), "host": "127.0.0.1", "port": port, "cors_origins": []}
        process = subprocess.Popen(
            [sys.executable, "-m", "lensmith_stack", json.dumps(options)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: _is_ready(process, directory), START_SECONDS, "the platform did not start")
            parts = {part.name: psutil.Process(part.pid) for part in status(directory).parts if part.pid is not None}
            key = operator_key_file(directory).read_text().strip()
            yield RunningPlatform(directory, port, key, parts)
        finally:
            process.terminate()
            process.wait(90)


def wait_for(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    """Polls until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{complaint} within {seconds:g} s")
        time.sleep(0.05)


def _is_ready(process: "subprocess.Popen[bytes]", directory: Path) -> bool:
    if process.poll() is not None:
        sys.exit(f"the platform stopped with status {process.returncode}")
    return directory.exists() and status(directory).phase is Phase.READY


def _cpu_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
