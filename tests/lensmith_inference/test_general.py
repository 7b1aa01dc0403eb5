"""General: sums over the classes of a network, asked directly and beside vectors."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lensmith_api.v1.inference_service_pb2 import EmbedRequest, ImageQuery, PredictRequest
from lensmith_api.v1.input_pb2 import Image
from lensmith_vision import decode, resize
from lensmith_vision.general import hierarchy
from lensmith_vision.pack import builtin_pack, load_card
from tests.general_pack import build_general_pack
from tests.lensmith_inference.conftest import APP_A, Rig, rig_of
from tests.lensmith_inference.test_predict import refusal
from tests.pictures import picture
from tests.polling import until

GENERAL = "apps/main/models/general"
TEMPERATURE = 1.7


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with General's classes."""
    return build_general_pack(tmp_path_factory.mktemp("general") / "tiny")


def reference(folder: Path, data: bytes) -> dict[str, float]:
    """General's probabilities by its definition: a softmax, and for each concept the classes that lead up to it."""
    policy = load_card(folder).resize
    pixels = resize.apply(decode.decode(data, min_side_hint=policy.min_side_hint), policy)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    logits = session.run(["logits"], {"image": pixels[np.newaxis]})[0][0, 1:].astype(np.float64) / TEMPERATURE
    leaves = np.exp(logits - logits.max())
    leaves /= leaves.sum()
    concepts = hierarchy().concepts
    sums = dict.fromkeys((one.id for one in concepts), 0.0)
    for leaf, value in zip(concepts[-1000:], leaves, strict=True):
        above, waiting = {leaf.id}, [leaf]
        while waiting:
            parents = [concepts[parent] for parent in waiting.pop().parents]
            waiting += [one for one in parents if one.id not in above]
            above |= {one.id for one in parents}
        for concept in above:
            sums[concept] += value
    return sums


def embed(*contents: bytes, **fields: object) -> EmbedRequest:
    inputs = [ImageQuery(id=str(i), image=Image(content=data)) for i, data in enumerate(contents)]
    return EmbedRequest(parent="apps/a", inputs=inputs, with_general_concepts=True, **fields)


def ask(*contents: bytes, **fields: object) -> PredictRequest:
    inputs = [ImageQuery(id=str(i), image=Image(content=data)) for i, data in enumerate(contents)]
    return PredictRequest(model=GENERAL, inputs=inputs, **fields)


async def test_answers_are_sums_of_the_networks_own_classes(tmp_path: Path, nats_url: str, tiny: Path) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack(), tiny]) as rig:
        rig.registry.add_general(rig.registry.base_models["baseModels/tiny"], 0.25, TEMPERATURE)
        pictures = [picture(seed) for seed in range(3)]
        response = await rig.stub.Predict(ask(*pictures), metadata=rig.key())
        assert response.model_version == f"{GENERAL}/versions/1"
        for answer, data in zip(response.predictions, pictures, strict=True):
            truth = reference(tiny, data)
            said = {score.concept: score.value for score in answer.concepts}
            assert said.keys() == truth.keys()
            assert [said[one] for one in truth] == pytest.approx(list(truth.values()), abs=1e-5)
            values = [score.value for score in answer.concepts]
            assert values == sorted(values, reverse=True)
            assert [score.predicted for score in answer.concepts] == [value >= 0.25 for value in values]
            assert said["entity"] == pytest.approx(1.0)


async def test_concepts_are_chosen_as_of_any_model(tmp_path: Path, nats_url: str, tiny: Path) -> None:
    async with rig_of(tmp_path, nats_url, [tiny]) as rig:
        rig.registry.add_general(rig.base_model)
        data = picture(1)
        few = (await rig.stub.Predict(ask(data, max_concepts=4), metadata=rig.key())).predictions[0].concepts
        assert len(few) == 4
        sure = (await rig.stub.Predict(ask(data, min_value=0.9), metadata=rig.key())).predictions[0].concepts
        assert all(score.value >= 0.9 for score in sure)
        # Both the bird and the machine are called so.
        both = await rig.stub.Predict(ask(data, select_concepts=["crane", "animal"]), metadata=rig.key())
        names = {score.concept: score.display_name for score in both.predictions[0].concepts}
        assert {one for one in names if one.startswith("crane-")} == names.keys() - {"animal"}
        assert len(names) == 3
        error = await refusal(rig.stub.Predict(ask(data, select_concepts=["unicorn"]), metadata=rig.key()))
        assert error.reason == "SELECT_CONCEPTS_UNKNOWN"


async def test_vectors_come_with_concepts_when_their_own_network_has_the_classes(
    tmp_path: Path, nats_url: str, tiny: Path
) -> None:
    async with rig_of(tmp_path, nats_url, [tiny]) as rig:
        rig.registry.add_general(rig.base_model, 0.25, TEMPERATURE)
        pictures = [picture(1), b"broken", picture(2)]
        response = await rig.stub.Embed(embed(*pictures), metadata=rig.token("dataset", APP_A))
        assert response.general_version == f"{GENERAL}/versions/1"
        assert [one.status.code for one in response.embeddings] == [0, 3, 0]
        assert not response.embeddings[1].general_concepts
        plain = EmbedRequest(parent="apps/a", inputs=embed(*pictures).inputs)
        without = await rig.stub.Embed(plain, metadata=rig.token("dataset", APP_A))
        assert without.general_version == ""
        for index in (0, 2):
            _expect(response.embeddings[index].general_concepts, reference(tiny, pictures[index]))
            assert response.embeddings[index].vector == without.embeddings[index].vector
            assert not without.embeddings[index].general_concepts


@pytest.mark.parametrize("side", [32, 160])
async def test_another_network_looks_too_when_the_own_has_no_classes(
    tmp_path: Path, nats_url: str, plain_engine: object, side: int
) -> None:
    pack = build_general_pack(tmp_path / "packs" / "beside", name="beside", side=side)
    async with rig_of(tmp_path, nats_url, [builtin_pack(), pack]) as rig:
        rig.registry.add_general(rig.registry.base_models["baseModels/beside"], 0.25, TEMPERATURE)
        data = picture(3)
        response = await rig.stub.Embed(embed(data), metadata=rig.key())
        assert response.space == rig.base_model.space
        _expect(response.embeddings[0].general_concepts, reference(pack, data), abs=0.05)
        plain = EmbedRequest(parent="apps/a", inputs=embed(data).inputs)
        without = await rig.stub.Embed(plain, metadata=rig.key())
        assert response.embeddings[0].vector == without.embeddings[0].vector


async def test_vectors_come_alone_when_nothing_installed_has_the_classes(rig: Rig) -> None:
    async def is_remembered() -> bool:
        before = rig.registry.calls["ResolveGeneral"]
        response = await rig.stub.Embed(embed(picture(1)), metadata=rig.key())
        assert response.general_version == ""
        assert len(response.embeddings[0].vector) == rig.base_model.dimensions
        return rig.registry.calls["ResolveGeneral"] == before

    assert not await is_remembered()
    # Whoever begins to hear news forgets what it was told before, and a service that has just started does.
    assert await until(is_remembered)


async def test_vectors_come_alone_when_the_other_network_is_broken(tmp_path: Path, nats_url: str, tiny: Path) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack(), tiny]) as rig:
        rig.registry.add_general(rig.registry.base_models["baseModels/tiny"])
        rig.registry.folders[rig.registry.base_models["baseModels/tiny"].space] = builtin_pack()
        response = await rig.stub.Embed(embed(picture(1)), metadata=rig.key())
        assert response.general_version == ""
        assert response.embeddings[0].status.code == 0


def _expect(scores: object, truth: dict[str, float], **tolerance: float) -> None:
    """At most 32 concepts, none below 0.02, by falling score, and these the most probable ones."""
    values = [score.value for score in scores]
    assert 1 <= len(values) <= 32
    assert values == sorted(values, reverse=True)
    assert min(values) >= 0.02
    assert values == pytest.approx([truth[score.concept] for score in scores], **(tolerance or {"abs": 1e-4}))
    if not tolerance:
        probable = sorted((value for value in truth.values() if value >= 0.02), reverse=True)[:32]
        assert values == pytest.approx(probable, abs=1e-4)
