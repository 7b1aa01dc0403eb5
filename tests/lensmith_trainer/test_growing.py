"""Retrains after a few pictures of very many, which do nothing that takes as long as there are pictures."""

import hashlib

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import HeadTier, TrainingSettings
from tests.lensmith_registry.rig import DIM, MULTI_CLASS, SCOPES, TRASH
from tests.lensmith_trainer.conftest import Farm
from tests.lensmith_trainer.test_version_inputs import line
from tests.polling import until

CURATOR = "key-that-sees-pictures"
# The least at which an evaluation stands for pictures that come.
MANY = {f"concept-{number:03d}": 10 for number in range(640)}
COUNT = 6400


async def _names(farm: Farm, version: str) -> list[str]:
    """Keys of the scores among the blobs, that the version names."""
    rows = await farm.rig.sql("SELECT out_of_fold FROM registry.model_versions WHERE number = $1", int(version))
    return [row["out_of_fold"] for row in rows]


def _standing(version: ModelVersion) -> str:
    """What the version says about figures that are not quite its own."""
    return " ".join(one.message for one in version.findings if one.reason == "EVALUATION_STANDS")


async def test_evaluation_stands_for_later_versions_until_the_last_of_them_is_deleted(farm: Farm):
    rig = farm.rig
    rig.auth.add_key(CURATOR, "trash", [*SCOPES, "Inputs:Get"])
    rig.dataset.add_classes(TRASH, DIM, MANY)
    linear = TrainingSettings(tier=HeadTier.HEAD_TIER_LINEAR)
    await rig.create("sorter", Model(type=MULTI_CLASS, training=linear))
    async with farm.trainer():
        first = await rig.until_state((await rig.train("sorter")).name, "READY")
        rig.dataset.add_classes(TRASH, DIM, {"concept-000": 2, "concept-001": 1}, seed=1)
        second = await rig.until_state((await rig.train("sorter")).name, "READY")
        assert (first.input_count, second.input_count) == (COUNT, COUNT + 3)
        assert second.summary == first.summary
        assert not _standing(first)
        assert "before the last 3 images came: 3 of 6,403 " in _standing(second)
        assert second.dataset_sha256 != first.dataset_sha256
        assert await _names(farm, "2") == await _names(farm, "1")
        await _listing_is_that_of(farm, second.name, second.dataset_sha256)

        await rig.models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=first.name), metadata=rig.key())
        rig.dataset.add_classes(TRASH, DIM, {"concept-002": 1}, seed=2)
        third = await rig.until_state((await rig.train("sorter")).name, "READY")
        assert third.input_count == COUNT + 4
        assert not _standing(third), "it was measured anew"
        assert await _names(farm, "3") != await _names(farm, "2"), "what is deleted stands for nothing"

    # The days for which what is deleted keeps its bytes.
    await rig.sql("UPDATE registry.model_versions SET deleted_at = deleted_at - interval '9 days' WHERE number = 1")

    async def purged() -> bool:
        return not await _names(farm, "1")

    await until(purged)
    asked = pb.ListEvaluatedInputsRequest(parent=second.name, page_size=5)
    answer = await rig.models.ListEvaluatedInputs(asked, metadata=rig.key(CURATOR))
    assert answer.total_size == COUNT


async def _listing_is_that_of(farm: Farm, version: str, sha256: str) -> None:
    request, digest = pb.ListModelVersionInputsRequest(parent=version, page_size=1000), hashlib.sha256()
    while True:
        page = await farm.rig.models.ListModelVersionInputs(request, metadata=farm.rig.key(CURATOR))
        digest.update("".join(map(line, page.inputs)).encode())
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert digest.hexdigest() == sha256
