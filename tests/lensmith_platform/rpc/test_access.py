"""Who may call what: walked over every RPC of the contract."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from lensmith_api.v1 import access_pb2
from lensmith_platform.access_table import AccessError, Rule, access_table
from lensmith_platform.errors import ForbiddenError, LensmithError, from_rpc_error
from lensmith_platform.scopes import SCOPES, expand
from lensmith_platform.server import StartError
from lensmith_platform.service_auth import TokenSigner


async def outcome(work):
    """Give what a handler knew of the call, or the typed error that the caller got."""
    try:
        return await work
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)


def passed(result):
    """Tell whether a call got past access: requests here are empty, so what the contract requires is missing."""
    return not isinstance(result, LensmithError) or result.reason == "FIELD_INVALID"


async def test_every_rpc_asks_for_credentials_when_none_are_sent(world):
    async with world.everything() as every:
        for method in every.methods.values():
            result = await outcome(every.call(method, every.request(method), None))
            if method.rule is Rule.PUBLIC:
                assert passed(result), method.name
            else:
                assert result.reason == "CREDENTIALS_MISSING", method.name


async def test_all_scope_reaches_every_rpc_of_its_app_and_nothing_else_when_walked(world, keys):
    keys.add("all", world.trash, ["All"])
    async with world.everything() as every:
        for method in every.methods.values():
            result = await outcome(every.call(method, every.request(method), "Key all"))
            if method.rule is Rule.OPERATOR:
                assert result.reason == "OPERATOR_ONLY", method.name
            elif method.rule is Rule.SERVICE:
                assert result.reason == "SERVICES_ONLY", method.name
            else:
                assert passed(result), (method.name, result)


async def test_other_app_is_refused_on_every_rpc_when_walked(world, keys):
    keys.add("all", world.fruit, ["All"])
    async with world.everything() as every:
        walked = [method for method in every.methods.values() if method.app_fields]
        assert len(walked) > 20
        for method in walked:
            result = await outcome(every.call(method, every.request(method), "Key all"))
            assert isinstance(result, ForbiddenError), method.name
            if method.rule is Rule.SCOPE:
                assert result.reason == "KEY_NOT_FOR_APP", method.name
                assert "apps/fruit" in result.message
                assert "apps/trash" in result.message


async def test_each_scope_opens_exactly_its_rpcs_when_walked(world, keys):
    async with world.everything() as every:
        for scope in SCOPES:
            keys.add(scope, world.trash, [scope])
            for method in every.methods.values():
                if method.rule is not Rule.SCOPE:
                    continue
                result = await outcome(every.call(method, every.request(method), f"Key {scope}"))
                granted = expand([scope])
                missing = next((one for one in (method.scope, *method.also_scopes) if one not in granted), None)
                if missing is None:
                    assert passed(result), (scope, method.name, result)
                else:
                    assert result.reason == "SCOPE_MISSING", (scope, method.name)
                    assert result.metadata == {"scope": missing, "method": method.name}
                    assert missing in result.message


async def test_operator_reaches_everything_but_the_services_rpcs_when_walked(world, keys):
    keys.add("root", None)
    async with world.everything() as every:
        for app in ("trash", "main"):
            for method in every.methods.values():
                result = await outcome(every.call(method, every.request(method, app), "Key root"))
                if method.rule is Rule.SERVICE:
                    assert result.reason == "SERVICES_ONLY", method.name
                else:
                    assert passed(result), (method.name, result)


async def test_main_is_open_to_read_and_closed_to_change_when_a_key_of_another_app_calls(world, keys):
    keys.add("all", world.trash, ["All"])
    keys.add("main", world.main, ["All"])
    async with world.everything() as every:
        for method in every.methods.values():
            if method.rule is not Rule.SCOPE:
                continue
            for key in ("all", "main"):
                result = await outcome(every.call(method, every.request(method, "main"), f"Key {key}"))
                if method.public_app:
                    assert passed(result), (method.name, result)
                else:
                    assert result.reason == "MAIN_APP_READ_ONLY", method.name


async def test_handler_works_on_main_and_charges_the_key_when_main_is_addressed(world, keys):
    keys.add("all", world.trash, ["Models:Get"])
    async with world.everything() as every:
        method = every.methods["/lensmith.v1.ModelService/GetModel"]
        call = await every.call(method, every.request(method, "main"), "Key all")
    assert call.app == world.main
    assert call.principal.app == world.trash


async def test_services_reach_only_what_names_them_when_walked(world):
    tokens = TokenSigner("dataset", world.folder / "private" / "dataset.pem")
    async with world.everything() as every:
        reached = 0
        for method in every.methods.values():
            result = await outcome(every.call(method, every.request(method), f"Service {tokens.token('inference')}"))
            if method.rule is Rule.PUBLIC or "dataset" in method.callers:
                assert passed(result), (method.name, result)
                reached += 1
            else:
                assert result.reason == "CALLER_NOT_ALLOWED", method.name
        assert 4 <= reached < len(every.methods) / 2


async def test_app_is_found_by_name_when_a_service_calls_a_public_rpc(world):
    tokens = TokenSigner("dataset", world.folder / "private" / "dataset.pem")
    async with world.everything() as every:
        method = every.methods["/lensmith.v1.InferenceService/Embed"]
        request = every.request(method)
        request.inputs.add().image.content = b"x"
        for bound_to in (0, world.trash.app_id):
            call = await every.call(method, request, f"Service {tokens.token('inference', bound_to)}")
            assert call.app == world.trash
            assert call.principal.service == "dataset"
        refused = await outcome(every.call(method, request, f"Service {tokens.token('inference', 99)}"))
        assert refused.reason == "TOKEN_NOT_FOR_APP"
        missing = await outcome(
            every.call(method, every.request(method, "nowhere"), f"Service {tokens.token('inference')}")
        )
        assert missing.reason == "APP_NOT_FOUND"


async def test_token_is_refused_when_the_request_is_about_another_app(world):
    tokens = TokenSigner("dataset", world.folder / "private" / "dataset.pem")
    async with world.everything() as every:
        method = every.methods["/lensmith.internal.v1.ServingService/ResolveSpace"]
        request = every.request(method)
        request.app_id = 7
        assert passed(await outcome(every.call(method, request, f"Service {tokens.token('inference', 7)}")))
        result = await outcome(every.call(method, request, f"Service {tokens.token('inference', 8)}"))
    assert result.reason == "TOKEN_NOT_FOR_APP"


@pytest.mark.parametrize("name", ["", "trash", "apps/", "apps/a/b", "apps/a\nb", "apps/../x/y"])
async def test_form_is_told_when_a_resource_name_is_wrong(world, keys, name):
    keys.add("all", world.trash, ["All"])
    async with world.everything() as every:
        method = every.methods["/lensmith.v1.KeyService/ListKeys"]
        request = every.request(method)
        request.parent = name
        result = await outcome(every.call(method, request, "Key all"))
    assert result.reason == "RESOURCE_NAME_INVALID"
    assert result.field_violations == (("parent", "must look like apps/{app}"),)


def define(name, **access):
    """Define a service of one RPC with this access, which names no app."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"lensmith/test/v1/{name}.proto", package="lensmith.test.v1", syntax="proto3"
    )
    file.dependency.append("lensmith/v1/inference_service.proto")
    method = file.service.add(name=name).method.add(
        name="Do", input_type=".lensmith.v1.ImageQuery", output_type=".lensmith.v1.ImageQuery"
    )
    if access:
        method.options.Extensions[access_pb2.access].CopyFrom(access_pb2.Access(**access))
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(f"lensmith.test.v1.{name}")
    except KeyError:
        pool.Add(file)
    return f"lensmith.test.v1.{name}"


@pytest.mark.parametrize(
    ("name", "access", "why"),
    [
        ("NoAccessService", {}, "declares no access"),
        ("NoRuleService", {"callers": ["dataset"]}, "without a rule"),
        ("FalseRuleService", {"public": False}, "without a rule"),
        ("NoAppService", {"scope": "Inputs:Get"}, "names no app"),
        ("NoScopeService", {"scope": "Inputs:Got"}, "no such scope"),
        ("NoCallersService", {"service": True}, "names no callers"),
    ],
)
def test_contract_is_refused_when_an_rpc_lacks_what_access_needs(name, access, why):
    with pytest.raises(AccessError, match=why):
        access_table([define(name, **access)])


async def test_service_does_not_start_when_it_registers_other_servicers_than_it_names(world, any_service, echo_parts):
    async def nothing(request):
        pass

    handler = echo_parts(nothing)[1]
    service = any_service("inference", [], lambda server: server.add_generic_rpc_handlers((handler,)))
    with pytest.raises(StartError, match=r"EchoService"):
        async with world.serve(service):
            pass
    assert service.closed
