"""The indexer: batches, failures, kills and outages."""

import asyncio
import hashlib

import grpc
from google.rpc.status_pb2 import Status

from lensmith_api.internal.v1.events_pb2 import Event, InputsCreated
from lensmith_dataset.app import build
from lensmith_platform import bus
from lensmith_platform.errors import InvalidInputError, PreconditionError, to_status
from lensmith_platform.server import running
from tests.lensmith_dataset.conftest import FAILED, PENDING, READY, Rig, Start, new_input, reason_of
from tests.pictures import picture
from tests.polling import until


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def test_pictures_share_batches_when_they_come_in_many_calls(start: Start) -> None:
    rig = await start(index_batch=8, index_wait_seconds=0.05)
    rig.inference.open.clear()
    await asyncio.gather(*(rig.create(new_input(picture(seed))) for seed in range(24)))
    rig.inference.open.set()
    await rig.indexed()

    assert (await rig.counts()).ready == 24
    assert max(rig.inference.batches) <= 8
    assert len(rig.inference.batches) < 24
    assert set(rig.inference.calls.values()) == {1}
    assert rig.registry.calls == 1


async def test_two_batches_are_in_flight_when_more_wait(start: Start) -> None:
    rig = await start(index_batch=4)
    rig.inference.open.clear()
    await rig.create(*(new_input(picture(seed)) for seed in range(20)))

    async def two() -> bool:
        return len(rig.inference.batches) == 2

    await until(two)
    assert len(rig.inference.batches) == 2
    rig.inference.open.set()
    await rig.indexed()
    assert (await rig.counts()).ready == 20


async def test_batch_is_cut_when_its_bytes_would_be_too_many(start: Start) -> None:
    data = [picture(seed, (320, 240), "BMP") for seed in range(4)]
    rig = await start(index_batch_bytes=len(data[0]) * 2, index_wait_seconds=0.1)
    await rig.create(*(new_input(one) for one in data))
    await rig.indexed()

    assert max(rig.inference.batches) <= 2


async def test_picture_fails_alone_when_inference_refuses_it(rig: Rig) -> None:
    bad = picture(1)
    rig.inference.refused[_sha256(bad)] = to_status(InvalidInputError("IMAGE_ODD", "odd"))
    results = await rig.create(new_input(bad, "bad"), new_input(picture(2), "good"))
    await rig.indexed()

    found = await rig.get("apps/a/inputs/bad")
    assert (found.status, reason_of(found.error), found.error.message) == (FAILED, "IMAGE_ODD", "odd")
    assert (await rig.get("apps/a/inputs/good")).status == READY
    assert len(results) == 2
    counts = await rig.counts()
    assert (counts.pending, counts.ready, counts.failed) == (0, 1, 1)


async def test_picture_fails_when_its_bytes_are_lost(start: Start) -> None:
    rig = await start(recent_blob_bytes=0)
    await rig.inference_peer.stop()
    [result] = await rig.create(new_input(picture(1)))
    rig.bucket.client.remove_object(rig.bucket.name, next(iter(rig.objects())))
    await rig.inference_peer.start()
    await rig.indexed()

    found = await rig.get(result.input.name)
    assert (found.status, reason_of(found.error)) == (FAILED, "BLOB_NOT_FOUND")

    [again] = await rig.create(new_input(picture(1)))
    assert (again.duplicate, again.input.status) == (True, PENDING)
    await rig.indexed()
    assert (await rig.get(result.input.name)).status == READY


async def test_picture_is_indexed_from_memory_when_it_was_just_stored(rig: Rig) -> None:
    await rig.inference_peer.stop()
    [result] = await rig.create(new_input(picture(1)))
    rig.bucket.client.remove_object(rig.bucket.name, next(iter(rig.objects())))
    await rig.inference_peer.start()
    await rig.indexed()

    assert (await rig.get(result.input.name)).status == READY


async def test_picture_waits_when_inference_has_no_room(rig: Rig) -> None:
    data = picture(1)
    rig.inference.refused[_sha256(data)] = Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full")
    [result] = await rig.create(new_input(data))

    async def asked_twice() -> bool:
        return rig.inference.calls[_sha256(data)] >= 2

    await until(asked_twice)
    assert (await rig.get(result.input.name)).status == PENDING
    rig.inference.refused.clear()
    await rig.indexed()
    assert (await rig.get(result.input.name)).status == READY


async def test_pictures_wait_when_a_batch_is_refused_as_a_whole(rig: Rig) -> None:
    rig.inference.refusals.extend([PreconditionError("BASE_MODEL_LOADING", "wait")] * 2)
    await rig.create(new_input(picture(1)), new_input(picture(2)))
    await rig.indexed()

    assert (await rig.counts()).ready == 2
    assert rig.inference.refusals == []


async def test_poisonous_picture_fails_alone_when_it_breaks_its_batches(start: Start) -> None:
    rig = await start(index_give_up_attempts=4)
    bad = picture(0)
    rig.inference.poison.add(_sha256(bad))
    await rig.create(new_input(bad, "bad"), *(new_input(picture(seed)) for seed in range(1, 8)))
    await rig.indexed()

    counts = await rig.counts()
    assert (counts.ready, counts.failed) == (7, 1)
    assert reason_of((await rig.get("apps/a/inputs/bad")).error) in ("EMBED_FAILED", "INTERNAL")


async def test_forgotten_input_is_embedded_when_its_message_was_lost(start: Start) -> None:
    rig = await start(index_stale_seconds=0.5, index_poll_seconds=0.1)
    await rig.create(new_input(picture(1)))
    await rig.indexed()
    # As if the message had been lost and the process had died before the vector was stored.
    await rig.sql("DELETE FROM embeddings")
    await rig.sql("UPDATE inputs SET status = 1")

    await rig.indexed()

    assert (await rig.counts()).ready == 1
    assert len(await rig.sql("SELECT FROM embeddings")) == 1


async def test_input_is_embedded_once_when_its_message_comes_twice(start: Start) -> None:
    rig = await start(index_stale_seconds=0.05, index_poll_seconds=0.05)
    rig.inference.open.clear()
    data = picture(1)
    [result] = await rig.create(new_input(data))
    sender = await bus.connect(rig.settings.nats_url.get_secret_value(), wait_seconds=10)
    async with sender:
        for _ in range(3):
            await sender.publish(Event(app_id=7, inputs_created=InputsCreated(input_uids=[result.input.uid])))

        async def all_in_work() -> bool:
            queue = await sender.jetstream().consumer_info("INPUTS", "dataset--embed-inputs")
            return queue.num_pending == 0 and (queue.num_ack_pending or 0) >= 4

        await until(all_in_work)
    rig.inference.open.set()
    await rig.indexed()

    assert rig.inference.calls[_sha256(data)] == 1


async def test_indexer_recovers_when_it_is_killed_between_reading_and_writing(start: Start) -> None:
    rig = await start(roles="api")
    rig.inference.open.clear()
    await rig.create(*(new_input(picture(seed)) for seed in range(6)))
    fast = {"index_stale_seconds": 0.5, "index_poll_seconds": 0.2}
    alone = rig.settings.model_copy(update={"roles": "indexer", **fast})

    async def asked() -> bool:
        return bool(rig.inference.batches)

    async with running(alone, build) as first:
        await until(asked)
        # The bytes were read and inference was asked; nothing was written.
        first.background.cancel()
        await asyncio.wait([first.background])
    assert (await rig.counts()).pending == 6
    rig.inference.open.set()
    async with running(alone, build):
        await rig.indexed()

    assert (await rig.counts()).ready == 6
    assert len(await rig.sql("SELECT FROM embeddings")) == 6


async def test_input_may_be_deleted_while_it_is_embedded(rig: Rig) -> None:
    from lensmith_api.v1.input_service_pb2 import DeleteInputsRequest

    rig.inference.open.clear()
    await rig.create(new_input(picture(1), "x"), new_input(picture(2), "y"))

    async def asked() -> bool:
        return bool(rig.inference.batches)

    await until(asked)
    await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=["x"]), metadata=rig.key())
    rig.inference.open.set()
    await rig.indexed()

    assert (await rig.counts()).ready == 1
    assert len(await rig.sql("SELECT FROM embeddings")) == 1


async def test_apps_take_turns_when_one_has_a_long_queue(start: Start) -> None:
    rig = await start(index_batch=4, index_batches_at_once=1)
    rig.inference.open.clear()
    await rig.create(*(new_input(picture(seed)) for seed in range(60)))
    late = picture(1000)
    await rig.create(new_input(late), app="b")
    rig.inference.open.set()
    await rig.indexed("b")

    assert rig.inference.calls[_sha256(late)] == 1
    await rig.indexed()
    order = list(rig.inference.calls)
    assert order.index(_sha256(late)) < 40
