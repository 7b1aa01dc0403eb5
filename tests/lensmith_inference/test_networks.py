"""Fine-tuned versions: each is answered by a network of its own, beside the base networks that everybody shares."""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import grpc
import httpx
import numpy as np
import onnx
import pytest

from lensmith_api.v1.inference_service_pb2 import (
    HEAT_MAP_METHOD_CLASS_ACTIVATION,
    ExplainRequest,
    ExplainResponse,
    PredictRequest,
)
from lensmith_inference.pack_folder import PackFolder, is_whole
from lensmith_inference.spaces import MEMORY_OF_BYTES
from lensmith_platform.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    InternalError,
    LensmithError,
    PreconditionError,
    from_status,
)
from lensmith_vision import decode, resize
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.heads import Head
from lensmith_vision.networks import network_id
from lensmith_vision.pack import builtin_pack, load_card, space_of
from tests.lensmith_inference.conftest import APP_A, APP_B, OTHER_SECRET, Rig, make_head, rig_of
from tests.lensmith_inference.test_predict import ask, queries, refusal, values
from tests.pictures import picture
from tests.polling import until
from tests.tuned_packs import order_of, tuned_pack

CONCEPTS = ("glass", "metal", "paper")
CURATOR = "secret-of-a-curator"
STARTER = builtin_pack("starter")
BASE = space_of(load_card(STARTER)).id


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Packs of three networks, each with its features in an order of its own, the seed being its place."""
    folder = tmp_path_factory.mktemp("networks")
    for seed in range(3):
        tuned_pack(folder / str(seed), network_id(str(UUID(int=seed))), CONCEPTS, seed=seed)
    return [folder / str(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def starter() -> tuple[OnnxRuntimeEngine, str]:
    engine = OnnxRuntimeEngine()
    space = space_of(load_card(STARTER)).id
    engine.load(space, STARTER)
    return engine, space


@pytest.fixture
async def rig(tmp_path: Path, nats_url: str) -> AsyncIterator[Rig]:
    async with rig_of(tmp_path, nats_url, [STARTER], warm_models=False) as running_rig:
        yield running_rig


def add(rig: Rig, model: str, folder: Path, seed: int = 5, app: str = "a") -> Head:
    """Add a version with a network of its own to a model."""
    card = load_card(folder)
    head = make_head(space_of(card).id, card.feature_dim, CONCEPTS, seed=seed)
    rig.registry.add_network(
        rig.registry.add_version({"a": APP_A, "b": APP_B}[app], app, model, rig.base_model, head), folder
    )
    return head


def seen(starter: tuple[OnnxRuntimeEngine, str], data: bytes) -> np.ndarray:
    """The starter's features [1, d] of a picture."""
    policy = load_card(STARTER).resize
    pixels = resize.apply(decode.decode(data, min_side_hint=policy.min_side_hint), policy)
    return starter[0].run(starter[1], pixels[np.newaxis]).features


def expected(starter: tuple[OnnxRuntimeEngine, str], head: Head, network: int, data: bytes) -> dict[str, float]:
    scores = head.scores(seen(starter, data)[:, order_of(network)])[0]
    return dict(zip(CONCEPTS, scores.tolist(), strict=True))


async def metrics(rig: Rig) -> dict[str, float]:
    """What inference counts, by name and labels."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{rig.service.metrics_address}/metrics")).text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_own_network_answers_when_the_version_has_one(rig: Rig, tuned: list[Path], starter) -> None:
    common = rig.add_model("common")
    heads = [add(rig, f"tuned-{network}", tuned[network]) for network in range(2)]
    pictures = [picture(1), picture(2)]
    names = ["tuned-0", "common", "tuned-1", "tuned-0"]
    answers = await asyncio.gather(*(ask(rig, *pictures, model=f"apps/a/models/{name}") for name in names))
    for name, response in zip(names, answers, strict=True):
        for index, data in enumerate(pictures):
            if name == "common":
                truth = dict(zip(CONCEPTS, common.scores(seen(starter, data))[0].tolist(), strict=True))
            else:
                network = int(name[-1])
                truth = expected(starter, heads[network], network, data)
            assert values(response, index) == pytest.approx(truth, abs=1e-4)
    # Each picture passed once for each question, through the one network that it was asked of.
    counted = await metrics(rig)
    passed = {
        space: counted[f'lensmith_inference_batch_images_sum{{space="{space}"}}'] for space in ("fine-tuned", BASE)
    }
    assert passed == {"fine-tuned": 6.0, BASE: 2.0}
    assert rig.registry.calls["network"] == 2 * 3, "card, labels and graph of each, however many ask at once"
    # There may be a hundred thousand of them: none has a label of its own.
    assert not [name for name in counted if "network-" in name]


async def test_both_answer_when_there_is_room_for_one_network_only(
    tmp_path: Path, nats_url: str, tuned: list[Path], starter
) -> None:
    room = MEMORY_OF_BYTES * load_card(tuned[0]).bytes
    async with rig_of(tmp_path, nats_url, [STARTER], warm_models=False, network_cache_bytes=room) as rig:
        rig.add_model("common")
        heads = [add(rig, f"tuned-{network}", tuned[network]) for network in range(2)]
        await ask(rig, picture(1), model="apps/a/models/common")
        packs = rig.registry.calls["pack"]
        for _ in range(2):
            for network, head in enumerate(heads):
                response = await ask(rig, picture(3), model=f"apps/a/models/tuned-{network}")
                assert values(response, 0) == pytest.approx(expected(starter, head, network, picture(3)), abs=1e-4)
        counted = await metrics(rig)
        assert counted["lensmith_inference_networks"] == 1.0
        assert counted["lensmith_inference_network_bytes"] == room
        assert counted["lensmith_inference_network_load_seconds_count"] == 4.0
        assert counted["lensmith_inference_network_drops_total"] == 3.0
        both = [ask(rig, picture(4), model=f"apps/a/models/tuned-{network}") for network in range(2)]
        for network, response in enumerate(await asyncio.gather(*both)):
            truth = expected(starter, heads[network], network, picture(4))
            assert values(response, 0) == pytest.approx(truth, abs=1e-4)
        await ask(rig, picture(1), model="apps/a/models/common")
        assert rig.registry.calls["pack"] == packs, "the base network was never pushed out"
        assert rig.registry.calls["network"] == 2 * 3, "both are still on disk"


async def test_networks_of_others_stay_when_an_app_asks_for_many(
    tmp_path: Path, nats_url: str, tuned: list[Path]
) -> None:
    room = 2 * MEMORY_OF_BYTES * load_card(tuned[0]).bytes
    async with rig_of(tmp_path, nats_url, [STARTER], warm_models=False, network_cache_bytes=room) as rig:
        add(rig, "theirs", tuned[0], app="b")
        request = PredictRequest(model="apps/b/models/theirs", inputs=queries(picture(1)))
        for network in (1, 2):
            add(rig, f"tuned-{network}", tuned[network])
        await rig.stub.Predict(request, metadata=rig.key(OTHER_SECRET))
        for network in (1, 2, 1, 2):
            await ask(rig, picture(1), model=f"apps/a/models/tuned-{network}")
        loads = (await metrics(rig))["lensmith_inference_network_load_seconds_count"]
        await rig.stub.Predict(request, metadata=rig.key(OTHER_SECRET))
        counted = await metrics(rig)
        assert counted["lensmith_inference_network_load_seconds_count"] == loads, "it never left"
        assert counted["lensmith_inference_network_drops_total"] == 3.0


async def test_network_is_taken_from_disk_when_inference_starts_again(
    tmp_path: Path, nats_url: str, tuned: list[Path], starter
) -> None:
    for start in range(2):
        async with rig_of(tmp_path, nats_url, [STARTER], warm_models=False) as rig:
            head = add(rig, "tuned", tuned[1])
            response = await ask(rig, picture(1), model="apps/a/models/tuned")
            assert values(response, 0) == pytest.approx(expected(starter, head, 1, picture(1)), abs=1e-4)
            assert rig.registry.calls["network"] == (0 if start else 3)
    # What lies on disk is proven each time: a damaged one is fetched again.
    (graph,) = (tmp_path / "cache" / "networks").glob("*/model.onnx")
    graph.write_bytes(b"x" + graph.read_bytes()[1:])
    async with rig_of(tmp_path, nats_url, [STARTER], warm_models=False) as rig:
        add(rig, "tuned", tuned[1])
        await ask(rig, picture(1), model="apps/a/models/tuned")
        assert rig.registry.calls["network"] == 3


async def test_network_is_not_opened_when_its_weights_lie_elsewhere(
    rig: Rig, tuned: list[Path], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(tuned[0], outside)
    graph = onnx.load(outside / "model.onnx")
    onnx.save(graph, outside / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    content = (outside / "model.onnx").read_bytes()
    card = replace(load_card(outside), sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (outside / "card.json").write_text(card.to_json(), encoding="utf-8")
    add(rig, "outside", outside)
    request = PredictRequest(model="apps/a/models/outside", inputs=queries(picture(1)))
    error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
    assert (error.reason, error.metadata["cause"]) == ("NETWORK_UNUSABLE", "PACK_GRAPH_EXTERNAL_DATA")


async def test_reason_is_told_when_a_network_cannot_be_loaded(
    rig: Rig, tuned: list[Path], tmp_path: Path, starter
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tuned[0].iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[:-1] + b"?" if path.name == "model.onnx" else data)
    add(rig, "broken", broken)
    rig.add_model("common")
    request = PredictRequest(model="apps/a/models/broken", inputs=queries(picture(1)))
    error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
    assert isinstance(error, PreconditionError)
    assert (error.reason, error.metadata["cause"]) == ("NETWORK_UNUSABLE", "ARTEFACT_HASH_MISMATCH")
    assert error.metadata["network"] == "apps/a/models/broken/versions/1"
    fetched = rig.registry.calls["network"]
    for _ in range(10):
        again = await refusal(rig.stub.Predict(request, metadata=rig.key()))
        assert (again.reason, again.metadata) == (error.reason, error.metadata)
    # It is tried anew every two seconds, which may pass meanwhile on a busy machine.
    assert rig.registry.calls["network"] < 5 * fetched, "it is not fetched for every question"
    assert (await ask(rig, picture(1), model="apps/a/models/common")).predictions[0].status.code == 0
    rig.registry.networks["networks/7/uid-broken-1/1"] = tuned[0]

    async def answers() -> bool:
        try:
            return bool((await ask(rig, picture(1), model="apps/a/models/broken")).predictions)
        except grpc.aio.AioRpcError:
            return False

    assert await until(answers), "it is tried anew: what was wrong may be mended"


async def test_caller_is_told_to_come_again_when_the_network_is_still_being_loaded(rig: Rig, tuned: list[Path]) -> None:
    add(rig, "tuned", tuned[0])
    rig.registry.networks_open.clear()
    request = PredictRequest(model="apps/a/models/tuned", inputs=queries(picture(1)))

    async def told() -> LensmithError | None:
        error = await refusal(rig.stub.Predict(request, metadata=rig.key(), timeout=1.5))
        # A machine may be too busy for the answer to arrive in the time that is left for it.
        return None if isinstance(error, DeadlineExceededError) else error

    error = await until(told)
    assert isinstance(error, DependencyUnavailableError)
    assert (error.reason, error.metadata["network"]) == ("NETWORK_LOADING", "apps/a/models/tuned/versions/1")
    rig.registry.networks_open.set()
    assert (await rig.stub.Predict(request, metadata=rig.key())).predictions[0].status.code == 0
    assert rig.registry.calls["network"] == 3, "the first caller's loading went on"


async def test_space_of_a_network_never_stands_for_a_base_model(rig: Rig, tuned: list[Path]) -> None:
    rig.add_model("common")
    served = rig.registry.models[APP_A, "common"][1]
    rig.registry.add_network(served, STARTER)
    error = await refusal(
        rig.stub.Predict(PredictRequest(model="apps/a/models/common", inputs=queries(picture(1))), metadata=rig.key())
    )
    assert isinstance(error, InternalError)


async def explain(rig: Rig, *contents: bytes, **fields: object) -> ExplainResponse:
    request = ExplainRequest(model="apps/a/models/tuned", inputs=queries(*contents), **fields)
    return await rig.stub.Explain(request, metadata=rig.key(CURATOR))


async def test_map_is_of_the_own_network_and_neighbours_of_the_base_network_when_explained(
    rig: Rig, tuned: list[Path], starter
) -> None:
    rig.auth.add_key(CURATOR, "a", ["Predict", "Inputs:Get"])
    head = add(rig, "tuned", tuned[2])
    response = await explain(rig, picture(1), b"no picture", picture(2), max_concepts=3, nearest=2, overlay=True)
    assert response.method == HEAT_MAP_METHOD_CLASS_ACTIVATION
    assert response.explanations[1].status.code
    for index, data in ((0, picture(1)), (2, picture(2))):
        one = response.explanations[index]
        logits = (seen(starter, data)[:, order_of(2)] @ head.weights + head.bias)[0]
        for concept in one.concepts:
            mean = np.mean(concept.heat_map.values)
            assert mean == pytest.approx(logits[CONCEPTS.index(concept.concept.concept)], abs=1e-3)
            assert concept.heat_map.overlay
        assert [near.input for near in one.nearest] == ["apps/a/inputs/like-it"]
    (asked,) = rig.dataset.asked
    assert asked.space == rig.base_model.space, "training pictures have no vectors of the network"
    for data, sent in zip((picture(1), picture(2)), asked.vectors, strict=True):
        assert np.frombuffer(sent, "<f2") == pytest.approx(seen(starter, data)[0], abs=1e-2)


async def test_map_comes_alone_when_the_base_network_cannot_be_had(rig: Rig, tuned: list[Path]) -> None:
    rig.auth.add_key(CURATOR, "a", ["Predict", "Inputs:Get"])
    add(rig, "tuned", tuned[2])
    await explain(rig, picture(1))
    rig.registry.base_models.clear()
    (one,) = (await explain(rig, picture(1), nearest=2)).explanations
    assert one.concepts[0].heat_map.values
    assert from_status(one.nearest_status).reason
    assert not one.nearest


def test_longest_unused_pack_goes_when_the_disk_is_full(tmp_path: Path, tuned: list[Path]) -> None:
    cards = [load_card(folder) for folder in tuned]
    size = sum(path.stat().st_size for path in tuned[0].iterdir())
    folder = PackFolder(tmp_path / "kept", 2 * size + 1000)
    places = [folder.place(space_of(card).id, card.sha256) for card in cards]
    for number, (source, place) in enumerate(zip(tuned, places, strict=True)):
        staging = folder.staging()
        for path in source.iterdir():
            (staging / path.name).write_bytes(path.read_bytes())
        folder.put(staging, place)
        if number < 2:
            # As if both had been used long ago, the second first.
            used = time.time() - 1000 * (number + 1)
            os.utime(place, (used, used))
    assert [place.exists() for place in places] == [True, False, True]
    assert [space for space, _ in folder.packs()] == [space_of(cards[place]).id for place in (2, 0)]
    assert is_whole(places[0], space_of(cards[0]).id, cards[0].sha256)
    assert not list((tmp_path / "kept").glob(".*"))
    # One that was not loaded for weeks goes where there is room for it, too.
    used = time.time() - 30 * 86_400
    os.utime(places[0], (used, used))
    folder.shrink()
    assert [place.exists() for place in places] == [False, False, True]
