"""Evaluation on the user's own test set, and what more images would bring, through registry and trainer."""

from contextlib import suppress

import grpc
import numpy as np
import psutil
import pytest
from prometheus_client import CollectorRegistry

from lensmith_api.internal.v1.events_pb2 import Event, LearningCurveQueued
from lensmith_api.internal.v1.learning_curve_job_service_pb2 import PutLearningCurveRequest
from lensmith_api.internal.v1.learning_curve_job_service_pb2_grpc import LearningCurveJobServiceStub
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_api.v1 import evaluation_pb2 as evaluation_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod, TrainingSettings
from lensmith_platform.clients import ServiceClients
from lensmith_platform.service_auth import TokenSigner
from lensmith_trainer.learning_curves import LearningCurveJobs
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.replicas import Replicas
from lensmith_trainer.spare_process import SpareProcess, Task
from tests.lensmith_registry.rig import DIM, SCOPES, TRASH, refusal
from tests.lensmith_trainer.conftest import Farm
from tests.polling import until

MAY_SEE = "key-that-may-see-inputs"


async def _trained(farm: Farm, **settings: object) -> ModelVersion:
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training=TrainingSettings(**settings))
    version = await farm.rig.models.TrainModel(request, metadata=farm.rig.key())
    return await farm.rig.until_state(version.name, "READY")


async def test_version_is_judged_on_the_inputs_marked_as_test_when_asked(farm: Farm):
    data = farm.rig.dataset
    data.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    marked = []
    for number, (_, one) in enumerate(list(data.inputs[TRASH].values())):
        if number % 3 == 0:
            concept = one.labels[0].concept
            vector = np.frombuffer(one.vector, "<f2") + np.float16(0.5)
            data.add(TRASH, f"test-{number}", vector, {concept: True}, test=True)
            marked.append(f"test-{number}")
    farm.rig.auth.add_key(MAY_SEE, "trash", [*SCOPES, "Inputs:Get"])
    await farm.rig.create("sorter")
    async with farm.trainer():
        usual = await _trained(farm)
        tested = await _trained(farm, evaluation=EvaluationMethod.EVALUATION_METHOD_TEST_SET)
        split = await _trained(farm, evaluation=EvaluationMethod.EVALUATION_METHOD_SPLIT)
    figures = {}
    for version in (usual, tested, split):
        request = pb.GetEvaluationRequest(name=f"{version.name}/evaluation")
        figures[version.number] = await farm.rig.models.GetEvaluation(request, metadata=farm.rig.key())
    assert [figures[number].input_count for number in (1, 2)] == [60, len(marked)]
    assert 8 <= figures[3].input_count <= 16
    assert figures[2].evaluation_method == EvaluationMethod.EVALUATION_METHOD_TEST_SET
    # Copies of test inputs are not learnt; without a test set, inputs marked as test take no part at all.
    assert tested.input_count <= usual.input_count == split.input_count == 60
    request = pb.ListEvaluatedInputsRequest(parent=tested.name, page_size=100)
    listed = await farm.rig.models.ListEvaluatedInputs(request, metadata=farm.rig.key(MAY_SEE))
    assert {one.input.rpartition("/")[2] for one in listed.evaluated_inputs} == set(marked)
    refused = pb.CompareModelVersionsRequest(name=usual.name, other_version=tested.number)
    assert (await refusal(farm.rig.models.CompareModelVersions(refused, metadata=farm.rig.key()))).reason == (
        "NO_COMMON_INPUTS"
    )


async def test_learning_curve_is_computed_when_asked_for(farm: Farm):
    rig = farm.rig
    async with farm.trainer():
        version = await rig.queued(counts={"glass": 40, "metal": 40, "paper": 40})
        ready = await rig.until_state(version.name, "READY")
        name = f"{ready.name}/learningCurve"
        get = pb.GetLearningCurveRequest(name=name)
        unasked = await refusal(rig.models.GetLearningCurve(get, metadata=rig.key()))
        assert (unasked.reason, unasked.metadata["code"]) == ("LEARNING_CURVE_NOT_FOUND", "NOT_FOUND")
        compute = pb.ComputeLearningCurveRequest(name=ready.name)
        asked = await rig.models.ComputeLearningCurve(compute, metadata=rig.key())
        assert asked.state == evaluation_pb.LEARNING_CURVE_STATE_QUEUED

        async def done() -> evaluation_pb.LearningCurve | None:
            curve = await rig.models.GetLearningCurve(get, metadata=rig.key())
            return None if curve.state == evaluation_pb.LEARNING_CURVE_STATE_QUEUED else curve

        # The process that does it gives way to everybody else on the machine.
        curve = await until(done, seconds=120)
    assert curve.state == evaluation_pb.LEARNING_CURVE_STATE_READY, curve
    assert (curve.name, curve.figure) == (name, "accuracy")
    assert [point.images for point in curve.expected] == [240, 480]
    for point in (*curve.points, *curve.expected):
        assert 0 <= point.range.low <= point.value <= point.range.high <= 1
    assert {one.concept for one in curve.concepts} == {"glass", "metal", "paper"}


class _Empty(SpareProcess):
    """Computes curves that nobody can use."""

    async def run(self, task: Task, parts: list[bytes]) -> bytes:
        return PutLearningCurveRequest(
            learning_curve=evaluation_pb.LearningCurve(figure="accuracy")
        ).SerializeToString()


async def test_learning_curve_has_failed_when_it_is_refused(farm: Farm, caplog: pytest.LogCaptureFixture):
    rig = farm.rig
    ready = await rig.trained()
    await rig.models.ComputeLearningCurve(pb.ComputeLearningCurveRequest(name=ready.name), metadata=rig.key())
    event = Event(app_id=TRASH, learning_curve_queued=LearningCurveQueued(version_uid=ready.uid))
    addresses = {"registry": rig.service.target, "dataset": rig.dataset_peer.target}
    signer = TokenSigner("trainer", farm.directory / "private" / "trainer.pem")
    clients = ServiceClients(addresses, signer, max_message_bytes=1 << 26)
    training_data = TrainingDataServiceStub(clients.channel("dataset"))
    replicas = Replicas(farm.directory / "cache", 1 << 30, 1 << 30, training_data, 60.0, Metrics(CollectorRegistry()))
    await replicas.prepare()
    try:
        registry = LearningCurveJobServiceStub(clients.channel("registry"))
        await LearningCurveJobs(registry, replicas, _Empty(1)).start(event)
    finally:
        await clients.close()

    get = pb.GetLearningCurveRequest(name=f"{ready.name}/learningCurve")
    curve = await rig.models.GetLearningCurve(get, metadata=rig.key())
    assert (curve.state, curve.error.code) == (
        evaluation_pb.LEARNING_CURVE_STATE_FAILED,
        grpc.StatusCode.INTERNAL.value[0],
    )
    assert "needs points" in caplog.text


async def test_learning_curve_has_failed_when_its_process_dies_again_and_again(farm: Farm):
    rig = farm.rig
    ready = await rig.trained()
    get = pb.GetLearningCurveRequest(name=f"{ready.name}/learningCurve")
    async with farm.trainer():
        await rig.models.ComputeLearningCurve(pb.ComputeLearningCurveRequest(name=ready.name), metadata=rig.key())

        async def ended() -> evaluation_pb.LearningCurve | None:
            for process in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    if "lensmith_trainer.spare_work" in process.cmdline():
                        process.kill()
            curve = await rig.models.GetLearningCurve(get, metadata=rig.key())
            return None if curve.state == evaluation_pb.LEARNING_CURVE_STATE_QUEUED else curve

        curve = await until(ended, seconds=40)
    assert curve.state == evaluation_pb.LEARNING_CURVE_STATE_FAILED
    assert "memory" in curve.error.message
