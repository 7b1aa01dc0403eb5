"""Every public RPC, tried with keys that must not get through. The list is the contract, so new RPCs are walked too."""

from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

import lensmith
from lensmith.errors import from_rpc_error
from tests.platform_process import PlatformProcess
from tests.security.tenants import APP_RPCS, RPCS, Rpc, Tenants, names

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

READ_ONLY = {"Predict", "Search"}


def _refusal(rpc: Rpc, tenants: Tenants, secret: str, request: Message) -> lensmith.LensmithError | None:
    try:
        rpc.call(tenants.channel, secret, request)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    return None


@pytest.mark.parametrize("rpc", APP_RPCS, ids=lambda rpc: rpc.path)
def test_no_rpc_takes_the_key_of_another_app(tenants: Tenants, rpc: Rpc) -> None:
    request = rpc.build(names("first", tenants.ids))
    assert isinstance(_refusal(rpc, tenants, tenants.second, request), lensmith.ForbiddenError)


# DeleteApp names nothing but the caller's own app, and would end the walk.
@pytest.mark.parametrize(
    "rpc", [rpc for rpc in APP_RPCS if not rpc.path.endswith("/DeleteApp")], ids=lambda rpc: rpc.path
)
def test_no_rpc_finds_things_of_another_app_by_their_ids(tenants: Tenants, rpc: Rpc) -> None:
    request = rpc.build(names("second", tenants.ids))
    said = ""
    refusal: lensmith.LensmithError | None = None
    try:
        said = " ".join(map(MessageToJson, rpc.call(tenants.channel, tenants.second, request)))
    except grpc.RpcError as error:
        refusal = from_rpc_error(error)
    assert not isinstance(refusal, lensmith.InternalError), refusal
    assert not [secret for secret in tenants.secrets_of_first if secret in said.replace("apps/second", "")]


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_a_read_only_key_can_do_nothing_else(tenants: Tenants, rpc: Rpc) -> None:
    refusal = _refusal(rpc, tenants, tenants.read_only, rpc.build(names("first", tenants.ids)))
    rule = rpc.access.WhichOneof("rule")
    if rule in ("public", "any_key") or rpc.access.scope in READ_ONLY:
        assert not isinstance(refusal, lensmith.ForbiddenError | lensmith.UnauthenticatedError), refusal
    else:
        assert isinstance(refusal, lensmith.ForbiddenError), refusal


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_no_rpc_answers_without_a_key_unless_it_is_public(tenants: Tenants, rpc: Rpc) -> None:
    refusal = _refusal(rpc, tenants, "", rpc.build(names("first", tenants.ids)))
    if rpc.access.public:
        assert refusal is None
    else:
        assert isinstance(refusal, lensmith.UnauthenticatedError), refusal


@pytest.mark.parametrize("rpc", APP_RPCS, ids=lambda rpc: rpc.path)
def test_no_rpc_takes_a_text_that_the_database_cannot_keep(tenants: Tenants, rpc: Rpc) -> None:
    asked = rpc.build(names("first", tenants.ids))
    for field in asked.DESCRIPTOR.fields:
        if field.type != field.TYPE_STRING or field.is_repeated or field.name == rpc.app_field:
            continue
        request = rpc.build(names("first", tenants.ids))
        setattr(request, field.name, "a\0b")
        refusal = _refusal(rpc, tenants, tenants.first, request)
        assert isinstance(refusal, lensmith.InvalidInputError), (field.name, refusal)
        assert (field.name, "must not hold the character NUL") in refusal.field_violations


def test_internal_services_are_not_routed(tenants: Tenants, platform: PlatformProcess) -> None:
    for name in (
        "KeyResolverService/ResolveKey",
        "TrainingDataService/StreamTrainingData",
        "ServingService/ResolveModel",
        "SpaceService/SetSpaces",
        "CurationService/SwapLabels",
        "SuggestionJobService/PutSuggestions",
        "LearningCurveJobService/PutLearningCurve",
    ):
        method = tenants.channel.unary_unary(f"/lensmith.internal.v1.{name}")
        with pytest.raises(grpc.RpcError) as caught:
            method(b"", metadata=(("authorization", f"Key {platform.operator_key}"),), timeout=10)
        assert isinstance(from_rpc_error(caught.value), lensmith.NotFoundError)


def test_nothing_of_a_secret_stands_in_the_logs(tenants: Tenants, platform: PlatformProcess) -> None:
    for secret in (tenants.first, tenants.read_only, platform.operator_key):
        for log in (Path(platform.data_dir) / "logs").glob("*.log"):
            if log.name != "up.log":  # shows the operator's key at the first start, to its owner only
                assert secret not in log.read_text(errors="replace"), log.name
