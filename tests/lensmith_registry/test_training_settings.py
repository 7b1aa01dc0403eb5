"""Training settings: who says what, what is refused, and that a version keeps what it was trained with."""

import numpy as np
import pytest

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.training_settings_pb2 import (
    EvaluationMethod,
    HeadTier,
    ThresholdAim,
    TrainingMode,
    TrainingSettings,
)
from tests.lensmith_registry.rig import DIM, MULTI_CLASS, MULTI_LABEL, REGRESSION, TRASH, Rig, refusal

AUTO, LINEAR, KERNEL = HeadTier.HEAD_TIER_AUTO, HeadTier.HEAD_TIER_LINEAR, HeadTier.HEAD_TIER_KERNEL
FINE_TUNE = TrainingMode.TRAINING_MODE_FINE_TUNE
PRECISE = ThresholdAim(min_precision=0.95)


async def test_version_keeps_the_settings_of_call_model_and_platform_when_the_model_changes(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    plain = await rig.train("sorter")
    assert (plain.training.tier, plain.training.thresholds) == (AUTO, ThresholdAim(best_f1=True))
    assert plain.tier == HeadTier.HEAD_TIER_UNSPECIFIED
    update = pb.UpdateModelRequest(model=Model(name="apps/trash/models/sorter", training={"thresholds": PRECISE}))
    update.update_mask.paths.append("training")
    changed = await rig.models.UpdateModel(update, metadata=rig.key())
    assert changed.training == TrainingSettings(thresholds=PRECISE)
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training={"tier": LINEAR}, request_id="once")
    told = await rig.models.TrainModel(request, metadata=rig.key())
    assert (told.training.tier, told.training.thresholds) == (LINEAR, PRECISE)
    assert told.training.evaluation == plain.training.evaluation
    assert (await rig.version(plain.name)).training == plain.training
    job = await rig.claim(told)
    assert job.training == told.training
    await rig.complete(job)
    assert (await rig.until_state(told.name, "READY")).tier == LINEAR
    request.training.tier = KERNEL
    assert (await refusal(rig.models.TrainModel(request, metadata=rig.key()))).reason == "REQUEST_ID_REUSED"


REFUSED = [
    (MULTI_CLASS, {"tier": 9}, "tier"),
    (MULTI_LABEL, {"tier": KERNEL}, "tier"),
    (REGRESSION, {"thresholds": PRECISE}, "thresholds"),
    (MULTI_CLASS, {"thresholds": {"min_recall": 0.0}}, "thresholds.min_recall"),
    (MULTI_CLASS, {"thresholds": {"best_f1": False}}, "thresholds.best_f1"),
    (MULTI_CLASS, {"mode": 9}, "mode"),
    (MULTI_CLASS, {"max_epochs": 3}, "max_epochs"),
    (REGRESSION, {"mode": FINE_TUNE, "evaluation": 9}, "evaluation"),
]


@pytest.mark.parametrize(("kind", "settings", "field"), REFUSED)
async def test_settings_are_refused_when_they_do_not_fit_the_model(rig: Rig, kind: int, settings: dict, field: str):
    model = Model(type=kind, concepts=["glass"], training=settings)
    refused = await refusal(rig.create("sorter", model))
    assert (refused.reason, refused.metadata["field"]) == ("TRAINING_SETTINGS_INVALID", f"model.training.{field}")
    await rig.create("sorter", Model(type=kind, concepts=["glass"]))
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training=settings)
    refused = await refusal(rig.models.TrainModel(request, metadata=rig.key()))
    assert (refused.reason, refused.metadata["field"]) == ("TRAINING_SETTINGS_INVALID", f"training.{field}")


async def test_training_is_refused_when_there_is_nothing_to_test_on(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    on_tests = TrainingSettings(evaluation=EvaluationMethod.EVALUATION_METHOD_TEST_SET)
    request = pb.TrainModelRequest(name="apps/trash/models/sorter", training=on_tests)
    vector = np.zeros(DIM, np.float16)
    for uid, labels, said in (
        ("", {}, "no image is marked as test:"),
        ("tested-0", {}, "1 image is marked as test, none of which"),
        # What is no sign of any of the concepts tells nothing of how well they are told apart.
        ("tested-1", {"glass": False}, "2 images are marked as test, none of which"),
    ):
        if uid:
            rig.dataset.add(TRASH, uid, vector, labels, test=True)
        refused = await refusal(rig.models.TrainModel(request, metadata=rig.key()))
        assert refused.reason == "TRAINING_NO_TEST_IMAGES"
        assert said in refused.metadata["text"], refused.metadata["text"]
    assert (await rig.train("sorter")).number == 1
    rig.dataset.add(TRASH, "tested-2", vector, {"glass": True}, test=True)
    assert (await rig.models.TrainModel(request, metadata=rig.key())).number == 2
