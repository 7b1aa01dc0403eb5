"""Embed: vectors of an app's space, for users and for dataset."""

from pathlib import Path

import numpy as np
import pytest

from lensmith_api.internal.v1.events_pb2 import AppSpaceChanged, Event
from lensmith_api.v1.inference_service_pb2 import EmbedRequest, ImageQuery
from lensmith_api.v1.input_pb2 import Image
from lensmith_platform.bus import connect
from lensmith_platform.errors import from_status
from lensmith_vision import decode, resize
from lensmith_vision.pack import builtin_pack, load_card
from tests.lensmith_inference.conftest import APP_A, Rig, rig_of
from tests.lensmith_inference.test_predict import refusal
from tests.pictures import picture
from tests.polling import until


def request(*contents: bytes, **fields: str) -> EmbedRequest:
    inputs = [ImageQuery(id=str(i), image=Image(content=data)) for i, data in enumerate(contents)]
    return EmbedRequest(parent="apps/a", inputs=inputs, **fields)


@pytest.mark.parametrize("base_model", ["", "baseModels/plain"])
async def test_vectors_are_those_of_the_library_when_a_user_asks(rig: Rig, plain_engine, base_model: str) -> None:
    pictures = [picture(seed) for seed in range(3)]
    response = await rig.stub.Embed(request(*pictures, base_model=base_model), metadata=rig.key())
    assert response.space == plain_engine[1]
    policy = load_card(builtin_pack()).resize
    for embedding, data in zip(response.embeddings, pictures, strict=True):
        pixels = resize.apply(decode.decode(data, min_side_hint=policy.min_side_hint), policy)
        truth = plain_engine[0].run(plain_engine[1], pixels[np.newaxis]).features[0]
        assert embedding.vector == pytest.approx(truth, abs=1e-5)


async def test_vectors_come_when_dataset_asks_with_its_token(rig: Rig) -> None:
    response = await rig.stub.Embed(request(picture(1), b"broken"), metadata=rig.token("dataset", APP_A))
    assert [one.status.code for one in response.embeddings] == [0, 3]
    assert from_status(response.embeddings[1].status).reason == "IMAGE_NOT_AN_IMAGE"
    assert len(response.embeddings[0].vector) == rig.base_model.dimensions


async def test_service_is_refused_when_the_proto_does_not_name_it(rig: Rig) -> None:
    error = await refusal(rig.stub.Embed(request(picture(1)), metadata=rig.token("registry", APP_A)))
    assert error.code.name == "PERMISSION_DENIED"


async def test_request_is_refused_when_its_base_model_is_unknown(rig: Rig) -> None:
    call = rig.stub.Embed(request(picture(1), base_model="baseModels/none"), metadata=rig.key())
    assert (await refusal(call)).reason == "BASE_MODEL_NOT_FOUND"
    call = rig.stub.Embed(request(picture(1), base_model="none"), metadata=rig.key())
    assert (await refusal(call)).reason == "RESOURCE_NAME_INVALID"


async def test_vectors_are_of_the_space_that_is_named_when_several_base_models_are_installed(
    tmp_path: Path, nats_url: str, shared_packs: dict[str, Path]
) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack(), shared_packs["mobilenetv2-features"]]) as rig:
        other = rig.registry.base_models["baseModels/mobilenetv2-features"]
        response = await rig.stub.Embed(request(picture(1), space=other.space), metadata=rig.token("dataset", APP_A))
        assert response.space == other.space
        assert len(response.embeddings[0].vector) == other.dimensions
        call = rig.stub.Embed(request(picture(1), space=other.space, base_model="baseModels/plain"), metadata=rig.key())
        assert (await refusal(call)).reason == "SPACE_OTHER_BASE_MODEL"
        call = rig.stub.Embed(request(picture(1), space="no.such.space"), metadata=rig.key())
        assert (await refusal(call)).reason == "SPACE_NOT_FOUND"


async def test_vectors_are_of_the_new_space_when_news_come_that_the_app_has_moved(
    tmp_path: Path, nats_url: str, shared_packs: dict[str, Path]
) -> None:
    packs = [builtin_pack(), shared_packs["mobilenetv2-features"]]
    async with rig_of(tmp_path, nats_url, packs, model_ttl_seconds=3600.0) as rig:
        old, new = rig.registry.base_models.values()
        assert (await rig.stub.Embed(request(picture(1)), metadata=rig.key())).space == old.space
        rig.registry.base_models = {new.name: new, old.name: old}
        async with await connect(nats_url, wait_seconds=10) as bus:
            await bus.publish(Event(app_id=APP_A, app_space_changed=AppSpaceChanged(space=new.space)))

        async def has_moved() -> bool:
            return (await rig.stub.Embed(request(picture(1)), metadata=rig.key())).space == new.space

        await until(has_moved)
