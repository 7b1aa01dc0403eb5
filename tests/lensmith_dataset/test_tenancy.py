"""Tenancy: an app sees nothing of another, by RPC or by SQL; a deleted app leaves nothing."""

import hashlib

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1.events_pb2 import AppDeleted, Event
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.annotation_service_pb2 import AnnotateRequest, InputAnnotations, ListAnnotationsRequest
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_api.v1.concept_service_pb2 import (
    DeleteConceptsRequest,
    GetConceptRequest,
    ListConceptsRequest,
    UpdateConceptRequest,
)
from lensmith_api.v1.input_pb2 import Input
from lensmith_api.v1.input_service_pb2 import (
    DeleteInputsRequest,
    GetImageRequest,
    GetInputCountsRequest,
    GetInputRequest,
    ListInputsRequest,
    UpdateInputRequest,
)
from lensmith_platform import bus
from tests.lensmith_dataset.conftest import APP_IDS, Rig, new_input, reason_of
from tests.pictures import picture
from tests.polling import until

TABLES = (
    "concepts",
    "inputs",
    "annotations",
    "embeddings",
    "general_concepts",
    "spaces",
    "missing_embeddings",
    "input_changes",
    "requests",
    "blobs",
    "apps",
)


@pytest.fixture
async def full(rig: Rig) -> Rig:
    """App a has one of everything, and so has app b."""
    rig.inference.general[hashlib.sha256(picture(1)).digest()] = [ConceptScore(concept="dog", value=0.5)]
    for app in ("a", "b"):
        await rig.create_concepts("glass", app=app)
        item = new_input(picture(1), f"of-{app}", annotations=[Annotation(concept="glass")])
        await rig.create(item, app=app, request_id="r")
        await rig.indexed(app)
        await rig.sql(
            """
            WITH missing AS (INSERT INTO missing_embeddings (app_id, space, input_id) VALUES ($1, 'left', 1))
            INSERT INTO spaces (app_id, space, base_model, dimensions, role, revision, has_work)
            VALUES ($1, 'left', 'baseModels/left', 4, 'retired', 1, false)
            """,
            APP_IDS[app],
        )
    return rig


async def test_app_is_closed_to_the_key_of_another(full: Rig) -> None:
    mask = FieldMask(paths=["test"])
    calls = [
        (full.inputs.GetInput, GetInputRequest(name="apps/a/inputs/of-a")),
        (full.inputs.ListInputs, ListInputsRequest(parent="apps/a")),
        (full.inputs.GetImage, GetImageRequest(name="apps/a/inputs/of-a")),
        (full.inputs.GetInputCounts, GetInputCountsRequest(parent="apps/a")),
        (full.inputs.DeleteInputs, DeleteInputsRequest(parent="apps/a", input_ids=["of-a"])),
        (
            full.inputs.UpdateInput,
            UpdateInputRequest(input=Input(name="apps/a/inputs/of-a", test=True), update_mask=mask),
        ),
        (full.concepts.GetConcept, GetConceptRequest(name="apps/a/concepts/glass")),
        (full.concepts.ListConcepts, ListConceptsRequest(parent="apps/a")),
        (full.concepts.DeleteConcepts, DeleteConceptsRequest(parent="apps/a", concept_ids=["glass"])),
        (
            full.concepts.UpdateConcept,
            UpdateConceptRequest(
                concept=Concept(name="apps/a/concepts/glass"), update_mask=FieldMask(paths=["description"])
            ),
        ),
        (full.annotations.ListAnnotations, ListAnnotationsRequest(parent="apps/a")),
        (full.annotations.Annotate, AnnotateRequest(parent="apps/a", items=[InputAnnotations(input="of-a")])),
    ]
    for call, request in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request, metadata=full.key("b"))
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED, request


async def test_names_of_another_app_mean_nothing_in_the_own_one(full: Rig) -> None:
    uid = (await full.get("apps/a/inputs/of-a")).uid

    for key in ("of-a", uid):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await full.get(f"apps/b/inputs/{key}", app="b")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    deleted = await full.inputs.DeleteInputs(
        DeleteInputsRequest(parent="apps/b", input_ids=["of-a", uid]), metadata=full.key("b")
    )
    assert [reason_of(status) for status in deleted.statuses] == ["INPUT_NOT_FOUND"] * 2
    annotated = await full.annotations.Annotate(
        AnnotateRequest(parent="apps/b", items=[InputAnnotations(input=uid)]), metadata=full.key("b")
    )
    assert [reason_of(status) for status in annotated.statuses] == ["INPUT_NOT_FOUND"]
    assert (await full.get("apps/a/inputs/of-a")).uid == uid


async def test_equal_bytes_are_stored_apart_for_each_app(full: Rig) -> None:
    found = full.objects()

    assert len(found) == 2
    assert {key.split("/")[1] for key in found} == {full.auth.apps[app].uid for app in ("a", "b")}


async def test_database_shows_and_takes_nothing_of_another_app_when_the_filter_is_left_out(full: Rig) -> None:
    connection = await asyncpg.connect(full.database.url("dataset"))
    try:
        partitions = [
            row["name"]
            for row in await connection.fetch(
                "SELECT relid::regclass::text AS name FROM pg_partition_tree('embeddings') WHERE isleaf"
            )
        ]
        for table in TABLES:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
        async with connection.transaction():
            await connection.execute("SELECT set_config('lensmith.app', '8', true)")
            for table in (*TABLES, *partitions):
                apps = await connection.fetch(f"SELECT DISTINCT app_id FROM {table}")
                assert [row["app_id"] for row in apps] in ([8], []), table
            for table in TABLES:
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1, table
                assert await connection.execute(f"UPDATE {table} SET app_id = app_id WHERE app_id = 7") == "UPDATE 0"
                assert await connection.execute(f"DELETE FROM {table} WHERE app_id = 7") == "DELETE 0"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(
                    "INSERT INTO concepts (app_id, own_id, search_text, actor) VALUES (7, 'x', 'x', 'x')"
                )
    finally:
        await connection.close()


async def test_nothing_is_left_when_an_app_is_deleted(full: Rig) -> None:
    identity = full.auth.apps["a"]
    sender = await bus.connect(full.settings.nats_url.get_secret_value(), wait_seconds=10)
    async with sender:
        await sender.publish(Event(app_id=7, app_deleted=AppDeleted(app_uid=identity.uid)))

        async def gone() -> bool:
            return all(f"apps/{identity.uid}/" not in key for key in full.objects())

        await until(gone)
    for table in TABLES[:-1]:
        apps = await full.sql(f"SELECT DISTINCT app_id FROM {table}")
        assert [row["app_id"] for row in apps] == [8], table
    assert (await full.get("apps/b/inputs/of-b", app="b")).name == "apps/b/inputs/of-b"
