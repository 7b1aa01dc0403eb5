"""How much of the machine's predictions arrive at the client.

Starts the whole platform in a temporary directory and asks it over gRPC through Envoy; next to it, in the same run, the
same decoding and the same network run in one bare process. Prints throughput and latency of `Predict`, and the ratio:
the ceiling's CPU-seconds per image over those of Envoy and the services. The load client is not counted.

    python benchmarks/predict.py [--quick] [--json]
"""

import argparse
import asyncio
import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from lensmith_api.v1.inference_service_pb2 import ImageQuery, PredictRequest
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.input_pb2 import Image as ImageMessage
from lensmith_vision.pack_builder import build_pack, read_source

sys.path.insert(0, str(Path(__file__).parent))
from bare_process import CORES, BareProcess
from running_platform import RunningPlatform, running_platform

if TYPE_CHECKING:
    from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

PACK = "mobilenetv2-imagenet"
MODEL = "general"
"""What its classifier is served as: 1,860 concepts."""
SIZES = {"341x256": (341, 256), "1600x1200": (1600, 1200)}
BATCHES = (1, 8, 32)
CONCURRENCIES = (1, 16)
DECISIVE = ("1600x1200", 8)
"""The case whose ratio is the benchmark's answer: picture size and batch."""
TARGET = 0.6


@dataclass(frozen=True)
class Ceiling:
    """What one bare process does."""

    size: str
    batch: int
    images_per_second: float
    cpu_ms_per_image: float


@dataclass(frozen=True)
class Measurement:
    """What the platform does."""

    size: str
    batch: int
    concurrency: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_image: float
    cpu_ms_by_part: dict[str, float]
    ratio_of_ceiling: float


def photographs(shared: Path, count: int) -> dict[str, list[bytes]]:
    """Real photographs as JPEG in each of the sizes."""
    paths = sorted((shared / "datasets" / "trashnet").rglob("*.jpg"))
    if not paths:
        sys.exit(f"no photographs under {shared}: set LENSMITH_SHARED")
    chosen = paths[:: max(1, len(paths) // count)][:count]
    made: dict[str, list[bytes]] = {}
    for name, (width, height) in SIZES.items():
        made[name] = []
        for path in chosen:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            if image.width < image.height:
                image = image.transpose(Image.Transpose.ROTATE_90)
            file = io.BytesIO()
            image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            made[name].append(file.getvalue())
    return made


def measure_ceiling(bare: BareProcess, size: str, batch: int, jpegs: Sequence[bytes], seconds: float) -> Ceiling:
    """Work on batches in this process, in one thread for each core."""

    def one_batch(number: int) -> None:
        bare.work(picked(jpegs, number, batch), logits=True)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one_batch, range(CORES)))
        begin, cpu, done = time.perf_counter(), own_cpu(), 0
        while time.perf_counter() - begin < seconds:
            list(pool.map(one_batch, range(done, done + 2 * CORES)))
            done += 2 * CORES
        wall, cpu = time.perf_counter() - begin, own_cpu() - cpu
    images = done * batch
    return Ceiling(size, batch, images / wall, cpu / images * 1000)


@asynccontextmanager
async def client(running: RunningPlatform) -> AsyncIterator["Load"]:
    """A connection through Envoy."""
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(running.target, options=options) as channel:
        yield Load(running, InferenceServiceStub(channel))


class Load:
    """Asks the platform."""

    def __init__(self, running: RunningPlatform, stub: "InferenceServiceAsyncStub") -> None:
        self._running = running
        self._stub = stub
        self._metadata = (("authorization", f"Key {running.key}"),)

    async def warm(self, jpeg: bytes, seconds: float = 60) -> None:
        """Wait until the model answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                await self._ask([jpeg])
            except grpc.aio.AioRpcError as error:
                if time.monotonic() > end:
                    sys.exit(f"the model does not answer: {error.code().name} {error.details()}")
                await asyncio.sleep(0.2)
            else:
                return

    async def measure(
        self, size: str, batch: int, concurrency: int, jpegs: Sequence[bytes], seconds: float, ceiling: Ceiling
    ) -> Measurement:
        """Ask in a closed loop, each of `concurrency` callers one request after another."""
        await asyncio.gather(*(self._ask(picked(jpegs, number, batch)) for number in range(min(4, concurrency))))
        latencies: list[float] = []
        begin, before = time.perf_counter(), self._running.cpu_seconds()
        end = begin + seconds

        async def caller(number: int) -> None:
            while time.perf_counter() < end:
                start = time.perf_counter()
                await self._ask(picked(jpegs, number + len(latencies), batch))
                latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(caller(number) for number in range(concurrency)))
        wall, after = time.perf_counter() - begin, self._running.cpu_seconds()
        images = len(latencies) * batch
        spent = {name: (after[name] - before[name]) / images * 1000 for name in after}
        p50, p99 = np.percentile(latencies, [50, 99]) * 1000
        total = sum(spent.values())
        return Measurement(
            size=size,
            batch=batch,
            concurrency=concurrency,
            images_per_second=images / wall,
            p50_ms=float(p50),
            p99_ms=float(p99),
            cpu_ms_per_image=total,
            cpu_ms_by_part={name: round(value, 3) for name, value in spent.items() if value > 0.005},
            ratio_of_ceiling=ceiling.cpu_ms_per_image / total,
        )

    async def _ask(self, jpegs: Sequence[bytes]) -> None:
        inputs = [ImageQuery(image=ImageMessage(content=jpeg)) for jpeg in jpegs]
        request = PredictRequest(model=f"apps/main/models/{MODEL}", inputs=inputs, max_concepts=5)
        response = await self._stub.Predict(request, metadata=self._metadata, timeout=60)
        failed = [one.status for one in response.predictions if one.status.code or not one.concepts]
        if failed or len(response.predictions) != len(jpegs):
            sys.exit(f"an image was not answered: {failed[:1]}")


def picked(jpegs: Sequence[bytes], start: int, count: int) -> list[bytes]:
    """Some of the photographs, others for each request."""
    return [jpegs[(start * count + index) % len(jpegs)] for index in range(count)]


def own_cpu() -> float:
    """CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure_all(
    running: RunningPlatform, bare: BareProcess, jpegs: dict[str, list[bytes]], *, quick: bool
) -> tuple[list[Ceiling], list[Measurement]]:
    """Measure ceiling and platform case by case, so that both see the machine in the same state."""
    seconds = 2.0 if quick else 6.0
    cases = [DECISIVE] if quick else [(size, batch) for size in SIZES for batch in BATCHES]
    ceilings: list[Ceiling] = []
    measurements: list[Measurement] = []
    async with client(running) as load:
        await load.warm(jpegs["341x256"][0])
        for size, batch in cases:
            ceiling = measure_ceiling(bare, size, batch, jpegs[size], seconds / 2)
            ceilings.append(ceiling)
            measurements += [
                await load.measure(size, batch, concurrency, jpegs[size], seconds, ceiling)
                for concurrency in CONCURRENCIES
            ]
    return ceilings, measurements


def show(ceilings: Sequence[Ceiling], measurements: Sequence[Measurement], ratio: float) -> None:
    """Print a table."""
    table = Table(title=f"Predict through Envoy, {CORES} cores, {PACK}")
    columns = (
        "JPEG",
        "batch",
        "callers",
        "images/s",
        "ceiling",
        "p50 ms",
        "p99 ms",
        "CPU ms/image",
        "ceiling",
        "ratio",
    )
    for column in columns:
        table.add_column(column, justify="right")
    of = {(ceiling.size, ceiling.batch): ceiling for ceiling in ceilings}
    for one in measurements:
        bare = of[(one.size, one.batch)]
        table.add_row(
            one.size,
            str(one.batch),
            str(one.concurrency),
            f"{one.images_per_second:.1f}",
            f"{bare.images_per_second:.1f}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.cpu_ms_per_image:.2f}",
            f"{bare.cpu_ms_per_image:.2f}",
            f"{one.ratio_of_ceiling:.2f}",
        )
    console = Console()
    # Where the output is no terminal its width is a guess that would cut the columns.
    console = console if console.is_terminal else Console(width=120)
    console.print(table)
    size, batch = DECISIVE
    console.print(f"ratio of the ceiling at batch {batch} of {size}, 1 caller: {ratio:.2f} (target {TARGET})")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="only the decisive case, for a few seconds")
    chosen = parser.parse_args()
    shared = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).parents[2] / "shared")).resolve()
    jpegs = photographs(shared, 32)
    with tempfile.TemporaryDirectory(prefix="lensmith-packs-") as packs:
        pack = Path(packs) / PACK
        build_pack(read_source(shared / "models" / PACK), pack)
        bare = BareProcess(pack)
        with running_platform(LENSMITH_REGISTRY_PACK_FOLDERS=packs) as running:
            ceilings, measurements = asyncio.run(measure_all(running, bare, jpegs, quick=chosen.quick))
    decisive = [one for one in measurements if (one.size, one.batch) == DECISIVE and one.concurrency == 1]
    ratio = decisive[0].ratio_of_ceiling
    if chosen.json:
        document = {
            "benchmark": "predict",
            "ratio_of_ceiling": round(ratio, 4),
            "ratio_case": {"size": DECISIVE[0], "batch": DECISIVE[1], "concurrency": 1},
            "target": TARGET,
            "cores": CORES,
            "pack": PACK,
            "ceilings": [asdict(ceiling) for ceiling in ceilings],
            "measurements": [asdict(one) for one in measurements],
        }
        print(json.dumps(document))
    else:
        show(ceilings, measurements, ratio)
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
