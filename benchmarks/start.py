"""How long a newcomer waits for the platform, and what it holds when nobody asks anything.

Runs `lensmith up` on a data directory that exists (warm: files are in the page cache) and measures until the first
picture is answered over REST; before that once on a fresh directory (cold: databases are made, packs installed).
Then prints the memory of each idle process.

    python benchmarks/start.py [--quick] [--json]
"""

import argparse
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from lensmith_stack.commands import status

sys.path.insert(0, str(Path(__file__).parent))
from running_platform import wait_for

MOST_SECONDS = 12.0
MOST_MEGABYTES = 1500.0
IDLE_SECONDS = 10.0
LENSMITH = Path(sys.executable).parent / "lensmith"


@dataclass(frozen=True)
class Start:
    """One start."""

    seconds_until_ready: float
    seconds_until_first_answer: float
    memory_mb: dict[str, float]

    @property
    def total_mb(self) -> float:
        """Memory of everything."""
        return sum(self.memory_mb.values())


def start(data_dir: Path, *, idle: float) -> Start:
    """Starts the platform, asks it once, lets it idle, and stops it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = int(listening.getsockname()[1])
    begin = time.perf_counter()
    process = subprocess.Popen(
        [LENSMITH, "up", "--data-dir", str(data_dir), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: data_dir.exists() and status(data_dir).phase == "ready", 120, "the platform did not start")
        ready = time.perf_counter() - begin
        wait_for(lambda: embeds(data_dir, port), 60, "nothing was answered")
        answered = time.perf_counter() - begin
        time.sleep(idle)
        told = status(data_dir)
        memory = {part.name: part.memory_bytes / 1e6 for part in told.parts} | {"supervisor": told.memory_bytes / 1e6}
    finally:
        process.terminate()
        process.wait(90)
    return Start(ready, answered, memory)


def embeds(data_dir: Path, port: int) -> bool:
    """Whether a picture goes all the way through: Envoy, authentication, registry, network."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/apps/main:embed",
        headers={"Authorization": f"Key {(data_dir / 'operator.key').read_text().strip()}"},
        json={"inputs": [{"image": {"content": base64.b64encode(file.getvalue()).decode()}}]},
        timeout=30,
    )
    return answer.status_code == httpx.codes.OK and "vector" in answer.json()["embeddings"][0]


def show(cold: Start, warm: list[Start]) -> None:
    """Prints tables."""
    console = Console()
    table = Table(title="lensmith up")
    for column in ("", "ready s", "first answer s", "memory MB"):
        table.add_column(column, justify="right")
    for name, one in [("fresh directory", cold), *((f"warm {number + 1}", one) for number, one in enumerate(warm))]:
        seconds = (f"{one.seconds_until_ready:.1f}", f"{one.seconds_until_first_answer:.1f}")
        table.add_row(name, *seconds, f"{one.total_mb:.0f}")
    console.print(table)
    parts = Table(title=f"memory after {IDLE_SECONDS:.0f} s of idleness (shared pages divided among their holders)")
    parts.add_column("part")
    parts.add_column("MB", justify="right")
    for name, megabytes in sorted(warm[-1].memory_mb.items(), key=lambda item: -item[1]):
        parts.add_row(name, f"{megabytes:.0f}")
    console.print(parts)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one warm start")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-", ignore_cleanup_errors=True) as scratch:
        Path(scratch).chmod(0o711)
        data_dir = Path(scratch) / "data"
        os.environ["LENSMITH_CONFIG"] = str(Path(scratch) / "config.toml")
        cold = start(data_dir, idle=0)
        warm = [start(data_dir, idle=IDLE_SECONDS) for _ in range(1 if options.quick else 3)]
    seconds = float(np.median([one.seconds_until_first_answer for one in warm]))
    megabytes = warm[-1].total_mb
    # The limits stand in for a peer: no other system starts the same parts.
    result = {
        "seconds_until_first_answer": seconds,
        "ratio_of_limit": seconds / MOST_SECONDS,
        "memory_mb": megabytes,
        "memory_ratio_of_limit": megabytes / MOST_MEGABYTES,
    }
    if options.json:
        print(json.dumps({**result, "cold": asdict(cold), "warm": [asdict(one) for one in warm]}))
        return
    show(cold, warm)
    print(
        f"warm start to first answer {seconds:.1f} s, {seconds / MOST_SECONDS:.2f} of the {MOST_SECONDS:.0f} s allowed"
    )
    print(f"idle memory {megabytes:.0f} MB, {megabytes / MOST_MEGABYTES:.2f} of the {MOST_MEGABYTES:.0f} MB allowed")


if __name__ == "__main__":
    main()
