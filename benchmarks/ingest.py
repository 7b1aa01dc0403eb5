"""How fast pictures come in: from the first byte sent until the last one is embedded and READY.

Starts the whole platform in a temporary directory and sends it photographs with the SDK; next to it, in the same run,
one bare process decodes the same photographs and runs the same networks, which is the least that must be done: the
app's own, and `starter` beside it where that one must say what General sees. Prints images per second, the CPU time of
each part, and the ratio of the two.

    python benchmarks/ingest.py [--quick] [--json] [--base mobilenetv2-imagenet] [--no-general]
"""

import argparse
import asyncio
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import lensmith
from lensmith_vision.pack import builtin_pack, load_card
from lensmith_vision.pack_builder import build_pack, read_source

sys.path.insert(0, str(Path(__file__).parent))
from bare_process import CORES, BareProcess
from running_platform import RunningPlatform, running_platform

PACK = "mobilenetv2-features"
TARGET = 0.5
BATCH = 32
SENDERS = 3
"""Calls under way at once: enough that the platform never waits for the client."""


@dataclass(frozen=True)
class Ingest:
    """One round, with the ceiling measured right before it."""

    ceiling_images_per_second: float
    images: int
    seconds_until_stored: float
    seconds_until_ready: float
    images_per_second: float
    client_cpu_ms_per_image: float
    cpu_ms_per_image: dict[str, float]


def bare_images_per_second(bare: BareProcess, photographs: Sequence[bytes]) -> float:
    """Decodes and embeds all photographs once in this process, a thread for each core."""
    parts = [photographs[start : start + 8] for start in range(0, len(photographs), 8)]
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(bare.work, parts[: 2 * CORES]))
        begin = time.perf_counter()
        list(pool.map(bare.work, parts))
    return len(photographs) / (time.perf_counter() - begin)


async def ingest(running: RunningPlatform, app: str, photographs: Sequence[bytes], ceiling: float) -> Ingest:
    """Sends photographs into a new app and waits until all are READY."""
    async with lensmith.AsyncClient(running.url, running.key) as operator:
        _, key = await operator.apps.create(app)
    async with lensmith.AsyncClient(running.url, key.secret, app, timeout=300) as client:
        before, own = running.cpu_seconds(), _own_cpu()
        begin = time.perf_counter()
        batches = iter([photographs[start : start + BATCH] for start in range(0, len(photographs), BATCH)])

        async def sender() -> None:
            for batch in batches:
                async for result in client.inputs.create([lensmith.NewInput(data) for data in batch]):
                    if result.error or result.duplicate:
                        sys.exit(f"a photograph was not taken in as new: {result.error or 'duplicate'}")

        await asyncio.gather(*(sender() for _ in range(SENDERS)))
        stored = time.perf_counter() - begin
        counts = await client.inputs.wait_until_ready(timeout=600)
        ready = time.perf_counter() - begin
        after, own = running.cpu_seconds(), _own_cpu() - own
    if counts.ready != len(photographs):
        sys.exit(f"{counts.ready} of {len(photographs)} photographs are ready, {counts.failed} failed")
    spent = {name: (after[name] - before[name]) / len(photographs) * 1000 for name in after}
    return Ingest(
        ceiling_images_per_second=ceiling,
        images=len(photographs),
        seconds_until_stored=stored,
        seconds_until_ready=ready,
        images_per_second=len(photographs) / ready,
        client_cpu_ms_per_image=own / len(photographs) * 1000,
        cpu_ms_per_image={name: round(value, 2) for name, value in spent.items() if value >= 0.01},
    )


def read_photographs(shared: Path, count: int) -> list[bytes]:
    """Distinct photographs of TrashNet, 341×256 or so."""
    paths = sorted((shared / "datasets" / "trashnet").glob("*/*.jpg"))
    if not paths:
        sys.exit(f"no photographs under {shared}: set LENSMITH_SHARED")
    distinct = dict.fromkeys(path.read_bytes() for path in paths[:: max(1, len(paths) // count)])
    return list(itertools.islice(distinct, count))


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def show(rounds: Sequence[Ingest], ratio: float, pack: str) -> None:
    """Prints a table."""
    table = Table(title=f"photographs until READY, {CORES} cores, {pack}")
    for column in ("images", "stored s", "ready s", "images/s", "ceiling", "CPU ms/image", "client"):
        table.add_column(column, justify="right")
    for one in rounds:
        table.add_row(
            str(one.images),
            f"{one.seconds_until_stored:.1f}",
            f"{one.seconds_until_ready:.1f}",
            f"{one.images_per_second:.1f}",
            f"{one.ceiling_images_per_second:.1f}",
            f"{sum(one.cpu_ms_per_image.values()):.1f}",
            f"{one.client_cpu_ms_per_image:.1f}",
        )
    console = Console()
    console.print(table)
    parts = Table(title="CPU ms/image by part, last round")
    for name in rounds[-1].cpu_ms_per_image:
        parts.add_column(name, justify="right")
    parts.add_row(*(f"{value:.2f}" for value in rounds[-1].cpu_ms_per_image.values()))
    console.print(parts)
    console.print(f"ratio of the ceiling {ratio:.2f} (target {TARGET})")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer photographs, one round")
    parser.add_argument("--base", default=PACK, help="base model, a folder of ../shared/models")
    parser.add_argument("--no-general", action="store_true", help="without what General sees in each")
    options = parser.parse_args()
    shared = Path(os.environ.get("LENSMITH_SHARED", "../shared"))
    photographs = read_photographs(shared, 300 if options.quick else 1000)
    with tempfile.TemporaryDirectory() as scratch:
        pack = Path(scratch) / options.base
        build_pack(read_source(shared / "models" / options.base), pack)
        alone = options.no_general or load_card(pack).logits is not None
        bare = BareProcess(pack) if alone else BareProcess(pack, builtin_pack("starter"))
        settings = {
            "LENSMITH_REGISTRY_PACK_FOLDERS": scratch,
            "LENSMITH_DATASET_GENERAL_CONCEPTS": str(not options.no_general).lower(),
        }
        with running_platform(**settings) as running:
            asyncio.run(ingest(running, "warm", photographs[:64], 1.0))
            rounds = [
                asyncio.run(ingest(running, f"round-{number}", photographs, bare_images_per_second(bare, photographs)))
                for number in range(1 if options.quick else 3)
            ]
    ratio = float(np.median([one.images_per_second / one.ceiling_images_per_second for one in rounds]))
    if options.json:
        result = {
            "ratio_of_ceiling": ratio,
            "target": TARGET,
            "cores": CORES,
            "base": options.base,
            "general": not options.no_general,
        }
        print(json.dumps({**result, "rounds": [asdict(one) for one in rounds]}))
    else:
        show(rounds, ratio, options.base)


if __name__ == "__main__":
    main()
