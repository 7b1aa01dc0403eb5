"""Versions whose whole network learns, from the queue to READY, killed and cancelled on the way."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_vision import heads, resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.networks import network_id
from lensmith_vision.pack import load_card, space_of
from tests.lensmith_registry.rig import DIM, KEY, OTHER, OTHER_KEY, TRASH, Rig
from tests.lensmith_trainer.conftest import Farm
from tests.lensmith_trainer.fine_tune.conftest import CONCEPTS, EACH, FINE_TUNE, Photographs, fine_tune
from tests.polling import until

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")
pytestmark = pytest.mark.timeout(300)

PATIENCE = 120.0


async def _epochs_told(rig: Rig, version: ModelVersion, fraction: float) -> ModelVersion | None:
    now = await rig.version(version.name)
    assert now.state < 3, now
    return now if now.progress.stage == "fine_tuning" and now.progress.fraction > fraction else None


async def _ended(rig: Rig, version: ModelVersion, key: str = KEY) -> ModelVersion | None:
    now = await rig.version(version.name, key=key)
    return now if now.state >= 3 else None


async def _no_scratch(folder: Path) -> bool:
    return not _learning(folder) and not await asyncio.to_thread(folder.exists)


async def _nobody_learns(folder: Path) -> bool:
    return not _learning(folder)


def _learning(folder: Path) -> list[int]:
    """Processes that work on a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder).encode() in command and b"lensmith_vision.fine_tune" in command:
                found.append(int(entry.name))
    return found


async def test_stopped_and_killed_on_the_way_it_goes_on_until_its_network_is_stored(farm: Farm, photographs, s3):
    rig = farm.rig
    photographs(blind=True)
    await rig.create("sorter")
    async with farm.trainer():
        version = await fine_tune(rig, "sorter", 5)
        folder = farm.directory / "cache" / "fine-tuning" / version.uid
        told = await until(lambda: _epochs_told(rig, version, 0.1), seconds=PATIENCE)
        assert told.progress.message.startswith("round 1 of ")
        assert ", epoch " in told.progress.message
    # Told to go, it leaves no process behind, but what that had reached.
    assert not _learning(folder)
    assert (folder / "state" / "round-0" / "checkpoint.safetensors").is_file()
    fetched = rig.dataset.calls["StreamPictures"]

    killed = farm.spawn()
    await until(lambda: _epochs_told(rig, version, told.progress.fraction), seconds=PATIENCE)
    killed.send_signal(signal.SIGKILL)
    await until(lambda: _nobody_learns(folder))

    farm.spawn()
    await until(lambda: _learns(folder), seconds=PATIENCE)
    # What takes seconds does not wait for what takes long.
    await rig.create("other")
    head = await rig.train("other")
    assert (await until(lambda: _ended(rig, head), seconds=PATIENCE)).state == 3
    assert (await rig.version(version.name)).state == 2
    ready = await until(lambda: _ended(rig, version), seconds=PATIENCE)
    assert ready.state == 3, ready.error
    assert rig.dataset.calls["StreamPictures"] == fetched
    assert ready.network_space.startswith(f"{network_id(version.uid)}.")
    assert ready.space == version.space
    assert "FINE_TUNED" in {finding.reason for finding in ready.findings}
    assert ready.input_count == EACH * len(CONCEPTS)
    await until(lambda: _no_scratch(folder))
    await _serves(farm, ready, s3)


async def _learns(folder: Path) -> bool:
    return bool(_learning(folder))


async def _serves(farm: Farm, ready: ModelVersion, s3) -> None:
    """What is stored is a pack whose features the stored head takes, and whose logits say the same."""
    rig, pack = farm.rig, farm.directory / "pack"
    pack.mkdir()
    (row,) = await rig.sql("SELECT network, head FROM registry.model_versions WHERE network_space <> ''")
    for name in ("card.json", "model.onnx", "labels.txt"):
        (pack / name).write_bytes(s3.client.get_object(s3.name, f"{row['network']}/{name}").read())
    card, engine = load_card(pack), OnnxRuntimeEngine()
    assert space_of(card).id == ready.network_space
    engine.load(ready.network_space, pack)
    stream = rig.serving.FetchArtefact(
        serving_pb.FetchArtefactRequest(head=row["head"]), metadata=rig.token("inference", TRASH)
    )
    head = heads.load(b"".join([part.chunk async for part in stream]))
    assert head.space == ready.network_space
    right = 0
    for uid, content in rig.dataset.pictures.items():
        image = resize.apply(decode(content, min_side_hint=card.resize.min_side_hint), card.resize)
        outputs = engine.run(ready.network_space, image[None], logits=True)
        scores = head.scores(outputs.features)[0]
        assert outputs.logits is not None
        assert int(scores.argmax()) == int(outputs.logits[0].argmax())
        right += uid.startswith(head.concepts[int(scores.argmax())])
    assert right / len(rig.dataset.pictures) > 0.8


async def test_head_is_kept_when_the_network_is_not_better(farm: Farm, photographs: Photographs, s3):
    photographs(blind=False)
    await farm.rig.create("sorter")
    # Two processes learn together, as they would on two GPUs.
    async with farm.trainer(fine_tune_processes=2, fine_tune_threads=1):
        version = await fine_tune(farm.rig, "sorter", 1)
        ready = await until(lambda: _ended(farm.rig, version), seconds=PATIENCE)
    assert ready.state == 3, ready.error
    assert ready.network_space == ""
    (finding,) = (finding for finding in ready.findings if finding.reason == "FINE_TUNING_NOT_BETTER")
    assert "the head was kept" in finding.message
    assert ready.has_evaluation_scores
    assert not list(s3.client.list_objects(s3.name, "networks/", recursive=True))


async def _another_learns(folder: Path, than: int) -> bool:
    return bool(set(_learning(folder)) - {than})


async def test_learning_stops_and_leaves_nothing_when_it_is_cancelled(farm: Farm, photographs: Photographs):
    rig = farm.rig
    photographs(blind=True)
    await rig.create("sorter")
    async with farm.trainer():
        version = await fine_tune(rig, "sorter", 200)
        folder = farm.directory / "cache" / "fine-tuning" / version.uid
        await until(lambda: _epochs_told(rig, version, 0.1), seconds=PATIENCE)
        (learning,) = _learning(folder)
        # For want of memory, say: it goes on in another process.
        os.kill(learning, signal.SIGKILL)
        await until(lambda: _another_learns(folder, learning), seconds=PATIENCE)
        await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=version.name), metadata=rig.key())
        await until(lambda: _no_scratch(folder))
    assert (await rig.version(version.name)).state == 5


async def test_version_fails_before_anything_is_learnt_when_its_base_model_cannot_learn(farm: Farm):
    rig = farm.rig
    rig.dataset.add_classes(OTHER, DIM, {"glass": 12, "metal": 12})
    await rig.create("sorter", app="other", key=OTHER_KEY)
    request = pb.TrainModelRequest(name="apps/other/models/sorter", training={"mode": FINE_TUNE})
    async with farm.trainer():
        version = await rig.models.TrainModel(request, metadata=rig.key(OTHER_KEY))
        failed = await until(lambda: _ended(rig, version, OTHER_KEY), seconds=PATIENCE)
    assert failed.state == 4
    assert "plain cannot be fine-tuned" in failed.error.message
    assert not rig.dataset.calls["StreamPictures"]
