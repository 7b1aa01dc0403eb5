"""Counting what was annotated since a model was trained, and naming inputs."""

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1.training_data_service_pb2 import (
    CountNewAnnotationsRequest,
    CountTrainingDataRequest,
    NameInputsRequest,
)
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.annotation_service_pb2 import AnnotateAction, AnnotateRequest, InputAnnotations
from lensmith_api.v1.input_pb2 import Input
from lensmith_api.v1.input_service_pb2 import UpdateInputRequest
from lensmith_dataset.store import new_annotations
from lensmith_stack.background import BackgroundServers
from tests.killing import kill_server
from tests.lensmith_dataset.conftest import APP_IDS, Rig, new_input
from tests.lensmith_dataset.test_training_data import _open_transaction
from tests.pictures import picture
from tests.rpc_errors import failing

APP_ID = APP_IDS["a"]


async def count(rig: Rig, cursor: str, *concepts: str) -> tuple[int, str]:
    response = await rig.training.CountNewAnnotations(
        CountNewAnnotationsRequest(app_id=APP_ID, annotations_cursor=cursor, concepts=concepts),
        metadata=rig.token("registry", APP_ID),
    )
    return response.count, response.annotations_cursor


async def annotate(rig: Rig, input_id: str, *annotations: Annotation) -> None:
    item = InputAnnotations(input=input_id, action=AnnotateAction.ANNOTATE_ACTION_MERGE, annotations=annotations)
    response = await rig.annotations.Annotate(AnnotateRequest(parent="apps/a", items=[item]), metadata=rig.key())
    assert [status.code for status in response.statuses] == [0]


async def test_each_new_annotation_counts_once_when_transactions_commit_in_any_order(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal")
    glass, metal = Annotation(concept="glass"), Annotation(concept="metal")
    await rig.create(new_input(picture(1), "one", annotations=[glass]), new_input(picture(2), "two"))
    assert (await count(rig, ""))[0] == 1
    counted = await rig.training.CountTrainingData(
        CountTrainingDataRequest(app_id=APP_ID, space="s"), metadata=rig.token("registry", APP_ID)
    )
    cursor = counted.annotations_cursor
    assert (await count(rig, cursor))[0] == 0

    await annotate(rig, "one", glass)
    assert (await count(rig, cursor))[0] == 0, "what is said again is nothing new"
    await annotate(rig, "one", Annotation(concept="glass", positive=False))
    await annotate(rig, "one", glass)
    assert (await count(rig, cursor))[0] == 1
    await annotate(rig, "two", glass, metal)
    assert (await count(rig, cursor))[0] == 3
    assert (await count(rig, cursor, "metal", "unknown"))[0] == 1

    async with _open_transaction(rig) as late:
        await late.execute(
            """UPDATE annotations SET positive = false, xid = pg_current_xact_id()
               WHERE concept_id = (SELECT id FROM concepts WHERE own_id = 'metal')"""
        )
        _, between = await count(rig, cursor)
        await annotate(rig, "one", metal)
    assert (await count(rig, between))[0] == 2

    await rig.inputs.UpdateInput(
        UpdateInputRequest(input=Input(name="apps/a/inputs/two", test=True), update_mask=FieldMask(paths=["test"])),
        metadata=rig.key(),
    )
    assert (await count(rig, between))[0] == 1, "what is kept for testing trains nothing"


async def test_each_new_annotation_counts_when_postgres_crashed(rig: Rig, servers: BackgroundServers) -> None:
    await rig.create_concepts("glass")
    await rig.create(
        new_input(picture(1), "one"), new_input(picture(2), "two", annotations=[Annotation(concept="glass")])
    )
    for _ in range(20):
        async with _open_transaction(rig) as connection:
            await connection.execute("SELECT pg_current_xact_id()")
    _, cursor = await count(rig, "")
    # Ids of transactions that left nothing are forgotten, and given to others.
    await kill_server(servers, "postgres")
    async with _open_transaction(rig) as connection:
        await connection.execute("UPDATE annotations SET positive = false, xid = pg_current_xact_id()")
    async with _open_transaction(rig) as connection:
        assert await new_annotations.count(connection, APP_ID, None, cursor) == 1


async def test_annotations_are_told_that_wait_for_a_vector(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal")
    glass = Annotation(concept="glass")
    await rig.create(new_input(picture(1), annotations=[glass]))
    await rig.indexed()
    rig.inference.open.clear()
    await rig.create(
        new_input(picture(2), annotations=[glass, Annotation(concept="metal")]),
        new_input(picture(3), annotations=[glass], test=True),
        new_input(picture(4)),
    )
    space, token = rig.registry.base_model.space, rig.token("registry", APP_ID)
    for concepts, pending in (([], 2), (["glass"], 1), (["unknown"], 0)):
        new = CountNewAnnotationsRequest(app_id=APP_ID, space=space, concepts=concepts)
        everything = CountTrainingDataRequest(app_id=APP_ID, space=space, concepts=concepts)
        assert (await rig.training.CountNewAnnotations(new, metadata=token)).pending_annotations == pending
        assert (await rig.training.CountTrainingData(everything, metadata=token)).pending_annotations == pending
    rig.inference.open.set()
    await rig.indexed()
    assert (await rig.training.CountNewAnnotations(new, metadata=token)).pending_annotations == 0


async def test_cursor_is_refused_when_it_is_not_of_this_database(rig: Rig) -> None:
    for cursor in ("nonsense", "1:0:", "99999999999:99999999999:"):
        with failing(grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_INVALID"):
            await count(rig, cursor)


async def test_inputs_are_named_by_their_own_id_where_they_have_one(rig: Rig) -> None:
    first, second = await rig.create(new_input(picture(1), "one"), new_input(picture(2)))
    uids = [second.input.uid, first.input.uid, "00000000-0000-4000-8000-000000000000", "nonsense"]
    named = await rig.training.NameInputs(
        NameInputsRequest(app_id=APP_ID, input_uids=uids), metadata=rig.token("registry", APP_ID)
    )
    assert list(named.input_ids) == [uids[0], "one", uids[2], "nonsense"]
