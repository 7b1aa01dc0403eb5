"""From TrainModel to READY on a running platform: the part of `train.py` that goes through the API.

The platform is started on a fresh data directory. What would take hours to upload and embed on two cores is written
straight into its database: inputs, their vectors and annotations, as the indexer and the API write them, with a row in
the change feed each. There are no picture files behind them. Everything from there on is the API's own road: a new
annotation is a call of the API, training is TrainModel, the end is what WatchModelVersion says.
"""

import hashlib
import io
import json
import sys
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt
import psutil
from PIL import Image

import lensmith
from lensmith_dataset.vectors import halfvec_from_numbers, pass_halfvec
from lensmith_stack.postgres import Postgres

sys.path.insert(0, str(Path(__file__).parent))
from running_platform import RunningPlatform

NEW = 10
ROUNDS = 5
NEW_PICTURES = NEW * ROUNDS
"""Pictures that are annotated after the first training."""

CHUNK = 5000
MODEL, AUTO_MODEL = "bench", "bench-auto"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass
class Training:
    """Seconds of one training.

    Attributes:
        seconds: From the call of TrainModel to READY, as the client sees it.
        queued: What TrainModel itself took: counting, preflight, one transaction.
        parts: Seconds in the trainer: `fetch`, `fit`, `hand_in`.
        cpu: Processor seconds of each process meanwhile, which a busy machine changes less.
    """

    seconds: float
    queued: float
    parts: dict[str, float]
    cpu: dict[str, float]


@dataclass
class ApiResult:
    """One size.

    Attributes:
        trainer_peak_over_matrix: Most memory of the trainer's process while it trained one model, over that of the
            matrix of float32.
        two_models_peak_over_matrix: The same with a second model, while it keeps what makes retrains of the first fast.
    """

    rows: int
    concepts: int
    first: Training
    again: list[Training] = field(default_factory=list)
    ten_new: list[Training] = field(default_factory=list)
    auto: Training | None = None
    trainer_peak_over_matrix: float = 0.0
    two_models_peak_over_matrix: float = 0.0
    accuracy: float = 0.0


class Loader:
    """Writes an app's inputs, vectors and annotations into the database, as superuser."""

    def __init__(self, running: RunningPlatform) -> None:
        ports = json.loads((running.data_dir / "ports.json").read_text())["ports"]
        self._metrics_port = ports["metrics_trainer"]
        secrets = running.data_dir / "secrets"
        postgres = Postgres(running.data_dir / "postgres", secrets / "postgres", ports["postgres"], "")
        self._url = postgres.url("lensmith")

    def parts(self) -> dict[str, float]:
        """Seconds of each part of training so far, from the trainer's metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics") as answer:
            text = answer.read().decode()
        prefix = "lensmith_train_part_seconds_sum{part="
        found = [line.removeprefix(prefix).split("} ") for line in text.splitlines() if line.startswith(prefix)]
        return {name.strip('"'): float(value) for name, value in found}

    async def load(self, app: str, space: str, features: Floats, classes: Ints, labelled: int) -> list[str]:
        """Write pictures, of which the first `labelled` are annotated; returns all own ids."""
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute("SET search_path = dataset, public")
            await pass_halfvec(connection)
            app_id = await connection.fetchval("SELECT app_id FROM auth.apps WHERE name = $1", app)
            concepts = dict(await connection.fetch("SELECT own_id, id FROM dataset.concepts WHERE app_id = $1", app_id))
            ids: list[str] = []
            for start in range(0, len(features), CHUNK):
                part = slice(start, start + CHUNK)
                ids += await _write(
                    connection, app_id, space, features[part], classes[part], concepts, start, max(0, labelled - start)
                )
            # As Postgres does by itself within a minute.
            for table in ("inputs", "annotations", "input_changes", "embeddings"):
                await connection.execute(f"VACUUM (ANALYZE) dataset.{table}")
            return ids
        finally:
            await connection.close()


async def _write(
    connection: asyncpg.Connection,
    app_id: int,
    space: str,
    features: Floats,
    classes: Ints,
    concepts: dict[str, int],
    start: int,
    labelled: int,
) -> list[str]:
    hashes = [hashlib.sha256(f"{app_id}/{start + row}".encode()).digest() for row in range(len(features))]
    uids, own_ids = [uuid.uuid4() for _ in hashes], [f"i{start + row}" for row in range(len(hashes))]
    async with connection.transaction():
        await connection.copy_records_to_table(
            "blobs",
            schema_name="dataset",
            columns=["app_id", "sha256", "size_bytes", "mime_type", "width", "height", "deleted_at"],
            records=[(app_id, sha256, 1, "image/jpeg", 1, 1, None) for sha256 in hashes],
        )
        await connection.copy_records_to_table(
            "inputs",
            schema_name="dataset",
            columns=["app_id", "uid", "own_id", "sha256", "status", "test", "source_url", "actor"],
            records=[
                (app_id, uid, own, sha256, 2, False, "", "benchmark")
                for uid, own, sha256 in zip(uids, own_ids, hashes, strict=True)
            ],
        )
        known = dict(
            await connection.fetch(
                "SELECT uid, id FROM dataset.inputs WHERE app_id = $1 AND uid = ANY($2::uuid[])", app_id, uids
            )
        )
        ids = [known[uid] for uid in uids]
        await connection.copy_records_to_table(
            "embeddings",
            schema_name="dataset",
            columns=["app_id", "space", "input_id", "vector"],
            records=[
                (app_id, space, number, halfvec_from_numbers(row, features.shape[1]))
                for number, row in zip(ids, features, strict=True)
            ],
        )
        await connection.copy_records_to_table(
            "annotations",
            schema_name="dataset",
            columns=["app_id", "input_id", "concept_id", "positive", "actor"],
            records=[
                (app_id, number, concepts[f"c{own:03d}"], True, "benchmark")
                for number, own in list(zip(ids, classes, strict=True))[:labelled]
            ],
        )
        await connection.copy_records_to_table(
            "input_changes", schema_name="dataset", columns=["app_id", "input_id"], records=[(app_id, i) for i in ids]
        )
    return own_ids


async def train(client: lensmith.AsyncClient, loader: Loader, running: RunningPlatform, model: str = MODEL) -> Training:
    """Train once, and wait as a client waits."""
    before, cpu = loader.parts(), running.cpu_seconds()
    begin = time.perf_counter()
    version = await client.models.train(model)
    queued = time.perf_counter() - begin
    done = await client.models.wait(model, version.number)
    seconds = time.perf_counter() - begin
    if done.state is not lensmith.VersionState.READY:
        sys.exit(f"the training ended as {done.state}: {done.error}")
    after, cpu_after = loader.parts(), running.cpu_seconds()
    return Training(
        seconds,
        queued,
        {name: value - before.get(name, 0.0) for name, value in after.items()},
        {name: value - cpu[name] for name, value in cpu_after.items()},
    )


async def measure_api(running: RunningPlatform, base_model: str, features: Floats, classes: Ints) -> ApiResult:
    """One size: a first training, two again, some with ten new annotations each, and one that chooses its tier.

    Args:
        running: The platform.
        base_model: Whose vectors they are.
        features: [n + NEW_PICTURES, d].
        classes: Of each.
    """
    rows, width = len(features) - NEW_PICTURES, int(classes.max()) + 1
    app = f"bench-{rows}-{width}"
    async with lensmith.AsyncClient(running.url, running.key) as operator:
        _, key = await operator.apps.create(app, base_model=base_model)
    async with lensmith.AsyncClient(running.url, key.secret, app, timeout=300) as client:
        await client.concepts.create([f"c{name:03d}" for name in range(width)])
        linear = lensmith.TrainingSettings(tier=lensmith.HeadTier.LINEAR)
        await client.models.create(MODEL, lensmith.ModelType.MULTI_CLASS, training=linear)
        await client.models.create(AUTO_MODEL, lensmith.ModelType.MULTI_CLASS)
        space = (await client.embed([_picture()])).space
        loader = Loader(running)
        ids = await loader.load(app, space, features, classes, rows)
        result = ApiResult(rows, width, await train(client, loader, running))
        result.again = [await train(client, loader, running) for _ in range(2)]
        for start in range(rows, len(features), NEW):
            said = {ids[row]: [lensmith.Annotation(f"c{classes[row]:03d}")] for row in range(start, start + NEW)}
            if refused := await client.annotations.merge(said):
                sys.exit(f"annotations were refused: {refused}")
            result.ten_new.append(await train(client, loader, running))
        matrix = features[:rows].nbytes
        result.trainer_peak_over_matrix = _peak_bytes(running.parts["trainer"]) / matrix
        result.auto = await train(client, loader, running, AUTO_MODEL)
        version = await client.models.get_version(MODEL, 1)
        result.accuracy = version.summary.accuracy or 0.0
    result.two_models_peak_over_matrix = _peak_bytes(running.parts["trainer"]) / matrix
    return result


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG")
    return file.getvalue()
