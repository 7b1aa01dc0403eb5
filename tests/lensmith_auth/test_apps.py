"""Apps: created with a key, listed in pages, changed, deleted with everything."""

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.v1 import app_service_pb2 as pb
from lensmith_api.v1.app_pb2 import App
from tests.lensmith_auth.conftest import Caller
from tests.rpc_errors import failing


async def test_a_new_app_gets_a_key_that_may_do_everything_in_it(operator: Caller) -> None:
    made = await operator.create_app("trash")
    assert made.app.name == "apps/trash"
    assert list(made.key.scopes) == ["All"]
    me = await operator.with_secret(made.secret).whoami()
    assert me.app == "apps/trash"
    assert {"Predict", "Inputs:Add", "Keys:Delete", "Models:Train"} <= set(me.effective_scopes)
    assert not me.operator


async def test_only_the_operator_creates_and_lists_apps(operator: Caller) -> None:
    owner = operator.with_secret((await operator.create_app("trash")).secret)
    with failing(grpc.StatusCode.PERMISSION_DENIED):
        await owner.create_app("other")
    with failing(grpc.StatusCode.PERMISSION_DENIED):
        await owner.apps.ListApps(pb.ListAppsRequest(), metadata=owner.metadata)


async def test_a_name_is_refused_when_it_is_taken(operator: Caller) -> None:
    await operator.create_app("trash")
    with failing(grpc.StatusCode.ALREADY_EXISTS, "APP_EXISTS"):
        await operator.create_app("trash")


@pytest.mark.parametrize("name", ["Trash", "-trash", "a/b", "", "a" * 64, "trash\n"])
async def test_a_name_is_refused_when_it_is_no_name(operator: Caller, name: str) -> None:
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"):
        await operator.create_app(name)


async def test_a_repeated_request_returns_the_first_app_without_its_secret(operator: Caller) -> None:
    first = await operator.create_app("trash", request_id="once")
    again = await operator.create_app("trash", request_id="once")
    assert again.app.uid == first.app.uid
    assert again.key.uid == first.key.uid
    assert not again.secret


async def test_a_request_id_is_refused_for_another_app(operator: Caller) -> None:
    await operator.create_app("trash", request_id="once")
    with failing(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await operator.create_app("other", request_id="once")


async def test_apps_are_listed_in_pages_in_order_of_creation(operator: Caller) -> None:
    names = [f"app-{number}" for number in range(5)]
    for name in names:
        await operator.create_app(name)
    found, token = [], ""
    while True:
        request = pb.ListAppsRequest(page_size=2, page_token=token)
        page = await operator.apps.ListApps(request, metadata=operator.metadata)
        assert len(page.apps) <= 2
        found += [app.name for app in page.apps]
        if not (token := page.next_page_token):
            break
    assert found == ["apps/main", *(f"apps/{name}" for name in names)]


async def test_an_update_is_refused_when_the_app_changed_meanwhile(operator: Caller) -> None:
    app = (await operator.create_app("trash")).app
    mask = FieldMask(paths=["display_name"])
    first = pb.UpdateAppRequest(app=App(name=app.name, display_name="one", etag=app.etag), update_mask=mask)
    changed = await operator.apps.UpdateApp(first, metadata=operator.metadata)
    assert changed.display_name == "one"
    with failing(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await operator.apps.UpdateApp(first, metadata=operator.metadata)


async def test_a_deleted_app_is_gone_with_its_keys_and_its_name_is_free(operator: Caller) -> None:
    made = await operator.create_app("trash")
    owner = operator.with_secret(made.secret)
    await owner.whoami()
    await owner.apps.DeleteApp(pb.DeleteAppRequest(name="apps/trash"), metadata=owner.metadata)
    with failing(grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN"):
        await owner.whoami()
    with failing(grpc.StatusCode.NOT_FOUND, "APP_NOT_FOUND"):
        await operator.apps.GetApp(pb.GetAppRequest(name="apps/trash"), metadata=operator.metadata)
    assert (await operator.create_app("trash")).app.uid != made.app.uid


async def test_the_public_app_cannot_be_deleted_even_by_the_operator(operator: Caller) -> None:
    with failing(grpc.StatusCode.FAILED_PRECONDITION, "MAIN_APP_NEEDED"):
        await operator.apps.DeleteApp(pb.DeleteAppRequest(name="apps/main"), metadata=operator.metadata)
    await operator.apps.GetApp(pb.GetAppRequest(name="apps/main"), metadata=operator.metadata)
