"""What a version was trained on: listed page by page, and bound to the version by its hash."""

import hashlib
import json

import numpy as np

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_input_pb2 import ModelVersionInput
from tests.lensmith_registry.rig import DIM, KEY, READ_KEY, SCOPES, TRASH, refusal
from tests.lensmith_trainer.conftest import Farm

CURATOR = "key-that-sees-pictures"


def line(item: ModelVersionInput) -> str:
    """What anybody can write from the listing, as the documentation says."""
    labels = {one.concept: getattr(one, one.WhichOneof("value")) for one in item.annotations}
    return json.dumps([item.uid, item.sha256, labels], sort_keys=True) + "\n"


async def test_listing_hashes_to_what_the_version_says_when_all_pages_are_read(farm: Farm):
    rig = farm.rig
    rig.auth.add_key(CURATOR, "trash", [*SCOPES, "Inputs:Get"])
    rig.dataset.add(TRASH, "kept-out", np.ones(DIM, np.float16), {"glass": True}, test=True)
    async with farm.trainer():
        version = await rig.queued(counts={"glass": 30, "metal": 12})
        ready = await rig.until_state(version.name, "READY")
    # What becomes of the inputs later is nothing to the version.
    rig.dataset.add(TRASH, "glass-0-0000", None, {}, deleted=True)
    request = pb.ListModelVersionInputsRequest(parent=ready.name, page_size=20)
    found: list[ModelVersionInput] = []
    while True:
        page = await rig.models.ListModelVersionInputs(request, metadata=rig.key(CURATOR))
        found += page.inputs
        assert (page.total_size, page.dataset_sha256) == (42, ready.dataset_sha256)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert hashlib.sha256("".join(map(line, found)).encode()).hexdigest() == ready.dataset_sha256
    assert [item.uid for item in found] == sorted(item.uid for item in found)
    assert {item.fold for item in found} == {0, 1, 2, 3, 4}
    assert found[0].input == f"apps/trash/inputs/own-{found[0].uid}"
    for key in (KEY, READ_KEY):
        refused = await refusal(rig.models.ListModelVersionInputs(request, metadata=rig.key(key)))
        assert refused.reason == "SCOPE_MISSING"


async def test_version_has_no_listing_when_its_trainer_gave_none(farm: Farm):
    rig = farm.rig
    rig.auth.add_key(CURATOR, "trash", [*SCOPES, "Inputs:Get"])
    ready = await rig.trained()
    request = pb.ListModelVersionInputsRequest(parent=ready.name)
    refused = await refusal(rig.models.ListModelVersionInputs(request, metadata=rig.key(CURATOR)))
    assert refused.reason == "VERSION_HAS_NO_INPUT_LIST"
