"""Keys: what they grant, who may make them, and how they end."""

from datetime import UTC, datetime, timedelta

import asyncpg
import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.v1 import app_service_pb2
from lensmith_api.v1 import key_service_pb2 as pb
from lensmith_api.v1.key_pb2 import Key
from lensmith_platform.scopes import SCOPES
from tests.conftest import Database
from tests.lensmith_auth.conftest import OPERATOR_SECRET, Caller
from tests.polling import until
from tests.rpc_errors import failing


@pytest.fixture
async def owner(operator: Caller) -> Caller:
    return operator.with_secret((await operator.create_app("trash")).secret)


async def test_scopes_imply_what_they_say(owner: Caller) -> None:
    key = await owner.create_key("trash", ["Inputs:Delete", "Predict"])
    me = await owner.with_secret(key.secret).whoami()
    assert set(me.effective_scopes) == {"Inputs:Delete", "Inputs:Add", "Inputs:Get", "Predict"}


async def test_patch_scopes_are_taken_as_add(owner: Caller) -> None:
    key = await owner.create_key("trash", ["Models:Patch"])
    me = await owner.with_secret(key.secret).whoami()
    assert {"Models:Add", "Models:Get"} <= set(me.effective_scopes)


async def test_an_unknown_scope_is_refused_by_name(owner: Caller) -> None:
    with failing(grpc.StatusCode.INVALID_ARGUMENT) as error:
        await owner.create_key("trash", ["Predict", "Fly"])
    assert "Fly" in error.message


async def test_a_key_without_scopes_is_refused(owner: Caller) -> None:
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "SCOPES_EMPTY"):
        await owner.create_key("trash", [])


async def test_a_key_grants_no_scope_that_its_maker_lacks(owner: Caller) -> None:
    maker = owner.with_secret((await owner.create_key("trash", ["Keys:Add", "Predict"])).secret)
    await maker.create_key("trash", ["Predict"])
    with failing(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_NOT_YOURS") as error:
        await maker.create_key("trash", ["Models:Train"])
    assert "Models:Train" in error.message


async def test_a_key_changes_no_key_that_may_do_more(owner: Caller) -> None:
    maker = owner.with_secret((await owner.create_key("trash", ["Keys:Add", "Predict"])).secret)
    equal = (await owner.create_key("trash", ["Predict"])).key
    stronger = (await owner.create_key("trash", ["Predict", "Models:Train"])).key
    narrowed = FieldMask(paths=["scopes"])
    ended = FieldMask(paths=["expire_time"])
    for mask in (narrowed, ended):
        key = Key(name=stronger.name, scopes=["Predict"])
        key.expire_time.FromDatetime(datetime.now(UTC))
        with failing(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_NOT_YOURS"):
            await maker.keys.UpdateKey(pb.UpdateKeyRequest(key=key, update_mask=mask), metadata=maker.metadata)
    request = pb.UpdateKeyRequest(key=Key(name=equal.name, scopes=["Predict"]), update_mask=narrowed)
    await maker.keys.UpdateKey(request, metadata=maker.metadata)


async def test_a_key_that_ends_makes_none_that_lives_longer_and_does_not_prolong_itself(owner: Caller) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    key = Key(scopes=["Keys:Add"])
    key.expire_time.FromDatetime(end)
    made = await owner.keys.CreateKey(pb.CreateKeyRequest(parent="apps/trash", key=key), metadata=owner.metadata)
    guest = owner.with_secret(made.secret)
    await guest.keys.CreateKey(pb.CreateKeyRequest(parent="apps/trash", key=key), metadata=guest.metadata)
    for later in (None, end + timedelta(seconds=1)):
        longer = Key(name=made.key.name, scopes=["Keys:Add"])
        if later:
            longer.expire_time.FromDatetime(later)
        with failing(grpc.StatusCode.PERMISSION_DENIED, "EXPIRY_NOT_YOURS"):
            await guest.keys.CreateKey(pb.CreateKeyRequest(parent="apps/trash", key=longer), metadata=guest.metadata)
        request = pb.UpdateKeyRequest(key=longer, update_mask=FieldMask(paths=["expire_time"]))
        with failing(grpc.StatusCode.PERMISSION_DENIED, "EXPIRY_NOT_YOURS"):
            await guest.keys.UpdateKey(request, metadata=guest.metadata)


async def test_a_missing_scope_is_named(owner: Caller) -> None:
    reader = owner.with_secret((await owner.create_key("trash", ["Predict"])).secret)
    with failing(grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING") as error:
        await reader.keys.ListKeys(pb.ListKeysRequest(parent="apps/trash"), metadata=reader.metadata)
    assert "Keys:Get" in error.message


async def test_no_key_of_an_app_reaches_the_operator_or_another_app(operator: Caller, owner: Caller) -> None:
    await operator.create_app("other")
    with failing(grpc.StatusCode.PERMISSION_DENIED):
        await owner.apps.ListApps(app_service_pb2.ListAppsRequest(), metadata=owner.metadata)
    with failing(grpc.StatusCode.PERMISSION_DENIED, "KEY_NOT_FOR_APP"):
        await owner.keys.ListKeys(pb.ListKeysRequest(parent="apps/other"), metadata=owner.metadata)


async def test_a_deleted_key_stops_at_once(owner: Caller) -> None:
    made = await owner.create_key("trash", ["Predict"])
    holder = owner.with_secret(made.secret)
    await holder.whoami()
    await owner.keys.DeleteKey(pb.DeleteKeyRequest(name=made.key.name), metadata=owner.metadata)

    async def refused() -> bool:
        try:
            await holder.whoami()
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    await until(refused)


async def test_a_narrowed_key_loses_its_scopes(owner: Caller) -> None:
    made = await owner.create_key("trash", ["Predict", "Keys:Get"])
    holder = owner.with_secret(made.secret)
    await holder.keys.ListKeys(pb.ListKeysRequest(parent="apps/trash"), metadata=holder.metadata)
    request = pb.UpdateKeyRequest(
        key=Key(name=made.key.name, scopes=["Predict"]), update_mask=FieldMask(paths=["scopes"])
    )
    await owner.keys.UpdateKey(request, metadata=owner.metadata)

    async def narrowed() -> bool:
        try:
            await holder.keys.ListKeys(pb.ListKeysRequest(parent="apps/trash"), metadata=holder.metadata)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.PERMISSION_DENIED
        return False

    await until(narrowed)


async def test_an_expired_key_is_told_so(owner: Caller, database: Database) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    key = Key(scopes=["Predict"])
    key.expire_time.FromDatetime(expiry)
    request = pb.CreateKeyRequest(parent="apps/trash", key=key)
    made = await owner.keys.CreateKey(request, metadata=owner.metadata)
    connection = await asyncpg.connect(database.admin_url)
    try:
        await connection.execute(
            "UPDATE auth.keys SET expires_at = now() - interval '1 s' WHERE uid = $1", made.key.uid
        )
    finally:
        await connection.close()
    with failing(grpc.StatusCode.UNAUTHENTICATED, "KEY_EXPIRED"):
        await owner.with_secret(made.secret).whoami()


async def test_an_expiry_in_the_past_is_refused(owner: Caller) -> None:
    key = Key(scopes=["Predict"])
    key.expire_time.FromDatetime(datetime.now(UTC) - timedelta(hours=1))
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "EXPIRY_PAST"):
        await owner.keys.CreateKey(pb.CreateKeyRequest(parent="apps/trash", key=key), metadata=owner.metadata)


async def test_a_repeated_request_returns_the_key_without_its_secret(owner: Caller) -> None:
    first = await owner.create_key("trash", ["Predict"], request_id="once")
    again = await owner.create_key("trash", ["Predict"], request_id="once")
    assert again.key.uid == first.key.uid
    assert again.already_issued
    assert not again.secret


async def test_a_request_id_is_refused_for_another_key(owner: Caller) -> None:
    await owner.create_key("trash", ["Predict"], request_id="once")
    with failing(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await owner.create_key("trash", ["Models:Train"], request_id="once")


async def test_use_of_a_key_is_noted(owner: Caller) -> None:
    made = await owner.create_key("trash", ["Predict"])
    assert not made.key.HasField("last_used_time")
    me = await owner.with_secret(made.secret).whoami()
    assert me.key.HasField("last_used_time")


async def test_the_scheme_may_be_written_in_any_case(owner: Caller) -> None:
    for scheme in ("key", "KEY", "Bearer", "bearer"):
        assert (await Caller(owner.channel, owner.secret, scheme).whoami()).app == "apps/trash"


@pytest.mark.parametrize(("secret", "reason"), [("", "CREDENTIALS_MISSING"), ("lsk_nobody", "KEY_UNKNOWN")])
async def test_bad_credentials_are_told_apart(owner: Caller, secret: str, reason: str) -> None:
    with failing(grpc.StatusCode.UNAUTHENTICATED, reason):
        await owner.with_secret(secret).whoami()


async def test_no_secret_is_stored(owner: Caller, database: Database) -> None:
    made = await owner.create_key("trash", ["Predict"])
    connection = await asyncpg.connect(database.admin_url)
    try:
        rows = await connection.fetch("SELECT * FROM auth.keys")
    finally:
        await connection.close()
    stored = " ".join(str(value) for row in rows for value in row.values())
    assert made.secret not in stored
    assert OPERATOR_SECRET not in stored
    assert made.key.prefix in stored


async def test_scopes_are_listed_with_what_they_allow(owner: Caller) -> None:
    listed = {s.scope: s for s in (await owner.keys.ListScopes(pb.ListScopesRequest())).scopes}
    assert list(listed) == list(SCOPES)
    assert "lensmith.v1.InferenceService/Predict" in listed["Predict"].methods
    assert list(listed["Predict"].methods) == [
        "lensmith.v1.InferenceService/Embed",
        "lensmith.v1.InferenceService/Explain",
        "lensmith.v1.InferenceService/Predict",
    ]
    assert "lensmith.v1.InputService/GetInput" in listed["Inputs:Delete"].methods
    # It needs two scopes.
    both = "lensmith.v1.ModelService/ListEvaluatedInputs"
    assert both in listed["All"].methods
    assert both not in listed["Models:Get"].methods


async def test_keys_are_listed_in_pages_and_a_foreign_token_is_refused(operator: Caller, owner: Caller) -> None:
    for _ in range(3):
        await owner.create_key("trash", ["Predict"])
    request = pb.ListKeysRequest(parent="apps/trash", page_size=3)
    first = await owner.keys.ListKeys(request, metadata=owner.metadata)
    assert len(first.keys) == 3
    request.page_token = first.next_page_token
    rest = await owner.keys.ListKeys(request, metadata=owner.metadata)
    assert len(rest.keys) == 1
    other = operator.with_secret((await operator.create_app("other")).secret)
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await other.keys.ListKeys(
            pb.ListKeysRequest(parent="apps/other", page_token=first.next_page_token), metadata=other.metadata
        )
