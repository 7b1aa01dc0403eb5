"""Networks of fine-tuned versions: taken in under a lease, held against their card, and gone with their version."""

import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
import numpy as np
import onnx
import pytest

from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import TrainingMode
from lensmith_platform.bus import WorkConsumer, connect
from lensmith_platform.events import FINE_TUNING_CONSUMER
from lensmith_vision.card import Logits
from lensmith_vision.heads import Head, save
from lensmith_vision.networks import network_id
from lensmith_vision.pack import load_card, space_of
from tests.lensmith_platform.background import background
from tests.lensmith_registry.pack_variants import PACK
from tests.lensmith_registry.rig import DIM, TRASH, Rig, completion, refusal
from tests.polling import until

MODEL = (PACK / "model.onnx").read_bytes()
CARD = load_card(PACK)
FINE_TUNE = TrainingMode.TRAINING_MODE_FINE_TUNE


@pytest.fixture(autouse=True)
async def trainer_that_fine_tunes(nats_url: str) -> AsyncIterator[None]:
    """Somebody who would take the versions that these tests claim themselves."""

    async def leave(event: Event) -> None:
        """The test does it."""

    async with await connect(nats_url) as bus:
        consumer = WorkConsumer(bus, FINE_TUNING_CONSUMER, "models.fine_tuning_queued", leave)
        async with background(consumer.run()):
            yield


async def _queued(rig: Rig) -> ModelVersion:
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training={"mode": FINE_TUNE, "max_epochs": 3})
    return await rig.models.TrainModel(request, metadata=rig.key())


def _files(version: ModelVersion, **changes: object) -> dict[str, bytes]:
    """The pack of the network of a version; its graph is that of `plain`, which registry does not run."""
    of_version = {"id": network_id(version.uid), "logits": Logits(2, "softmax"), **changes}
    card = replace(CARD, **of_version)
    return {"card.json": card.to_json().encode(), "model.onnx": MODEL, "labels.txt": b"glass\nmetal\n"}


def _with_weights_elsewhere() -> bytes:
    graph = onnx.load_from_string(MODEL)
    graph.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    return graph.SerializeToString()


def _space(version: ModelVersion) -> str:
    return space_of(replace(CARD, id=network_id(version.uid))).id


async def _parts(header: job_pb.NetworkFileHeader, content: bytes) -> AsyncIterator[job_pb.PutNetworkFileRequest]:
    yield job_pb.PutNetworkFileRequest(header=header)
    for start in range(0, len(content), 100_000):
        yield job_pb.PutNetworkFileRequest(chunk=content[start : start + 100_000])


async def _put(rig: Rig, job: job_pb.TrainingJob, name: str, content: bytes, *, sha256: str = "", app_id: int = TRASH):
    header = job_pb.NetworkFileHeader(
        app_id=job.app_id,
        version_uid=job.version_uid,
        lease=job.lease,
        file_name=name,
        sha256=sha256 or hashlib.sha256(content).hexdigest(),
    )
    return await rig.jobs.PutNetworkFile(_parts(header, content), metadata=rig.token("trainer", app_id))


def _handed_in(job: job_pb.TrainingJob, space: str) -> job_pb.CompleteModelVersionRequest:
    concepts = tuple(job.model.concepts)
    head = Head(
        "multi_class",
        space,
        concepts,
        np.zeros((CARD.feature_dim, len(concepts)), np.float32),
        np.zeros(len(concepts), np.float32),
        np.full(len(concepts), 0.5, np.float32),
    )
    request = completion(job)
    request.head, request.network_space = save(head), space
    return request


async def _complete(rig: Rig, job: job_pb.TrainingJob, space: str) -> ModelVersion:
    return await rig.jobs.CompleteModelVersion(_handed_in(job, space), metadata=rig.token("trainer", TRASH))


def _stored(s3) -> set[str]:
    return {str(found.object_name) for found in s3.client.list_objects(s3.name, "networks/", recursive=True)}


async def test_version_keeps_its_network_and_loses_it_when_it_is_deleted(make_rig, s3):
    async with make_rig(purge_grace_seconds=0, purge_seconds=0.1) as rig:
        version = await _queued(rig)
        assert (version.training.mode, version.training.max_epochs) == (FINE_TUNE, 3)
        assert version.progress.message == "waiting for a trainer that can fine-tune"
        job = await rig.claim(version)
        for name, content in _files(version).items():
            await _put(rig, job, name, content)
        await _put(rig, job, "card.json", _files(version)["card.json"])
        space = _space(version)
        assert (await _complete(rig, job, space)).network_space == space
        # Whoever did not hear the answer does it all again, and changes nothing.
        assert (await _complete(rig, job, space)).network_space == space
        await _put(rig, job, "labels.txt", b"other\n")
        ready = await rig.until_state(version.name, "READY")
        assert (ready.network_space, ready.space) == (space, version.space)
        folder = f"networks/{TRASH}/{version.uid}/1"
        assert _stored(s3) == {f"{folder}/{name}" for name in _files(version)}
        assert s3.client.get_object(s3.name, f"{folder}/labels.txt").read() == b"glass\nmetal\n"
        (row,) = await rig.sql("SELECT * FROM registry.model_versions")
        told = ("network", "network_sha256", "network_bytes", "network_dimensions", "network_input_side")
        side = max(CARD.resize.height, CARD.resize.width)
        assert tuple(row[name] for name in told) == (folder, CARD.sha256, len(MODEL), CARD.feature_dim, side)
        await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
        await until(lambda: _nothing_stored(s3))


async def _nothing_stored(s3) -> bool:
    return not _stored(s3)


async def test_network_is_refused_when_its_parts_do_not_belong_together(rig: Rig):
    version = await _queued(rig)
    job = await rig.claim(version)
    space = _space(version)
    assert (await refusal(_complete(rig, job, space))).reason == "NETWORK_MISSING"
    others = [
        {"id": "somebody-elses"},
        {"sha256": "0" * 64},
        {"logits": Logits(3, "softmax")},
        {"feature_dim": DIM + 1, "golden": replace(CARD.golden, features=np.append(CARD.golden.features, 0))},
    ]
    for changes in others:
        for name, content in _files(version, **changes).items():
            await _put(rig, job, name, content)
        assert (await refusal(_complete(rig, job, space))).reason == "NETWORK_INVALID", changes
    assert (await refusal(_put(rig, job, "../../heads", b""))).reason == "NETWORK_FILE_INVALID"
    assert (await refusal(_put(rig, job, "card.json", b"x", sha256="0" * 64))).reason == "NETWORK_FILE_INVALID"
    assert (await refusal(_put(rig, job, "model.onnx", b"no graph"))).reason == "PACK_GRAPH_INVALID"
    assert (await refusal(_put(rig, job, "model.onnx", _with_weights_elsewhere()))).reason == "PACK_GRAPH_EXTERNAL_DATA"
    large = bytes(16 * 1024 * 1024 + 1)
    assert (await refusal(_put(rig, job, "labels.txt", large))).reason == "NETWORK_FILE_TOO_LARGE"
    assert (await refusal(_put(rig, job, "card.json", b"x", app_id=TRASH + 1))).reason == "TOKEN_NOT_FOR_APP"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.jobs.PutNetworkFile(_headless(), metadata=rig.token("trainer", TRASH))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_fine_tuning_is_refused_when_there_are_too_few_pictures(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 6, "metal": 5})
    await rig.create("sorter")
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training={"mode": FINE_TUNE})
    refused = await refusal(rig.models.TrainModel(request, metadata=rig.key()))
    assert (refused.reason, refused.metadata["images"]) == ("TRAINING_TOO_FEW_IMAGES", "11")


async def _headless() -> AsyncIterator[job_pb.PutNetworkFileRequest]:
    yield job_pb.PutNetworkFileRequest(chunk=b"bytes of nobody")


async def test_trainer_given_up_for_dead_leaves_nothing_of_its_network(make_rig, s3):
    async with make_rig(lease_seconds=0.5) as rig:
        version = await _queued(rig)
        dead = await rig.claim(version)
        await _put(rig, dead, "model.onnx", MODEL)
        await until(lambda: _lease_over(rig))
        job = await rig.claim(version)
        assert (await refusal(_put(rig, dead, "card.json", b"late"))).reason == "LEASE_LOST"
        for name, content in _files(version).items():
            await _put(rig, job, name, content)
        await _complete(rig, job, _space(version))
        assert _stored(s3) == {f"networks/{TRASH}/{version.uid}/2/{name}" for name in _files(version)}


async def _lease_over(rig: Rig) -> bool:
    rows = await rig.sql("SELECT lease_expires_at < now() AS over FROM registry.model_versions")
    return bool(rows[0]["over"])


async def test_network_goes_when_its_version_is_cancelled_or_keeps_its_head(make_rig, s3):
    async with make_rig(purge_seconds=0.1) as rig:
        version = await _queued(rig)
        job = await rig.claim(version)
        await _put(rig, job, "model.onnx", MODEL)
        assert _stored(s3)
        cancel = pb.CancelModelVersionRequest(name=version.name)
        await rig.models.CancelModelVersion(cancel, metadata=rig.key())
        await until(lambda: _nothing_stored(s3))
        # A file that was on its way, and whoever put it died before it could take it away again.
        late = f"networks/{TRASH}/{version.uid}/{job.lease}/model.onnx"
        s3.client.put_object(s3.name, late, io.BytesIO(MODEL), len(MODEL))
        await until(lambda: _nothing_stored(s3))
        second = await rig.models.TrainModel(
            pb.TrainModelRequest(name="apps/trash/models/sorter", training={"mode": FINE_TUNE}), metadata=rig.key()
        )
        job = await rig.claim(second)
        await _put(rig, job, "model.onnx", MODEL)
        await rig.complete(job)
        assert (await rig.until_state(second.name, "READY")).network_space == ""
        await until(lambda: _nothing_stored(s3))
