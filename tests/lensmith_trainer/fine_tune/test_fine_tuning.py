"""Versions whose whole network learns, from the queue to READY, killed and cancelled on the way."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod as Method
from lensmith_api.v1.training_settings_pb2 import ThresholdAim
from lensmith_vision import heads, resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.networks import network_id
from lensmith_vision.pack import load_card, space_of
from tests.lensmith_registry.rig import DIM, KEY, MULTI_LABEL, OTHER, OTHER_KEY, REGRESSION, TRASH, Rig
from tests.lensmith_trainer.conftest import Farm
from tests.lensmith_trainer.fine_tune.conftest import CONCEPTS, EACH, FINE_TUNE, Photographs, fine_tune
from tests.polling import until

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")
pytestmark = pytest.mark.timeout(300)

PATIENCE = 240.0


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


async def _begun(farm: Farm, max_epochs: int) -> tuple[ModelVersion, Path]:
    """A version whose whole network is to learn, and the folder in which that happens."""
    await farm.rig.create("sorter")
    version = await fine_tune(farm.rig, "sorter", max_epochs)
    return version, farm.directory / "cache" / "fine-tuning" / version.uid


async def test_stopped_and_killed_on_the_way_it_goes_on_until_its_network_is_stored(farm: Farm, photographs, s3):
    rig = farm.rig
    photographs(blind=True)
    async with farm.trainer():
        version, folder = await _begun(farm, 5)
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
    head = await _head(rig, row["head"])
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


async def _head(rig: Rig, key: str) -> heads.Head:
    request = serving_pb.FetchArtefactRequest(head=key)
    stream = rig.serving.FetchArtefact(request, metadata=rig.token("inference", TRASH))
    return heads.load(b"".join([part.chunk async for part in stream]))


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


def _what_is_judged(concept: str, number: int) -> dict[str, bool | float]:
    """Each picture shows its concept; of every third one nobody said whether it shows the other."""
    (other,) = set(CONCEPTS) - {concept}
    return {concept: True} if number % 3 == 1 else {concept: True, other: False}


async def test_labels_that_nobody_gave_teach_nothing_when_a_multi_label_network_learns(farm: Farm, photographs):
    rig = farm.rig
    photographs(blind=True, told=_what_is_judged, tested=6)
    await rig.create("sorter", Model(type=MULTI_LABEL, concepts=CONCEPTS))
    async with farm.trainer():
        aim = ThresholdAim(min_precision=0.9)
        version = await fine_tune(rig, "sorter", 8, evaluation=Method.EVALUATION_METHOD_TEST_SET, thresholds=aim)
        ready = await until(lambda: _ended(rig, version), seconds=PATIENCE)
    assert ready.state == 3, ready.error
    assert ready.network_space, [finding.message for finding in ready.findings]
    (finding,) = (finding for finding in ready.findings if finding.reason == "FINE_TUNED")
    assert re.search(r"a chance of [\d.]+%, a head [\d.]+%, on the same 12 held-out images", finding.message)
    assert "on the same 4 images" in finding.message
    assert ready.input_count == 20
    assert len(ready.thresholds) == 2
    get = pb.GetEvaluationRequest(name=f"{ready.name}/evaluation")
    evaluation = await rig.models.GetEvaluation(get, metadata=rig.key())
    assert (evaluation.evaluation_method, evaluation.input_count) == (Method.EVALUATION_METHOD_TEST_SET, 4)
    known = [_what_is_judged(concept, number) for concept in CONCEPTS for number in range(0, EACH, 6)]
    for one in evaluation.concepts:
        given = [labels[one.concept] for labels in known if one.concept in labels]
        assert (one.positives, one.negatives) == (sum(given), len(given) - sum(given))


async def test_numbers_are_measured_when_a_regression_network_learns(farm: Farm, photographs: Photographs):
    rig = farm.rig
    photographs(blind=True, told=lambda concept, number: {"weight": 10.0 if concept == "glass" else 30.0})
    await rig.create("scale", Model(type=REGRESSION, concepts=["weight"], min_value=0, max_value=40))
    async with farm.trainer():
        version = await fine_tune(rig, "scale", 6, evaluation=Method.EVALUATION_METHOD_SPLIT)
        ready = await until(lambda: _ended(rig, version), seconds=PATIENCE)
    assert ready.state == 3, ready.error
    (finding,) = (finding for finding in ready.findings if finding.reason.startswith("FINE_TUN"))
    assert re.search(r"off by [\d.]+ on average, a head by [\d.]+, on the same", finding.message)
    assert ready.network_space, finding.message
    assert ready.input_count == EACH * len(CONCEPTS)
    rows = await rig.sql("SELECT head FROM registry.model_versions WHERE network_space <> ''")
    head = await _head(rig, rows[0]["head"])
    assert 0 < head.interval < 20
    assert head.value_range == (0, 40)


async def _another_learns(folder: Path, than: int) -> bool:
    return bool(set(_learning(folder)) - {than})


async def test_learning_stops_and_leaves_nothing_when_it_is_cancelled(farm: Farm, photographs: Photographs):
    rig = farm.rig
    photographs(blind=True)
    async with farm.trainer():
        version, folder = await _begun(farm, 200)
        await until(lambda: _epochs_told(rig, version, 0.1), seconds=PATIENCE)
        (learning,) = _learning(folder)
        # For want of memory, say: it goes on in another process.
        os.kill(learning, signal.SIGKILL)
        await until(lambda: _another_learns(folder, learning), seconds=PATIENCE)
        await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=version.name), metadata=rig.key())
        await until(lambda: _no_scratch(folder))
    assert (await rig.version(version.name)).state == 5


async def test_nothing_is_left_when_a_version_is_cancelled_while_no_trainer_runs(farm: Farm, photographs: Photographs):
    rig = farm.rig
    photographs(blind=True)
    async with farm.trainer():
        version, folder = await _begun(farm, 200)
        await until(lambda: _holds_pictures(folder), seconds=PATIENCE)
    assert folder.is_dir()
    await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=version.name), metadata=rig.key())
    async with farm.trainer():
        await until(lambda: _no_scratch(folder), seconds=PATIENCE)


async def _holds_pictures(folder: Path) -> bool:
    return await asyncio.to_thread((folder / "exact.u8").is_file)


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
