"""Training, from the queue to READY, and everything that can come in between."""

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_status import rpc_status

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.internal.v1.training_job_service_pb2_grpc import (
    TrainingJobServiceServicer,
    add_TrainingJobServiceServicer_to_server,
)
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_platform.bus import WorkConsumer, connect
from lensmith_trainer.unbroken import run_to_end
from lensmith_vision import heads
from tests.lensmith_registry.rig import DIM, MULTI_LABEL, REGRESSION, TRASH, Rig, refusal, rig_of
from tests.lensmith_trainer.conftest import Farm
from tests.polling import until

TRAINING, READY, FAILED, CANCELLED = 2, 3, 4, 5


async def _head(rig: Rig, model: str) -> heads.Head:
    request = serving_pb.ResolveModelRequest(app_id=TRASH, model=model)
    served = await rig.serving.ResolveModel(request, metadata=rig.token("inference", TRASH))
    stream = rig.serving.FetchArtefact(
        serving_pb.FetchArtefactRequest(head=served.head_artefact), metadata=rig.token("inference")
    )
    return heads.load(b"".join([part.chunk async for part in stream]))


async def test_multi_class_model_is_trained(farm: Farm):
    async with farm.trainer():
        version = await farm.rig.queued(counts={"glass": 30, "metal": 30, "paper": 30})
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.summary.accuracy > 0.95
    assert (ready.input_count, len(ready.dataset_sha256)) == (90, 64)
    assert list(ready.concepts) == ["glass", "metal", "paper"]
    request = pb.GetEvaluationRequest(name=f"{ready.name}/evaluation")
    evaluation = await farm.rig.models.GetEvaluation(request, metadata=farm.rig.key())
    assert evaluation.input_count == 90
    assert sum(cell.count for cell in evaluation.confusion) == 90
    head = await _head(farm.rig, "sorter")
    glass = next(item for _, item in farm.rig.dataset.inputs[TRASH].values() if item.input_uid.startswith("glass"))
    scores = head.scores(np.frombuffer(glass.vector, "<f2").astype(np.float32)[None])
    assert scores[0].argmax() == 0


async def test_inputs_that_cannot_take_part_are_left_out_and_reported(farm: Farm):
    data = farm.rig.dataset
    data.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    vector = np.ones(DIM, np.float16)
    data.add(TRASH, "both", vector, {"glass": True, "metal": True})
    data.add(TRASH, "kept-out", vector, {"glass": True}, test=True)
    data.add(TRASH, "no-vector", None, {"glass": True})
    data.add(TRASH, "unlabelled", vector, {})
    await farm.rig.create("sorter")
    async with farm.trainer():
        version = await farm.rig.train("sorter")
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.input_count == 60
    assert "LEFT_OUT_SEVERAL_CONCEPTS" in {finding.reason for finding in ready.findings}


async def test_multi_label_model_learns_from_negative_concept_and_closed_environment(farm: Farm):
    data, random = farm.rig.dataset, np.random.RandomState(1)
    red, round_ = random.randn(2, DIM)
    for index in range(120):
        shown = {"red": bool(index & 1), "round": bool(index & 2)}
        vector = (shown["red"] * red + shown["round"] * round_ + 0.2 * random.randn(DIM)).astype(np.float16)
        labels = {name: True for name, value in shown.items() if value} or {"not-tagger": True}
        data.add(TRASH, f"input-{index:03d}", vector, labels)
    await farm.rig.create("tagger", Model(type=MULTI_LABEL, closed_environment=True, concepts=["red", "round"]))
    async with farm.trainer():
        version = await farm.rig.train("tagger")
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.input_count == 120
    assert ready.summary.macro_f1 > 0.9
    head = await _head(farm.rig, "tagger")
    assert head.concepts == ("red", "round")


async def test_regression_stays_within_its_range(farm: Farm):
    data, random = farm.rig.dataset, np.random.RandomState(2)
    direction = random.randn(DIM) / np.sqrt(DIM)
    for index in range(80):
        vector = random.randn(DIM)
        data.add(TRASH, f"input-{index:03d}", vector.astype(np.float16), {"weight": float(5 + vector @ direction)})
    model = Model(type=REGRESSION, concepts=["weight"], min_value=0, max_value=10)
    await farm.rig.create("scale", model)
    async with farm.trainer():
        version = await farm.rig.train("scale")
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.summary.HasField("r2")
    assert ready.summary.HasField("mean_absolute_error")
    head = await _head(farm.rig, "scale")
    assert head.value_range == (0.0, 10.0)


async def test_same_data_gives_the_same_head_when_trained_again(farm: Farm):
    async with farm.trainer():
        first = await farm.rig.queued()
        first = await farm.rig.until_state(first.name, "READY")
        head = heads.save(await _head(farm.rig, "sorter"))
        second = await farm.rig.train("sorter")
        second = await farm.rig.until_state(second.name, "READY")
    assert second.dataset_sha256 == first.dataset_sha256
    assert heads.save(await _head(farm.rig, "sorter")) == head


async def test_retrain_fetches_only_what_changed(farm: Farm):
    async with farm.trainer():
        first = await farm.rig.queued()
        first = await farm.rig.until_state(first.name, "READY")
    farm.rig.dataset.calls["inputs"] = 0
    farm.rig.dataset.add(TRASH, "glass-0-0000", None, {}, deleted=True)
    farm.rig.dataset.add_classes(TRASH, DIM, {"glass": 3}, seed=5)
    # Another process: the replica on disk is what is left.
    async with farm.trainer():
        second = await farm.rig.train("sorter")
        second = await farm.rig.until_state(second.name, "READY")
    assert farm.rig.dataset.calls["inputs"] == 4
    assert second.input_count == 62
    assert second.dataset_sha256 != first.dataset_sha256


async def test_version_fails_with_the_reason_when_the_data_changed_since_it_was_queued(farm: Farm):
    version = await farm.rig.queued()
    for uid in [uid for uid in farm.rig.dataset.inputs[TRASH] if uid.startswith("glass")]:
        farm.rig.dataset.add(TRASH, uid, None, {}, deleted=True)
    async with farm.trainer():
        failed = await farm.rig.until_state(version.name, "FAILED")
    assert failed.error.code == 9
    assert "glass" in failed.error.message


async def test_training_stops_when_it_is_cancelled(farm: Farm):
    farm.rig.dataset.open.clear()
    async with farm.trainer():
        version = await farm.rig.queued()
        await asyncio.wait_for(farm.rig.dataset.streaming.wait(), 30)
        await farm.rig.models.CancelModelVersion(
            pb.CancelModelVersionRequest(name=version.name), metadata=farm.rig.key()
        )
        # The trainer is free again though the stream never ended.
        farm.rig.dataset.streaming.clear()
        second = await farm.rig.train("sorter")
        await asyncio.wait_for(farm.rig.dataset.streaming.wait(), 30)
        farm.rig.dataset.open.set()
        await farm.rig.until_state(second.name, "READY")
    assert (await farm.rig.version(version.name)).state == CANCELLED
    assert (await farm.rig.model("sorter")).production_version == 2


async def test_one_version_is_ready_when_a_trainer_is_killed_in_the_middle(farm: Farm):
    farm.rig.dataset.open.clear()
    first = farm.spawn()
    version = await farm.rig.queued()
    await asyncio.wait_for(farm.rig.dataset.streaming.wait(), 60)
    first.send_signal(signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    farm.rig.dataset.open.set()
    async with farm.trainer():
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.production
    rows = await farm.rig.sql("SELECT number, state, lease FROM registry.model_versions")
    assert [(row["number"], row["state"]) for row in rows] == [(1, "READY")]
    assert rows[0]["lease"] >= 2


async def test_one_version_is_ready_when_a_trainer_is_killed_while_it_fits(farm: Farm):
    first = farm.spawn()
    counts = {f"class-{index:02d}": 60 for index in range(8)}
    version = await farm.rig.queued(counts=counts)

    async def fitting() -> bool:
        now = await farm.rig.version(version.name)
        return now.progress.stage in ("evaluating", "fitting", "storing") or now.state == READY

    await until(fitting, seconds=60)
    first.send_signal(signal.SIGKILL)
    await asyncio.to_thread(first.wait)
    async with farm.trainer():
        await farm.rig.until_state(version.name, "READY")
    rows = await farm.rig.sql("SELECT number, state FROM registry.model_versions")
    assert [(row["number"], row["state"]) for row in rows] == [(1, "READY")]


async def test_trainer_stops_at_once_and_gives_its_version_back_when_told_to(farm: Farm):
    farm.rig.dataset.open.clear()
    first = farm.spawn()
    version = await farm.rig.queued()
    await asyncio.wait_for(farm.rig.dataset.streaming.wait(), 60)
    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(asyncio.to_thread(first.wait), 60) == 0
    farm.rig.dataset.open.set()
    async with farm.trainer():
        await farm.rig.until_state(version.name, "READY")


async def test_every_version_is_ready_once_when_two_trainers_work(farm: Farm):
    rig = farm.rig
    async with farm.trainer(), farm.trainer():
        first = await rig.queued()
        versions = [first, *[await rig.train("sorter") for _ in range(3)]]
        for version in versions:
            await rig.until_state(version.name, "READY")
    rows = await rig.sql("SELECT state FROM registry.model_versions")
    assert [row["state"] for row in rows] == ["READY"] * 4
    assert (await rig.model("sorter")).production_version == 4


class _Forgetful(TrainingJobServiceServicer):
    """Asks registry what it is asked, and loses the first answer."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._lost = False

    async def ClaimModelVersion(
        self, request: job_pb.ClaimModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> job_pb.TrainingJob:
        job = await self._forward("ClaimModelVersion", request, context)
        if not self._lost:
            self._lost = True
            await context.abort(grpc.StatusCode.UNAVAILABLE, "registry was killed")
        return job

    async def ReportProgress(
        self, request: job_pb.ReportProgressRequest, context: grpc.aio.ServicerContext
    ) -> job_pb.ReportProgressResponse:
        return await self._forward("ReportProgress", request, context)

    async def CompleteModelVersion(
        self, request: job_pb.CompleteModelVersionRequest, context: grpc.aio.ServicerContext
    ) -> ModelVersion:
        return await self._forward("CompleteModelVersion", request, context)

    async def _forward(self, method: str, request: Message, context: grpc.aio.ServicerContext) -> Message:
        try:
            return await getattr(self._rig.jobs, method)(request, metadata=self._rig.token("trainer", TRASH))
        except grpc.aio.AioRpcError as error:
            await context.abort_with_status(rpc_status.to_status(rpc_status.from_call(error)))


async def test_version_is_trained_when_the_answer_to_its_claim_is_lost(
    tmp_path: Path, database, nats_url: str, s3
) -> None:
    urls = (database.url("registry"), database.url("registry", worker=True), database.admin_url)
    # Nobody announces it again in the time of this test.
    async with rig_of(tmp_path, urls, nats_url, s3.url, lease_seconds=4.0, silent_seconds=3600) as rig:
        server = grpc.aio.server()
        add_TrainingJobServiceServicer_to_server(_Forgetful(rig), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        farm = Farm(rig, nats_url, tmp_path)
        addresses = {**farm.settings()["addresses"], "registry": f"127.0.0.1:{port}"}
        try:
            async with farm.trainer(addresses=addresses):
                version = await rig.queued()
                await rig.until_state(version.name, "READY")
        finally:
            await server.stop(0)
        assert (await rig.sql("SELECT lease FROM registry.model_versions"))[0]["lease"] == 2


async def test_version_waits_for_its_data_when_dataset_is_away(farm: Farm):
    version = await farm.rig.queued()
    await farm.rig.dataset_peer.stop()
    async with farm.trainer():

        async def waiting() -> bool:
            now = await farm.rig.version(version.name)
            return now.state == TRAINING and "waiting" in now.progress.message

        await until(waiting)
        await farm.rig.dataset_peer.start()
        await farm.rig.until_state(version.name, "READY")
    # One lease held all the time.
    assert (await farm.rig.sql("SELECT lease FROM registry.model_versions"))[0]["lease"] == 1


async def test_training_is_metered(farm: Farm):
    heard: list[tuple[int, str, str, int]] = []

    async def hear(event: Event) -> None:
        heard.extend(
            (entry.app_id, entry.operation, entry.model, entry.count) for entry in event.usage_recorded.entries
        )

    async with farm.trainer():
        version = await farm.rig.queued()
        await farm.rig.until_state(version.name, "READY")
    async with await connect(farm.nats_url, wait_seconds=10) as bus:
        consumer = asyncio.create_task(WorkConsumer(bus, "test--hear", "usage.recorded", hear).run())
        await until(lambda: _any(heard))
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    assert heard == [(TRASH, "train", version.name.partition("/versions/")[0], 1)]


async def _any(heard: list[object]) -> bool:
    return bool(heard)


@pytest.mark.skipif(
    find_spec("torch") is not None, reason="PyTorch is installed: `make test` shows the refusal without"
)
async def test_fine_tuning_is_refused_and_says_what_to_install_when_no_trainer_has_pytorch(farm: Farm):
    farm.rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await farm.rig.create("sorter")
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training={"mode": "TRAINING_MODE_FINE_TUNE"})
    async with farm.trainer():
        refused = await refusal(farm.rig.models.TrainModel(request, metadata=farm.rig.key()))
    assert refused.reason == "FINE_TUNING_NOT_AVAILABLE"
    assert refused.metadata["extra"] == "finetune"
    assert 'pip install "lensmith[finetune]"' in refused.metadata["text"]
    assert not (await farm.rig.sql("SELECT 1 FROM registry.model_versions"))


async def test_work_in_a_thread_is_waited_for_when_whoever_asked_is_cancelled():
    begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()

    with ThreadPoolExecutor(1) as threads:
        asked = asyncio.create_task(run_to_end(threads, work))
        behind = asyncio.create_task(run_to_end(threads, begun.clear))
        await asyncio.to_thread(begun.wait)
        asked.cancel()
        behind.cancel()
        await asyncio.wait({behind})
        waited = not asked.done()
        may_end.set()
        await asyncio.wait({asked})
    assert waited, "it may look at what was let go"
    assert asked.cancelled()
    assert begun.is_set(), "what has not begun need not"
