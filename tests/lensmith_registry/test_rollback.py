"""Going back to a version that was in production before, and the card of a version."""

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from tests.lensmith_registry.rig import DIM, READ_KEY, TRASH, Rig, refusal

NAME = "apps/trash/models/sorter"


async def roll_back(rig: Rig, version: int = 0, request_id: str = "") -> Model:
    request = pb.RollbackModelRequest(name=NAME, version=version, request_id=request_id)
    return await rig.models.RollbackModel(request, metadata=rig.key())


async def another(rig: Rig) -> int:
    version = await rig.train("sorter")
    await rig.complete(await rig.claim(version))
    return (await rig.until_state(version.name, "READY")).number


async def test_rollback_goes_to_what_was_in_production_before_and_keeps_it(rig: Rig):
    await rig.trained()
    assert (await refusal(roll_back(rig))).reason == "NO_VERSION_BEFORE"
    await another(rig)
    await another(rig)
    model = await roll_back(rig, request_id="once")
    assert (model.production_version, model.pinned) == (2, True)
    assert (await roll_back(rig, request_id="once")).production_version == 2
    assert await another(rig) == 4
    assert (await rig.model("sorter")).production_version == 2, "newer ones do not take its place"
    assert (await roll_back(rig)).production_version == 3
    assert (await roll_back(rig, version=1)).production_version == 1
    await rig.models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=f"{NAME}/versions/3"), metadata=rig.key())
    assert (await roll_back(rig)).production_version == 2, "what is deleted is passed over"
    assert (await refusal(roll_back(rig, version=9))).reason == "VERSION_NOT_FOUND"
    queued = await rig.train("sorter")
    assert (await refusal(roll_back(rig, version=queued.number))).reason == "VERSION_NOT_READY"


async def test_rollback_is_not_taken_for_done_when_it_was_of_a_deleted_model_of_the_same_name(rig: Rig):
    await rig.trained()
    await another(rig)
    assert (await roll_back(rig, request_id="once")).production_version == 1
    await rig.models.DeleteModel(pb.DeleteModelRequest(name=NAME), metadata=rig.key())
    await rig.trained()
    await another(rig)
    assert (await refusal(roll_back(rig, request_id="once"))).reason == "REQUEST_ID_REUSED"


async def test_rollback_finds_the_version_before_when_it_was_never_noted(rig: Rig):
    await rig.trained()
    await another(rig)
    await rig.sql("UPDATE registry.models SET production_history = '{}'")
    assert (await roll_back(rig)).production_version == 1


async def test_card_tells_how_a_version_came_about(rig: Rig):
    ready = await rig.trained()
    rig.dataset.add_classes(TRASH, DIM, {"paper": 30}, seed=1)
    request = pb.GetModelCardRequest(name=f"{ready.name}/card")
    card = await rig.models.GetModelCard(request, metadata=rig.key())
    assert card.model_version == await rig.version(ready.name)
    assert (list(card.model.concepts), list(card.display_names)) == (["glass", "metal"], ["Glass", "Metal"])
    assert (card.base_model.name, card.evaluation.input_count) == ("baseModels/plain", 60)
    assert any("60 pictures only" in caution for caution in card.cautions)
    assert (await refusal(rig.models.GetModelCard(request, metadata=rig.key(READ_KEY)))).reason == "SCOPE_MISSING"
