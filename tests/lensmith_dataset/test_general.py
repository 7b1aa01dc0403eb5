"""What General saw in inputs: kept with the vector, shown where it is asked for, gone with the input."""

import hashlib

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_api.v1.input_pb2 import Input
from lensmith_api.v1.input_service_pb2 import DeleteInputsRequest, ListInputsRequest, UpdateInputRequest
from lensmith_platform.errors import InvalidInputError, to_status
from tests.lensmith_dataset.conftest import FAILED, READY, Rig, Start, new_input
from tests.lensmith_dataset.test_spaces import QUICK, Move
from tests.pictures import picture

DOG = [
    ConceptScore(concept="dog", display_name="dog", value=0.75, predicted=True),
    ConceptScore(concept="crane-wading-bird", display_name="crane", value=0.25),
]


def _sees(rig: Rig, data: bytes, scores: list[ConceptScore]) -> bytes:
    rig.inference.general[hashlib.sha256(data).digest()] = scores
    return data


async def test_input_shows_what_general_saw_when_it_is_ready(rig: Rig) -> None:
    rig.inference.general_version = 3
    unknown = ConceptScore(concept="from-a-newer-release", value=0.9)
    data = _sees(rig, picture(1), [unknown, *DOG])
    await rig.create(new_input(data, "dog"), new_input(picture(2), "nothing"))
    await rig.indexed()

    found = await rig.get("apps/a/inputs/dog")
    assert found.status == READY
    assert list(found.general_concepts) == DOG
    assert found.general_version == "apps/main/models/general/versions/3"
    nothing = await rig.get("apps/a/inputs/nothing")
    assert (nothing.status, list(nothing.general_concepts), nothing.general_version) == (READY, [], "")
    mask = FieldMask(paths=["test"])
    update = UpdateInputRequest(input=Input(name="apps/a/inputs/dog", test=True), update_mask=mask)
    assert list((await rig.inputs.UpdateInput(update, metadata=rig.key())).general_concepts) == DOG


async def test_lists_show_it_only_when_they_are_asked_to(rig: Rig) -> None:
    await rig.create(new_input(_sees(rig, picture(1), DOG)), new_input(picture(2)))
    await rig.indexed()

    short = await rig.inputs.ListInputs(ListInputsRequest(parent="apps/a"), metadata=rig.key())
    assert [list(one.general_concepts) for one in short.inputs] == [[], []]
    request = ListInputsRequest(parent="apps/a", with_general_concepts=True)
    long = await rig.inputs.ListInputs(request, metadata=rig.key())
    assert sorted(len(one.general_concepts) for one in long.inputs) == [0, 2]
    [shown] = [one for one in long.inputs if one.general_concepts]
    assert list(shown.general_concepts) == DOG
    assert shown.general_version == "apps/main/models/general/versions/1"


async def test_failed_input_shows_nothing(rig: Rig) -> None:
    data = _sees(rig, picture(1), DOG)
    rig.inference.refused[hashlib.sha256(data).digest()] = to_status(InvalidInputError("IMAGE_ODD", "odd"))
    await rig.create(new_input(data, "bad"))
    await rig.indexed()

    found = await rig.get("apps/a/inputs/bad")
    assert (found.status, list(found.general_concepts)) == (FAILED, [])


async def test_nothing_is_kept_when_the_input_is_deleted(rig: Rig) -> None:
    await rig.create(new_input(_sees(rig, picture(1), DOG), "dog"))
    await rig.indexed()
    assert len(await rig.sql("SELECT FROM general_concepts")) == 1

    request = DeleteInputsRequest(parent="apps/a", input_ids=["dog"])
    await rig.inputs.DeleteInputs(request, metadata=rig.key())
    assert await rig.sql("SELECT FROM general_concepts") == []


@pytest.mark.parametrize("wanted", [True, False])
async def test_general_looks_only_where_it_shall(start: Start, wanted: bool) -> None:
    rig = await start(general_concepts=wanted)
    await rig.create(new_input(_sees(rig, picture(1), DOG), "dog"))
    await rig.indexed()

    assert rig.inference.general_asked == int(wanted)
    assert len((await rig.get("apps/a/inputs/dog")).general_concepts) == (2 if wanted else 0)


async def test_newer_version_of_general_is_kept_when_the_app_moves_to_another_base_model(start: Start) -> None:
    move = Move(await start(**QUICK))
    rig = move.rig
    data = _sees(rig, picture(1), DOG)
    await rig.create(new_input(data, "dog"))
    await rig.indexed()
    rig.inference.general_version = 2
    _sees(rig, data, DOG[:1])
    await move.arrived()

    found = await rig.get("apps/a/inputs/dog")
    assert list(found.general_concepts) == DOG[:1]
    assert found.general_version == "apps/main/models/general/versions/2"
