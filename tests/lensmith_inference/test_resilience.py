"""What inference does while others are away, change their mind, or send rubbish."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest

from lensmith_api.internal.v1.events_pb2 import Event, ModelChanged
from lensmith_api.v1.inference_service_pb2 import ImageQuery, PredictRequest, PredictResponse
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.input_pb2 import Image
from lensmith_platform.bus import Bus, connect
from lensmith_platform.errors import from_rpc_error
from lensmith_vision.pack import builtin_pack
from tests.lensmith_inference.conftest import APP_A, Rig, rig_of
from tests.lensmith_inference.test_predict import MODEL, ask, queries, refusal
from tests.pictures import picture

NO_NATS = "nats://user:password@127.0.0.1:9"


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(30):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within 30 s: {what}")


async def ready(rig: Rig) -> None:
    async def is_ready() -> bool:
        return rig.service.readiness.is_ready

    await until(is_ready, "inference is ready")


@asynccontextmanager
async def bus_of(url: str) -> AsyncIterator[Bus]:
    async with await connect(url, wait_seconds=20) as bus:
        yield bus


async def test_known_models_answer_when_registry_is_away(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], model_ttl_seconds=0.0) as rig:
        rig.add_model("sorter")
        before = await ask(rig, picture(1))
        await rig.registry_peer.stop()
        after = await ask(rig, picture(1))
        assert after == before
        request = PredictRequest(model="apps/a/models/unknown", inputs=queries(picture(1)))
        error = await refusal(rig.stub.Predict(request, metadata=rig.key()))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        await rig.registry_peer.start()
        rig.add_model("sorter", seed=5)

        async def newest_answers() -> bool:
            return (await ask(rig, picture(1))).model_version.endswith("/2")

        await until(newest_answers, "registry is asked again")


async def test_predictions_are_answered_when_the_bus_is_away(tmp_path: Path) -> None:
    async with rig_of(tmp_path, NO_NATS, [builtin_pack()]) as rig:
        rig.add_model("sorter")
        await ready(rig)
        assert (await ask(rig, picture(1))).predictions[0].status.code == 0


async def test_new_version_answers_when_its_news_arrives(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], model_ttl_seconds=1000.0) as rig, bus_of(nats_url) as bus:
        rig.add_model("sorter")
        await ask(rig, picture(1))
        rig.add_model("sorter", seed=2)

        async def newest_answers() -> bool:
            # Told again and again: a listener hears only what is said after it has begun to listen.
            await bus.publish(Event(app_id=APP_A, model_changed=ModelChanged(model="sorter")))
            return (await ask(rig, picture(1))).model_version.endswith("/2")

        await until(newest_answers, "the new version answers")


async def test_changed_model_is_fetched_before_anybody_asks_when_its_news_arrives(rig: Rig, nats_url: str) -> None:
    async with bus_of(nats_url) as bus:
        rig.add_model("fresh")

        async def is_fetched() -> bool:
            await bus.publish(Event(app_id=APP_A, model_changed=ModelChanged(model="fresh")))
            return rig.registry.calls["head"] > 0

        await until(is_fetched, "the head is fetched")
        fetched = rig.registry.calls["head"]
        await ask(rig, picture(1), model="apps/a/models/fresh")
        assert rig.registry.calls["head"] == fetched


async def test_longest_unused_head_is_fetched_again_when_the_budget_is_full(tmp_path: Path, nats_url: str) -> None:
    dimensions = 3 * 4 * 4096  # a little more than two heads of three concepts would need
    async with rig_of(tmp_path, nats_url, [builtin_pack()], head_cache_bytes=dimensions) as rig:
        size = rig.add_model("m0").nbytes
        most = dimensions // size
        models = [f"apps/a/models/m{number}" for number in range(most + 1)]
        for number in range(1, most + 1):
            rig.add_model(f"m{number}", seed=number)
        first = [await ask(rig, picture(1), model=model) for model in models]
        assert rig.registry.calls["head"] == most + 1
        assert await ask(rig, picture(1), model=models[-1]) == first[-1]
        assert rig.registry.calls["head"] == most + 1, "the last one is still there"
        assert await ask(rig, picture(1), model=models[0]) == first[0]
        assert rig.registry.calls["head"] == most + 2, "the first one had left"


async def test_service_is_ready_from_its_cache_when_registry_is_away_at_start(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        await ready(rig)
    async with rig_of(tmp_path, NO_NATS, [builtin_pack()], registry_up=False) as rig:
        await ready(rig)


async def test_service_is_not_ready_when_it_has_no_base_model(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], registry_up=False) as rig:
        rig.add_model("sorter")
        assert not rig.service.readiness.is_ready
        await rig.registry_peer.start()
        await ready(rig)
        await ask(rig, picture(1))


async def test_damaged_pack_is_fetched_again_when_it_was_kept(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        await ready(rig)
    (kept,) = (tmp_path / "cache" / "packs").iterdir()
    model = kept / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        rig.add_model("sorter")
        assert (await ask(rig, picture(1))).predictions[0].status.code == 0
    assert [path.name for path in (tmp_path / "cache" / "packs").iterdir()] == [kept.name]


async def test_nothing_is_served_or_kept_when_registry_sends_altered_bytes(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], corrupt=True) as rig:
        rig.add_model("sorter")
        request = PredictRequest(model=MODEL, inputs=queries(picture(1)))
        assert (await refusal(rig.stub.Predict(request, metadata=rig.key()))).code is grpc.StatusCode.INTERNAL
        assert not [path for path in (tmp_path / "cache" / "packs").iterdir() if not path.name.startswith(".")]
        rig.registry.corrupt = False
        await ready(rig)
        rig.registry.corrupt = True
        assert (await refusal(rig.stub.Predict(request, metadata=rig.key()))).code is grpc.StatusCode.INTERNAL
        rig.registry.corrupt = False
        assert (await ask(rig, picture(1))).predictions[0].status.code == 0


async def test_flood_is_refused_when_the_service_has_all_the_work_it_can_hold(tmp_path: Path, nats_url: str) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()], max_pending_images=8) as rig:
        rig.add_model("sorter")
        await ask(rig, picture(1))
        large = picture(2, (1600, 1200))

        async def one() -> PredictResponse | grpc.aio.AioRpcError:
            try:
                return await ask(rig, *[large] * 4)
            except grpc.aio.AioRpcError as error:
                return error

        results = await asyncio.gather(*(one() for _ in range(30)))
        refused = [from_rpc_error(result) for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 30
        assert {error.reason for error in refused} == {"INFERENCE_OVERLOADED"}
        assert {error.retry_after for error in refused} == {1.0}
        assert (await ask(rig, large)).predictions[0].status.code == 0


async def test_figures_are_shown_when_pictures_were_asked_about(rig: Rig) -> None:
    rig.add_model("sorter")
    await ask(rig, picture(1), b"broken")
    call = rig.stub.Predict(
        PredictRequest(model=MODEL, inputs=queries(*[picture(3, (1600, 1200))] * 64)), metadata=rig.key()
    )
    await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    async with httpx.AsyncClient() as client:

        async def shown() -> bool:
            text = (await client.get(f"http://{rig.service.metrics_address}/metrics")).text
            return all(
                line in text
                for line in (
                    f'lensmith_predict_seconds_count{{space="{rig.base_model.space}"}}',
                    f'lensmith_inference_images_total{{operation="predict",space="{rig.base_model.space}"}} 1.0',
                    'reason="IMAGE_NOT_AN_IMAGE"',
                    "lensmith_inference_pending_images 0.0",
                )
            )

        await until(shown, "the figures")


async def test_predictions_in_flight_are_answered_when_the_process_is_asked_to_stop(
    tmp_path: Path, nats_url: str
) -> None:
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        rig.add_model("sorter")
        socket = f"unix:{rig.sockets}/inference"
        settings = {
            "listen": socket,
            "service_key_file": tmp_path / "private" / "inference.pem",
            "service_keys_dir": tmp_path / "keys",
            "nats_url": nats_url,
            "cache_dir": tmp_path / "cache",
            "addresses__auth": rig.auth_peer.target,
            "addresses__registry": rig.registry_peer.target,
            "addresses__dataset": rig.dataset_peer.target,
        }
        environment = {f"LENSMITH_INFERENCE_{name.upper()}": str(value) for name, value in settings.items()}
        command = (sys.executable, "-m", "lensmith_inference")
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
        try:
            async with grpc.aio.insecure_channel(socket) as channel:
                await asyncio.wait_for(channel.channel_ready(), 30)
                stub = InferenceServiceStub(channel)
                large = [ImageQuery(image=Image(content=picture(seed, (1600, 1200)))) for seed in range(64)]
                await stub.Predict(PredictRequest(model=MODEL, inputs=large[:1]), metadata=rig.key())
                resolved = rig.registry.calls["ResolveModel"]
                call = stub.Predict(PredictRequest(model=MODEL, inputs=large, version=1), metadata=rig.key())

                async def is_worked_on() -> bool:
                    return rig.registry.calls["ResolveModel"] > resolved

                await until(is_worked_on, "the request has arrived")
                process.send_signal(signal.SIGTERM)
                response = await call
                assert [one.status.code for one in response.predictions] == [0] * 64
            assert await asyncio.wait_for(process.wait(), 30) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_leftovers_are_removed_when_an_earlier_process_was_killed(tmp_path: Path, nats_url: str) -> None:
    packs = tmp_path / "cache" / "packs"
    old, recent = packs / ".fetching-old", packs / ".fetching-recent"
    for folder in (old, recent):
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"half")
    os.utime(old, (0, 0))
    async with rig_of(tmp_path, nats_url, [builtin_pack()]) as rig:
        await ready(rig)
    assert not old.exists()
    assert recent.exists(), "another process may be at work there"
