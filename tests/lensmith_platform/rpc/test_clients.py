"""Calls between services carry what the callee must know, and fail in a way that callers may see."""

import asyncio

import grpc
import pytest
import structlog

from lensmith_platform.clients import SHAVED_SECONDS, Outgoing
from lensmith_platform.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    InternalError,
    PreconditionError,
    from_rpc_error,
)
from lensmith_platform.principal import ANONYMOUS, Call, current_call, set_current_call
from lensmith_platform.service_auth import TokenSigner, service_call_app
from lensmith_platform.telemetry import continue_trace, current_trace, trace_of_event, traceparent

EVERY_KIND = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("kind", EVERY_KIND)
async def test_request_id_and_trace_are_one_when_a_service_calls_another(world, keys, kind, echo_through_clients):
    keys.add("secret", world.trash)
    seen = []

    async def inner(request):
        seen.append((current_call(), current_trace()))

    async with echo_through_clients(inner) as call:

        async def outer(request):
            seen.append((current_call(), current_trace()))
            await call(kind)

        async with world.echo(outer, name="dataset") as channel:
            metadata = (("authorization", "Key secret"), ("traceparent", TRACE), ("x-request-id", "r-1"))
            rpc = channel.unary_unary("/lensmith.test.v1.EchoService/UnaryUnary")
            await rpc(world.query().SerializeToString(), metadata=metadata)
    (outer_call, outer_trace), (inner_call, inner_trace) = seen
    assert outer_call.request_id == inner_call.request_id == "r-1"
    assert outer_trace.trace_id == inner_trace.trace_id == TRACE.split("-")[1]
    assert len({TRACE.split("-")[2], outer_trace.span_id, inner_trace.span_id}) == 3
    assert outer_call.principal.kind == "key"
    assert inner_call.principal.actor == "services/dataset"


@pytest.mark.parametrize("kind", EVERY_KIND)
async def test_addresses_stay_inside_when_a_service_is_away(world, kind):
    clients = world.clients("dataset", inference=f"unix:{world.folder}/nobody.sock")
    try:
        channel = clients.channel("inference")
        with pytest.raises(DependencyUnavailableError) as caught:
            await world.call(channel, kind)
    finally:
        await clients.close()
    assert caught.value.reason == "SERVICE_UNAVAILABLE"
    assert caught.value.metadata == {"service": "inference"}
    assert "nobody.sock" not in str(caught.value)


async def test_caller_learns_nothing_when_the_platform_refuses_itself(world, keys):
    keys.add("secret", world.trash)

    async with world.echo():
        clients = world.clients("auth", inference=world.target)

        async def outer(request):
            await world.call(clients.channel("inference"), "UnaryUnary")

        with structlog.testing.capture_logs() as lines:
            async with world.echo(outer, name="dataset") as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await world.call(channel, "UnaryUnary", key="secret")
        await clients.close()
    error = from_rpc_error(caught.value)
    assert isinstance(error, InternalError)
    assert "auth" not in error.message
    assert any("may not call" in str(line.get("exc_info")) for line in lines)


async def test_address_is_asked_for_when_the_settings_name_none(world):
    with pytest.raises(PreconditionError, match="no address for the service registry"):
        world.clients("dataset").channel("registry")


@pytest.fixture
def outgoing(world):
    signer = TokenSigner("dataset", world.folder / "private" / "dataset.pem")
    return Outgoing("inference", signer, tracer=None, default_deadline_seconds=60.0)


def details(timeout=None):
    return grpc.aio.ClientCallDetails("/a/b", timeout, None, None, None)


async def test_time_for_reporting_is_kept_back_when_the_caller_has_a_deadline(outgoing):
    now = asyncio.get_running_loop().time()
    set_current_call(Call("r", ANONYMOUS, None, now + 1))
    assert 0 < outgoing.details(details(), streaming=False).timeout <= 1 - SHAVED_SECONDS
    assert 0 < outgoing.details(details(), streaming=True).timeout <= 1 - SHAVED_SECONDS
    assert outgoing.details(details(0.25), streaming=False).timeout == 0.25
    assert outgoing.details(details(5), streaming=False).timeout <= 1 - SHAVED_SECONDS


async def test_call_is_not_begun_when_too_little_time_is_left(outgoing):
    set_current_call(Call("r", ANONYMOUS, None, asyncio.get_running_loop().time() + 0.04))
    with pytest.raises(DeadlineExceededError, match="too little time"):
        outgoing.details(details(), streaming=False)


async def test_streams_may_last_when_nobody_set_a_deadline(outgoing):
    assert outgoing.details(details(), streaming=False).timeout == 60.0
    assert outgoing.details(details(), streaming=True).timeout is None


async def test_token_is_bound_to_the_app_of_the_call_when_there_is_one(outgoing, world):
    from lensmith_platform.service_auth import TokenVerifier

    verifier = TokenVerifier(world.folder / "public", "inference")

    def bound_to():
        return verifier.verify(outgoing.details(details(), streaming=False).metadata["authorization"][8:]).app_id

    assert bound_to() == 0
    set_current_call(Call("r", ANONYMOUS, world.trash))
    assert bound_to() == world.trash.app_id
    with service_call_app(world.fruit):
        assert bound_to() == world.fruit.app_id


def test_trace_continues_when_an_event_carries_it():
    with trace_of_event(TRACE, "event-1") as context:
        assert traceparent().split("-")[1] == TRACE.split("-")[1]
        assert context.sampled
        assert current_trace().request_id == "event-1"
    assert current_trace() is None


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "",
        "x",
        TRACE.replace("0af7", "0AF7"),
        "ff" + TRACE[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        TRACE + "-more\n",
    ],
)
def test_new_trace_begins_when_the_header_is_broken(broken):
    context = continue_trace(broken, "r")
    assert context.trace_id != TRACE.split("-")[1]
    assert continue_trace(context.traceparent, "r").trace_id == context.trace_id
