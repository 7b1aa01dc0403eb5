"""Training pictures that are like a given one: found exactly, and only where they may be."""

import grpc
import numpy as np
import pytest

from lensmith_api.internal.v1.training_data_service_pb2 import (
    FindNearestTrainingInputsRequest,
    NearestTrainingInputs,
)
from lensmith_api.v1.annotation_pb2 import Annotation
from tests.lensmith_dataset.conftest import APP_IDS, Rig, new_input
from tests.pictures import picture
from tests.rpc_errors import failing


async def find(
    rig: Rig, *vectors: bytes, app: str = "a", count: int = 3, **fields: object
) -> list[NearestTrainingInputs]:
    request = FindNearestTrainingInputsRequest(
        app_id=APP_IDS[app],
        vectors=vectors,
        count=count,
        **{"space": rig.registry.base_model.space, "concepts": ["glass", "size"], **fields},
    )
    answer = await rig.training.FindNearestTrainingInputs(request, metadata=rig.token("inference", APP_IDS[app]))
    return list(answer.nearest)


def halves(rig: Rig, seed: int) -> bytes:
    return np.asarray(rig.inference.vector(picture(seed)), "<f2").tobytes()


async def test_pictures_like_the_asked_one_are_named_when_they_may_be_trained_on(rig: Rig) -> None:
    await rig.create_concepts("glass", "size", "other")
    glass = [Annotation(concept="glass"), Annotation(concept="size", number=2.5), Annotation(concept="other")]
    await rig.create(
        *(new_input(picture(seed), f"one-{seed}", annotations=glass) for seed in range(1, 6)),
        new_input(picture(6), "kept-for-testing", annotations=glass, test=True),
        new_input(picture(7), "of-another-concept", annotations=[Annotation(concept="other")]),
        new_input(picture(8), "without-annotation"),
    )
    await rig.indexed()

    first, second = await find(rig, halves(rig, 3), halves(rig, 8), count=4)

    assert [len(first.inputs), len(second.inputs)] == [4, 4]
    best = first.inputs[0]
    assert best.input == "apps/a/inputs/one-3"
    assert best.similarity == pytest.approx(1, abs=1e-3)
    assert [(label.concept, label.WhichOneof("value")) for label in best.labels] == [
        ("glass", "positive"),
        ("size", "number"),
    ]
    asked = np.frombuffer(halves(rig, 3), "<f2").astype(float)
    cosines = {}
    for seed in range(1, 6):
        other = np.frombuffer(halves(rig, seed), "<f2").astype(float)
        cosines[f"apps/a/inputs/one-{seed}"] = asked @ other / np.linalg.norm(asked) / np.linalg.norm(other)
    found = {one.input: one.similarity for one in first.inputs}
    assert list(found) == sorted(cosines, key=lambda name: -cosines[name])[:4]
    assert found == pytest.approx({name: cosines[name] for name in found}, abs=2e-3)
    assert all(one.input.startswith("apps/a/inputs/one-") for one in second.inputs)


async def test_nothing_of_another_app_or_space_is_found_when_it_has_the_same_picture(rig: Rig) -> None:
    await rig.create_concepts("glass", "size")
    await rig.create(new_input(picture(1), annotations=[Annotation(concept="glass")]))
    await rig.indexed()
    assert not (await find(rig, halves(rig, 1), app="b"))[0].inputs
    assert not (await find(rig, halves(rig, 1), space="another"))[0].inputs
    assert not (await find(rig, halves(rig, 1), concepts=["unknown"]))[0].inputs


async def test_questions_are_refused_when_they_are_none(rig: Rig) -> None:
    for vector in (b"", b"\0", b"\x00\x7c" * 8):
        with failing(grpc.StatusCode.INVALID_ARGUMENT, "VECTOR_INVALID"):
            await find(rig, vector)
    request = FindNearestTrainingInputsRequest(app_id=7, count=1)
    with failing(grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED"):
        await rig.training.FindNearestTrainingInputs(request, metadata=rig.token("trainer", 7))
