"""Predict, asked as users ask: over gRPC, with a key, through every interceptor."""

import asyncio
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from lensmith_api.v1.inference_service_pb2 import EmbedRequest, ImageQuery, PredictRequest, PredictResponse
from lensmith_api.v1.input_pb2 import Image
from lensmith_inference.settings import InferenceSettings
from lensmith_platform.errors import LensmithError, from_rpc_error, from_status
from lensmith_vision import decode, resize
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.heads import Head
from lensmith_vision.pack import builtin_pack, load_card
from tests.lensmith_inference.conftest import APP_A, OTHER_SECRET, Rig, make_head, rig_of
from tests.pictures import picture

MODEL = "apps/a/models/sorter"


def queries(*contents: bytes) -> list[ImageQuery]:
    return [ImageQuery(id=f"q{i}", image=Image(content=data)) for i, data in enumerate(contents)]


async def ask(rig: Rig, *contents: bytes, model: str = MODEL, **fields: object) -> PredictResponse:
    request = PredictRequest(model=model, inputs=queries(*contents), **fields)
    return await rig.stub.Predict(request, metadata=rig.key())


async def refusal(call: grpc.aio.UnaryUnaryCall) -> LensmithError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc_error(raised.value)


def expected(engine: tuple[OnnxRuntimeEngine, str], head: Head, data: bytes) -> np.ndarray:
    """The scores of a picture, without service or batches."""
    policy = load_card(builtin_pack()).resize
    pixels = resize.apply(decode.decode(data, min_side_hint=policy.min_side_hint), policy)
    return head.scores(engine[0].run(engine[1], pixels[np.newaxis]).features)[0]


def values(response: PredictResponse, index: int) -> dict[str, float]:
    return {score.concept: score.value for score in response.predictions[index].concepts}


async def test_scores_are_those_of_the_library_when_a_head_is_asked(rig: Rig, plain_engine) -> None:
    head = rig.add_model("sorter")
    pictures = [picture(seed) for seed in range(5)]
    response = await ask(rig, *pictures)
    assert response.model_version == f"{MODEL}/versions/1"
    assert [one.id for one in response.predictions] == [f"q{i}" for i in range(5)]
    for index, data in enumerate(pictures):
        prediction = response.predictions[index]
        assert prediction.status.code == 0
        scores = dict(zip(head.concepts, expected(plain_engine, head, data), strict=True))
        assert values(response, index) == pytest.approx(scores, abs=1e-4)
        shown = [score.value for score in prediction.concepts]
        assert shown == sorted(shown, reverse=True)
        assert sum(shown) == pytest.approx(1.0, abs=1e-5)
        assert [score.predicted for score in prediction.concepts] == [value >= 0.5 for value in shown]
        assert prediction.concepts[0].display_name == prediction.concepts[0].concept.title()


async def test_every_answer_belongs_to_its_picture_when_many_ask_at_once(rig: Rig, plain_engine) -> None:
    heads = {f"apps/a/models/m{seed}": rig.add_model(f"m{seed}", seed=seed) for seed in range(4)}
    pictures = {seed: picture(seed) for seed in range(40)}
    truth = {
        (model, seed): expected(plain_engine, head, data)
        for model, head in heads.items()
        for seed, data in pictures.items()
    }

    async def request(number: int) -> None:
        random = np.random.RandomState(number)
        model = list(heads)[number % 4]
        chosen = random.randint(0, 40, random.randint(1, 12)).tolist()
        inputs = [
            ImageQuery(id=str(seed), image=Image(content=b"broken" if broken else pictures[seed]))
            for seed, broken in zip(chosen, random.rand(len(chosen)) < 0.15, strict=True)
        ]
        call = rig.stub.Predict(PredictRequest(model=model, inputs=inputs), metadata=rig.key())
        if number % 7 == 3:
            await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            return
        response = await call
        for query, prediction in zip(inputs, response.predictions, strict=True):
            assert prediction.id == query.id
            if query.image.content == b"broken":
                assert from_status(prediction.status).reason == "IMAGE_NOT_AN_IMAGE"
                continue
            scores = dict(zip(heads[model].concepts, truth[(model, int(query.id))], strict=True))
            assert {one.concept: one.value for one in prediction.concepts} == pytest.approx(scores, abs=1e-4)

    await asyncio.gather(*(request(number) for number in range(120)))


async def test_only_the_bad_picture_fails_when_it_is_one_of_many(rig: Rig) -> None:
    rig.add_model("sorter")
    contents = [picture(seed) for seed in range(128)]
    contents[77] = contents[77][: len(contents[77]) // 2]
    response = await ask(rig, *contents)
    failed = {index: from_status(one.status) for index, one in enumerate(response.predictions) if one.status.code}
    assert list(failed) == [77]
    assert failed[77].reason == "IMAGE_TRUNCATED"
    assert not response.predictions[77].concepts


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "IMAGE_EMPTY"),
        (b"%PDF-1.7 something", "IMAGE_FORMAT_UNSUPPORTED"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "IMAGE_CORRUPT"),
        (b"GIF89a", "IMAGE_CORRUPT"),
        (picture(1, (4000, 10)), "IMAGE_ASPECT_RATIO"),
        (picture(1, (10, 10), "BMP")[:60], "IMAGE_TRUNCATED"),
    ],
)
async def test_picture_is_refused_with_its_reason_when_it_is_hostile(rig: Rig, data: bytes, reason: str) -> None:
    rig.add_model("sorter")
    response = await ask(rig, data, picture(1))
    assert from_status(response.predictions[0].status).reason == reason
    assert response.predictions[1].status.code == 0


async def test_query_without_picture_fails_alone_when_others_have_one(rig: Rig) -> None:
    rig.add_model("sorter")
    inputs = [ImageQuery(id="none", image=Image()), *queries(picture(1))]
    response = await rig.stub.Predict(PredictRequest(model=MODEL, inputs=inputs), metadata=rig.key())
    assert from_status(response.predictions[0].status).reason == "IMAGE_MISSING"
    assert response.predictions[1].status.code == 0


async def test_number_is_answered_when_the_model_is_a_regression(rig: Rig, plain_engine) -> None:
    head = rig.add_model("ruler", kind="regression")
    response = await ask(rig, picture(3), model="apps/a/models/ruler")
    assert response.predictions[0].number == pytest.approx(expected(plain_engine, head, picture(3))[0], abs=1e-3)
    assert not response.predictions[0].concepts


async def test_named_version_answers_when_another_is_in_production(rig: Rig, plain_engine) -> None:
    first = rig.add_model("sorter", seed=1)
    rig.add_model("sorter", seed=2)
    response = await ask(rig, picture(1), version=1)
    assert response.model_version == f"{MODEL}/versions/1"
    scores = dict(zip(first.concepts, expected(plain_engine, first, picture(1)), strict=True))
    assert values(response, 0) == pytest.approx(scores, abs=1e-4)
    assert (await ask(rig, picture(1))).model_version == f"{MODEL}/versions/2"


async def test_request_is_refused_when_its_model_or_version_cannot_answer(rig: Rig) -> None:
    rig.add_model("sorter")
    rig.registry.models[(APP_A, "untrained")] = {}
    for fields, reason in (
        ({"model": "apps/a/models/none"}, "MODEL_NOT_FOUND"),
        ({"model": "apps/a/models/untrained"}, "MODEL_HAS_NO_TRAINED_VERSION"),
        ({"version": 9}, "VERSION_NOT_FOUND"),
        ({"select_concepts": ["GLASS", "wood"]}, "SELECT_CONCEPTS_UNKNOWN"),
    ):
        request = PredictRequest(**{"model": MODEL, "inputs": queries(picture(1)), **fields})
        assert (await refusal(rig.stub.Predict(request, metadata=rig.key()))).reason == reason


async def test_concepts_are_narrowed_when_the_request_says_so(rig: Rig) -> None:
    rig.add_model("sorter")
    everything = values(await ask(rig, picture(1)), 0)
    best = next(iter(everything))
    assert list(values(await ask(rig, picture(1), max_concepts=1), 0)) == [best]
    assert list(values(await ask(rig, picture(1), min_value=everything[best]), 0)) == [best]
    assert set(values(await ask(rig, picture(1), select_concepts=["Glass", "nothing"]), 0)) == {"glass"}


async def test_other_app_is_refused_when_it_asks_a_private_model(rig: Rig) -> None:
    rig.add_model("sorter")
    request = PredictRequest(model=MODEL, inputs=queries(picture(1)))
    await ask(rig, picture(1))  # the model is in every cache
    error = await refusal(rig.stub.Predict(request, metadata=rig.key(OTHER_SECRET)))
    assert error.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND)
    request.model = "apps/b/models/sorter"
    assert (await refusal(rig.stub.Predict(request, metadata=rig.key(OTHER_SECRET)))).reason == "MODEL_NOT_FOUND"


async def test_version_is_refused_when_its_head_is_from_another_space(rig: Rig) -> None:
    foreign = make_head("another.v1.space", rig.base_model.dimensions, ("glass", "metal"))
    rig.registry.add_version(APP_A, "a", "sorter", rig.base_model, foreign)
    request = PredictRequest(model=MODEL, inputs=queries(picture(1)))
    error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
    assert error.reason == "MODEL_SPACE_MISMATCH"
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION


async def test_each_version_is_asked_about_vectors_of_its_own_base_model_only_when_a_model_has_both(
    tmp_path: Path, nats_url: str, shared: Path, shared_packs: dict[str, Path]
) -> None:
    """Both networks give vectors of equal length: nothing but the space tells them apart."""
    names = ("mobilenetv2-features", "mobilenetv2-imagenet")
    async with rig_of(tmp_path, nats_url, [shared_packs[name] for name in names]) as rig:
        bases = [rig.registry.base_models[f"baseModels/{name}"] for name in names]
        heads = [make_head(base.space, base.dimensions, ("glass", "metal"), seed=7) for base in bases]
        for base, head in zip(bases, heads, strict=True):
            rig.registry.add_version(APP_A, "a", "sorter", base, head)
        photos = [path.read_bytes() for path in sorted((shared / "datasets").glob("fruit-multilabel/test/*.jpg"))[:4]]
        truth = []
        for name, base, head in zip(names, bases, heads, strict=True):
            vectors = await rig.stub.Embed(
                EmbedRequest(parent="apps/a", base_model=f"baseModels/{name}", inputs=queries(*photos)),
                metadata=rig.key(),
            )
            assert vectors.space == base.space
            truth.append(head.scores(np.array([one.vector for one in vectors.embeddings], np.float32)))

        async def asked(version: int) -> None:
            request = PredictRequest(model=MODEL, version=version, inputs=queries(*photos))
            response = await rig.stub.Predict(request, metadata=rig.key())
            assert response.model_version == f"{MODEL}/versions/{version}"
            for prediction, scores in zip(response.predictions, truth[version - 1], strict=True):
                told = {score.concept: score.value for score in prediction.concepts}
                assert [told["glass"], told["metal"]] == pytest.approx(scores, abs=1e-5)

        await asyncio.gather(*(asked(version) for version in (1, 2) * 8))


async def test_request_is_refused_when_it_is_over_a_limit(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], max_images=3, max_request_bytes=5000) as rig:
        rig.add_model("sorter")
        request = PredictRequest(model=MODEL, inputs=queries(*[picture(1)] * 4))
        error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
        assert (error.reason, error.metadata["limit"]) == ("TOO_MANY_IMAGES", "max_images")
        request = PredictRequest(model=MODEL, inputs=queries(b"\0" * 5001))
        error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
        assert (error.reason, error.metadata["limit"]) == ("REQUEST_TOO_LARGE", "max_request_bytes")


async def test_public_model_answers_by_its_own_classifier_when_any_app_asks(
    tmp_path: Path, nats_url: str, shared: Path, shared_packs: dict[str, Path]
) -> None:
    pack = shared_packs["mobilenetv2-imagenet"]
    labels = (pack / "labels.txt").read_text().splitlines()
    async with rig_of(tmp_path, nats_url, [pack]) as rig:
        ignored = load_card(pack).logits.ignored
        concepts = [f"c{index}" for index in range(len(labels)) if index not in ignored]
        rig.registry.add_version(1, "main", "general", rig.base_model, None, concepts=concepts)
        photo = next((shared / "datasets").glob("fruit-multilabel/test/*.jpg")).read_bytes()
        request = PredictRequest(model="apps/main/models/general", inputs=queries(photo), max_concepts=5)
        response = await rig.stub.Predict(request, metadata=rig.key())
        assert response.model_version == "apps/main/models/general/versions/1"
        best = response.predictions[0].concepts
        assert len(best) == 5
        assert best[0].value > 0.05


def test_settings_say_their_meaning_when_asked() -> None:
    for name, field in InferenceSettings.model_fields.items():
        assert field.description, name
