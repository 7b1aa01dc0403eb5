"""Training data: counted for preflight, and replicated through the change feed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import grpc
import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1.training_data_service_pb2 import (
    CountTrainingDataRequest,
    StreamPicturesRequest,
    StreamTrainingDataRequest,
    StreamTrainingDataResponse,
    TrainingInput,
)
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.annotation_service_pb2 import AnnotateAction, AnnotateRequest, InputAnnotations
from lensmith_api.v1.concept_service_pb2 import DeleteConceptsRequest
from lensmith_api.v1.input_pb2 import Input
from lensmith_api.v1.input_service_pb2 import DeleteInputsRequest, UpdateInputRequest
from tests.lensmith_dataset.conftest import APP_IDS, Rig, Start, new_input
from tests.pictures import picture
from tests.rpc_errors import failing


class Replica:
    """What a trainer keeps of an app."""

    def __init__(self, rig: Rig, app: str = "a") -> None:
        self._rig = rig
        self._app_id = APP_IDS[app]
        self.cursor = ""
        self.inputs: dict[str, TrainingInput] = {}

    async def pull(self) -> list[TrainingInput]:
        """Apply what has changed; return it."""
        request = StreamTrainingDataRequest(
            app_id=self._app_id, space=self._rig.registry.base_model.space, cursor=self.cursor
        )
        changed: list[TrainingInput] = []
        last = None
        async for last in self._rig.training.StreamTrainingData(
            request, metadata=self._rig.token("trainer", self._app_id)
        ):
            changed.extend(last.inputs)
        assert last is not None
        assert last.next_cursor
        self.cursor = last.next_cursor
        for one in changed:
            if one.deleted:
                self.inputs.pop(one.input_uid, None)
            else:
                self.inputs[one.input_uid] = one
        return changed

    def labels(self, uid: str) -> dict[str, object]:
        return {label.concept: getattr(label, label.WhichOneof("value")) for label in self.inputs[uid].labels}


async def test_replica_holds_what_the_app_has_when_it_follows_the_feed(rig: Rig) -> None:
    await rig.create_concepts("glass", "size")
    data = picture(1)
    first, second = await rig.create(
        new_input(data, annotations=[Annotation(concept="glass"), Annotation(concept="size", number=2.5)]),
        new_input(picture(2), test=True),
    )
    await rig.indexed()
    replica = Replica(rig)

    await replica.pull()

    one = replica.inputs[first.input.uid]
    vector = np.frombuffer(one.vector, "<f2")
    assert np.allclose(vector, rig.inference.vector(data), rtol=1e-3, atol=1e-3)
    assert replica.labels(first.input.uid) == {"glass": True, "size": 2.5}
    assert one.sha256.hex() == first.input.sha256
    assert [one.test for one in replica.inputs.values()].count(True) == 1
    assert await replica.pull() == []

    await rig.annotations.Annotate(
        AnnotateRequest(
            parent="apps/a",
            items=[
                InputAnnotations(
                    input=second.input.uid,
                    action=AnnotateAction.ANNOTATE_ACTION_MERGE,
                    annotations=[Annotation(concept="glass", positive=False)],
                )
            ],
        ),
        metadata=rig.key(),
    )
    assert [one.input_uid for one in await replica.pull()] == [second.input.uid]
    assert replica.labels(second.input.uid) == {"glass": False}

    await rig.inputs.UpdateInput(
        UpdateInputRequest(input=Input(name=second.input.name, test=False), update_mask=FieldMask(paths=["test"])),
        metadata=rig.key(),
    )
    assert [one.test for one in await replica.pull()] == [False]

    await rig.concepts.DeleteConcepts(DeleteConceptsRequest(parent="apps/a", concept_ids=["glass"]), metadata=rig.key())
    await replica.pull()
    assert replica.labels(first.input.uid) == {"size": 2.5}

    await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=[first.input.uid]), metadata=rig.key())
    assert [(one.input_uid, one.deleted) for one in await replica.pull()] == [(first.input.uid, True)]
    assert replica.inputs.keys() == {second.input.uid}
    fresh = Replica(rig)
    await fresh.pull()
    assert fresh.inputs == replica.inputs


async def test_counts_tell_what_there_is_to_train_on(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal", "none")
    positive, negative = Annotation(concept="glass"), Annotation(concept="glass", positive=False)
    await rig.create(
        new_input(picture(1), annotations=[positive, Annotation(concept="metal", number=1)]),
        new_input(picture(2), annotations=[negative]),
        new_input(picture(3), annotations=[positive], test=True),
        new_input(picture(4)),
    )
    await rig.indexed()
    rig.inference.open.clear()
    await rig.create(new_input(picture(5), annotations=[positive]))
    space = rig.registry.base_model.space

    async def tests(*concepts: str) -> tuple[int, int, int, int]:
        request = CountTrainingDataRequest(app_id=7, space=space, concepts=concepts, tests=True)
        found = (await rig.training.CountTrainingData(request, metadata=rig.token("registry", 7))).tests
        return found.inputs, found.annotated, found.positives, found.numbers

    async def count(*concepts: str, space: str = space) -> tuple[list[tuple[str, int, int, int]], int, int]:
        response = await rig.training.CountTrainingData(
            CountTrainingDataRequest(app_id=7, space=space, concepts=concepts), metadata=rig.token("registry", 7)
        )
        counts = [(one.concept, one.positives, one.negatives, one.numbers) for one in response.concepts]
        return counts, response.annotated_inputs, response.pending_inputs

    assert await count() == ([("glass", 1, 1, 0), ("metal", 0, 0, 1), ("none", 0, 0, 0)], 2, 1)
    assert await count("metal", "unknown") == ([("metal", 0, 0, 1)], 1, 1)
    assert await count("glass", space="another") == ([("glass", 0, 0, 0)], 0, 1)
    assert (await tests(), await tests("metal")) == ((1, 1, 1, 0), (1, 0, 0, 0))
    rig.inference.open.set()


async def test_feed_is_for_the_trainer_only(rig: Rig) -> None:
    request = StreamTrainingDataRequest(app_id=7, space="s")
    for metadata in (rig.key(), rig.token("registry", 7)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.training.StreamTrainingData(request, metadata=metadata).read()
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.training.StreamTrainingData(request, metadata=rig.token("trainer", 8)).read()
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
        bad = StreamTrainingDataRequest(app_id=7, space="s", cursor="nonsense")
        await rig.training.StreamTrainingData(bad, metadata=rig.token("trainer", 7)).read()


async def test_feed_loses_nothing_when_two_hundred_write_at_once(rig: Rig) -> None:
    await rig.create_concepts("glass")
    replica = Replica(rig)
    writing = True

    async def follow() -> None:
        while writing:
            await replica.pull()
            await asyncio.sleep(0)

    async def write(writer: int) -> None:
        [result] = await rig.create(
            new_input(picture(writer), f"w{writer}", annotations=[Annotation(concept="glass", number=writer)])
        )
        assert result.status.code == 0

    follower = asyncio.create_task(follow())
    await asyncio.gather(*(write(writer) for writer in range(200)))
    await rig.indexed()
    writing = False
    await follower
    await replica.pull()

    labels = sorted(replica.labels(uid)["glass"] for uid in replica.inputs)
    assert labels == [float(writer) for writer in range(200)]
    assert all(one.vector for one in replica.inputs.values())


async def test_stream_ends_with_the_newest_label_when_another_transaction_was_writing(rig: Rig) -> None:
    await rig.create(new_input(picture(1), "seen"))
    await rig.indexed()
    async with _open_transaction(rig) as late:
        uid = uuid4()
        await late.execute(
            """
            WITH new AS (
                INSERT INTO inputs (app_id, uid, sha256, test, source_url, actor)
                SELECT app_id, $1, sha256, false, '', '' FROM inputs RETURNING app_id, id
            )
            INSERT INTO input_changes (app_id, input_id) SELECT app_id, id FROM new
            """,
            uid,
        )
        await rig.create_concepts("glass")
        [younger] = await rig.create(new_input(picture(2), annotations=[Annotation(concept="glass")]))
        parts = _stream(rig).__aiter__()
        first = await anext(parts)
        assert len(first.inputs) == 1
        assert first.next_cursor == ""
    rest = [part async for part in parts]

    told = {one.input_uid: one for part in rest for one in part.inputs}
    assert rest[-1].next_cursor
    assert str(uid) in told
    assert [label.concept for label in told[younger.input.uid].labels] == ["glass"]


async def test_stream_ends_at_once_when_only_later_transactions_write(rig: Rig) -> None:
    await rig.create(new_input(picture(1)))
    await rig.indexed()
    replica = Replica(rig)
    async with _open_transaction(rig) as late:
        await late.execute("SELECT pg_current_xact_id()")
        assert len(await replica.pull()) == 1


async def test_stream_gives_no_cursor_when_a_transaction_writes_for_too_long(start: Start) -> None:
    rig = await start(feed_wait_seconds=0.1)
    await rig.create(new_input(picture(1)))
    await rig.indexed()
    async with _open_transaction(rig) as late:
        await late.execute("SELECT pg_current_xact_id()")
        await rig.create(new_input(picture(2)))
        await rig.indexed()
        stream = _stream(rig)
        assert (await stream.read()).next_cursor == ""
        with failing(grpc.StatusCode.UNAVAILABLE, "FEED_BEHIND"):
            await stream.read()
    assert len(await Replica(rig).pull()) == 2


def _stream(rig: Rig) -> "grpc.aio.UnaryStreamCall[StreamTrainingDataRequest, StreamTrainingDataResponse]":
    request = StreamTrainingDataRequest(app_id=APP_IDS["a"], space=rig.registry.base_model.space)
    return rig.training.StreamTrainingData(request, metadata=rig.token("trainer", APP_IDS["a"]))


@asynccontextmanager
async def _open_transaction(rig: Rig) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(rig.database.admin_url, server_settings={"search_path": "dataset,public"})
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def test_pictures_stream_as_uploaded_and_in_order_when_some_are_gone(rig: Rig) -> None:
    contents = [picture(number) for number in range(1, 7)]
    uids = [one.input.uid for one in await rig.create(*map(new_input, contents))]
    await rig.indexed()
    (gone,) = (key for key in rig.objects() if key.endswith(hashlib.sha256(contents[1]).hexdigest()))
    rig.bucket.client.remove_object(rig.bucket.name, gone)
    asked = [uids[4], str(uuid4()), uids[1], "nonsense", uids[0], uids[5]]
    request = StreamPicturesRequest(app_id=7, input_uids=asked)
    metadata = rig.token("trainer", 7)
    got = [(one.input_uid, one.content) async for one in rig.training.StreamPictures(request, metadata=metadata)]
    assert got == [(uids[place], contents[place]) for place in (4, 0, 5)]
    with failing(grpc.StatusCode.PERMISSION_DENIED):
        await rig.training.StreamPictures(request, metadata=rig.token("trainer", 8)).read()
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_INPUTS"):
        many = StreamPicturesRequest(app_id=7, input_uids=[str(uuid4())] * 1001)
        await rig.training.StreamPictures(many, metadata=metadata).read()
    other = StreamPicturesRequest(app_id=8, input_uids=uids)
    streamed = rig.training.StreamPictures(other, metadata=rig.token("trainer", 8))
    assert [one async for one in streamed] == []


async def test_inputs_say_the_same_when_they_are_asked_for_side_by_side(rig: Rig) -> None:
    await rig.create_concepts("glass", "size")
    both = [Annotation(concept="glass", positive=False), Annotation(concept="size", number=1.0)]
    await rig.create(
        new_input(picture(1), annotations=both),
        new_input(picture(2), annotations=[Annotation(concept="glass")], test=True),
        new_input(picture(3), annotations=[Annotation(concept="glass")]),
        new_input(picture(4)),
    )
    await rig.indexed()
    replica = Replica(rig)
    await replica.pull()
    request = StreamTrainingDataRequest(
        app_id=APP_IDS["a"], space=rig.registry.base_model.space, cursor="", side_by_side=True
    )
    stream = rig.training.StreamTrainingData(request, metadata=rig.token("trainer", APP_IDS["a"]))
    messages = [message async for message in stream]
    assert messages[-1].next_cursor == replica.cursor
    found = {one.input_uid: one for message in messages for one in message.inputs}
    assert [list(one.labels) for one in found.values()] == [[]]
    for message in messages:
        complete = message.complete
        vectors = np.frombuffer(complete.vectors, "<f2").reshape(len(complete.input_uids), -1)
        for place, uid in enumerate(complete.input_uids):
            found[uid] = TrainingInput(
                input_uid=uid,
                sha256=complete.sha256s[32 * place : 32 * (place + 1)],
                test=place in complete.tests,
                vector=vectors[place].tobytes(),
                labels=complete.label_sets[complete.labels[place]].labels,
            )
    assert found == replica.inputs
