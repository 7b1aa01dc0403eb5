"""Inputs: read, listed, changed, deleted, shown."""

import asyncio
import hashlib
from datetime import UTC, datetime

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.input_pb2 import Input
from lensmith_api.v1.input_service_pb2 import (
    DeleteInputsRequest,
    GetImageRequest,
    ListInputsRequest,
    UpdateInputRequest,
)
from lensmith_platform.errors import UnauthenticatedError
from lensmith_platform.service_auth import TokenVerifier
from tests.lensmith_dataset.conftest import FAILED, READY, Rig, Start, new_input, reason_of
from tests.pictures import picture
from tests.polling import until
from tests.rpc_errors import failing


async def _list(rig: Rig, **query: object) -> list[Input]:
    found: list[Input] = []
    token = ""
    while True:
        page = await rig.inputs.ListInputs(
            ListInputsRequest(parent="apps/a", page_token=token, **query), metadata=rig.key()
        )
        found.extend(page.inputs)
        token = page.next_page_token
        if not token:
            return found


async def test_inputs_are_listed_newest_first_when_pages_are_small(rig: Rig) -> None:
    for start in (0, 3):
        await rig.create(*(new_input(picture(seed), f"i{seed}") for seed in range(start, start + 3)))

    found = await _list(rig, page_size=2)

    names = [one.name.rpartition("/")[2] for one in found]
    assert sorted(names) == [f"i{seed}" for seed in range(6)]
    assert {*names[:3]} == {"i3", "i4", "i5"}


async def test_inputs_are_filtered_when_status_or_concept_is_given(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal")
    await rig.create(
        new_input(picture(1), "p", annotations=[Annotation(concept="glass")]),
        new_input(picture(2), "n", annotations=[Annotation(concept="glass", positive=False)]),
        new_input(picture(3), "m", annotations=[Annotation(concept="metal")]),
    )
    await rig.indexed()

    assert [one.name for one in await _list(rig, concept="glass")] == ["apps/a/inputs/p"]
    assert await _list(rig, concept="no such") == []
    assert len(await _list(rig, status=READY, page_size=1)) == 3
    assert await _list(rig, status=FAILED) == []


async def test_page_token_is_refused_when_the_query_changed(rig: Rig) -> None:
    await rig.create(*(new_input(picture(seed)) for seed in range(3)))
    request = ListInputsRequest(parent="apps/a", page_size=1)
    token = (await rig.inputs.ListInputs(request, metadata=rig.key())).next_page_token

    for changed in ({"status": READY, "page_token": token}, {"page_token": "nonsense"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.inputs.ListInputs(ListInputsRequest(parent="apps/a", **changed), metadata=rig.key())
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_input_changes_when_the_mask_names_its_fields(rig: Rig) -> None:
    [result] = await rig.create(new_input(picture(1), "x"))
    metadata = Struct()
    metadata.update({"a": [1, "ü", None]})
    new = Input(name="apps/a/inputs/x", metadata=metadata, test=True, etag=result.input.etag)

    changed = await rig.inputs.UpdateInput(
        UpdateInputRequest(input=new, update_mask=FieldMask(paths=["metadata", "test"])), metadata=rig.key()
    )

    assert (changed.test, changed.metadata["a"][1]) == (True, "ü")
    assert changed.etag != result.input.etag
    with failing(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await rig.inputs.UpdateInput(
            UpdateInputRequest(input=new, update_mask=FieldMask(paths=["test"])), metadata=rig.key()
        )
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "UPDATE_MASK_INVALID"):
        await rig.inputs.UpdateInput(
            UpdateInputRequest(input=new, update_mask=FieldMask(paths=["sha256"])), metadata=rig.key()
        )
    cleared = await rig.inputs.UpdateInput(
        UpdateInputRequest(input=Input(name=new.name), update_mask=FieldMask(paths=["metadata"])), metadata=rig.key()
    )
    assert cleared.test
    assert not cleared.HasField("metadata")


async def test_unknown_input_is_not_found(rig: Rig) -> None:
    for name in ("apps/a/inputs/none", "apps/a/inputs/3b241101-e2bb-4255-8caf-4136c566a962"):
        with failing(grpc.StatusCode.NOT_FOUND, "INPUT_NOT_FOUND"):
            await rig.get(name)


async def test_input_is_gone_when_it_is_deleted_by_own_id_or_uid(start: Start) -> None:
    rig = await start(deletion_grace_hours=0, purge_interval_seconds=0.1)
    await rig.create_concepts("glass")
    first, second = await rig.create(
        new_input(picture(1), "x", annotations=[Annotation(concept="glass")]), new_input(picture(2))
    )
    await rig.indexed()

    response = await rig.inputs.DeleteInputs(
        DeleteInputsRequest(parent="apps/a", input_ids=["x", second.input.uid, "none", "x"]),
        metadata=rig.key(),
    )

    reasons = ["", "", "INPUT_NOT_FOUND", ""]
    assert [reason_of(status) for status in response.statuses] == reasons
    assert await _list(rig) == []
    await until(lambda: _is(rig.objects, set()))
    for table in ("inputs", "annotations", "embeddings", "blobs"):
        assert await rig.sql(f"SELECT FROM {table}") == []
    [again] = await rig.create(new_input(picture(1), "x"))
    assert (again.duplicate, again.input.uid != first.input.uid) == (False, True)


async def test_bytes_are_kept_when_another_input_uses_them_or_grace_lasts(start: Start) -> None:
    rig = await start(purge_interval_seconds=0.05)
    await rig.create(new_input(picture(1), "x"), new_input(picture(1), "y"), new_input(picture(2), "z"))
    await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=["x", "z"]), metadata=rig.key())
    marks = await rig.sql("SELECT deleted_at IS NOT NULL AS deleted FROM blobs ORDER BY 1")
    assert [row["deleted"] for row in marks] == [False, True]

    await rig.running.service.background.purge.run_once()

    assert len(rig.objects()) == 2
    [back] = await rig.create(new_input(picture(2)))
    assert back.status.code == 0
    assert await rig.sql("SELECT FROM blobs WHERE deleted_at IS NOT NULL") == []


async def test_upload_keeps_its_bytes_when_it_races_deletes_and_purges(start: Start) -> None:
    rig = await start(deletion_grace_hours=0, purge_interval_seconds=0.01)

    async def upload_and_delete() -> None:
        for _ in range(8):
            [result] = await rig.create(new_input(picture(1)))
            assert reason_of(result.status) in ("", "INPUT_DELETED")
            await rig.inputs.DeleteInputs(
                DeleteInputsRequest(parent="apps/a", input_ids=[result.input.uid]), metadata=rig.key()
            )

    await asyncio.gather(*(upload_and_delete() for _ in range(4)))
    [last] = await rig.create(new_input(picture(1)))
    await rig.running.service.background.purge.run_once()

    assert rig.objects() == {f"apps/{rig.auth.apps['a'].uid}/blobs/{last.input.sha256}"}
    await rig.indexed()
    assert (await rig.counts()).ready == 1


async def test_bytes_without_an_input_go_when_grace_is_over(start: Start) -> None:
    rig = await start(deletion_grace_hours=0, purge_interval_seconds=3600)
    await rig.create_concepts("glass")
    # The picture is fine and stored, and then the item is refused for its annotation.
    [result] = await rig.create(new_input(picture(1), annotations=[Annotation(concept="none")]))
    assert reason_of(result.status) == "CONCEPT_NOT_FOUND"

    await rig.running.service.background.purge.run_once()

    assert rig.objects() == set()
    assert await rig.sql("SELECT FROM blobs") == []


async def test_upload_waits_when_the_same_bytes_are_being_purged(start: Start) -> None:
    rig = await start(purge_interval_seconds=3600)
    await rig.create(new_input(picture(1), "x"))
    await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=["x"]), metadata=rig.key())
    # A purge has claimed the blob, and is about to delete its bytes.
    await rig.sql("UPDATE blobs SET purging_at = now()")

    upload = asyncio.create_task(rig.create(new_input(picture(1))))
    done, _ = await asyncio.wait([upload], timeout=0.5)
    assert not done
    [key] = rig.objects()
    rig.bucket.client.remove_object(rig.bucket.name, key)
    await rig.sql("DELETE FROM blobs")

    [result] = await upload
    assert (result.status.code, result.duplicate) == (0, False)
    assert rig.objects() == {key}
    await rig.indexed()
    assert (await rig.counts()).ready == 1


async def test_purge_is_completed_when_the_one_before_died(start: Start) -> None:
    rig = await start(deletion_grace_hours=0, purge_interval_seconds=3600, purge_lease_seconds=60)
    await rig.create(new_input(picture(1), "x"), new_input(picture(2), "y"))
    await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=["x", "y"]), metadata=rig.key())
    uid = rig.auth.apps["a"].uid
    await rig.sql(
        "UPDATE blobs SET purging_at = now() - interval '59 s' WHERE sha256 = $1", hashlib.sha256(picture(1)).digest()
    )
    await rig.sql(
        "UPDATE blobs SET purging_at = now() - interval '61 s' WHERE sha256 = $1", hashlib.sha256(picture(2)).digest()
    )

    await rig.running.service.background.purge.run_once()

    assert rig.objects() == {f"apps/{uid}/blobs/{hashlib.sha256(picture(1)).hexdigest()}"}


async def test_request_ids_are_forgotten_when_their_time_is_over(start: Start) -> None:
    rig = await start(purge_interval_seconds=3600)
    await rig.create(new_input(picture(1)), request_id="old")
    await rig.create(new_input(picture(2)), request_id="new")
    await rig.sql("UPDATE requests SET created_at = now() - interval '25 h' WHERE request_id = 'old'")

    await rig.running.service.background.purge.run_once()

    assert [row["request_id"] for row in await rig.sql("SELECT request_id FROM requests")] == ["new"]


async def test_image_link_is_signed_for_the_gateway(rig: Rig) -> None:
    [result] = await rig.create(new_input(picture(1, kind="PNG"), "x"))

    response = await rig.inputs.GetImage(GetImageRequest(name="apps/a/inputs/x"), metadata=rig.key())

    assert response.path.startswith("/images/")
    token = response.path.removeprefix("/images/")
    public = serialization.load_pem_public_key((rig.directory / "keys" / "dataset.pub").read_bytes())
    claims = jwt.decode(token, public, algorithms=["EdDSA"], audience="gateway", issuer="dataset")
    assert claims["sub"] == f"apps/{rig.auth.apps['a'].uid}/blobs/{result.input.sha256}"
    assert claims["mime"] == "image/png"
    assert claims["exp"] == response.expire_time.seconds
    assert 0 < claims["exp"] - datetime.now(UTC).timestamp() <= 301
    with pytest.raises(UnauthenticatedError):  # it opens nothing but a picture
        TokenVerifier(rig.directory / "keys", "gateway").verify(token)


async def _is(read: object, expected: object) -> bool:
    return await asyncio.to_thread(read) == expected  # type: ignore[arg-type]
