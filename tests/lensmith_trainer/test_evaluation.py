"""Evaluation on the user's own test set, and what more images would bring, through registry and trainer."""

import numpy as np

from lensmith_api.v1 import evaluation_pb2 as evaluation_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod, TrainingSettings
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
