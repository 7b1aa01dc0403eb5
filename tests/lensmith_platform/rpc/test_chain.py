"""Every call passes the same links in the same order, whatever its kind."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
import structlog
from google.rpc.error_details_pb2 import BadRequest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lensmith_platform.errors import InvalidInputError, NotFoundError, from_rpc_error
from lensmith_platform.interceptors.chain import Chain, Link, names
from lensmith_platform.interceptors.standard import standard_links
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.metrics import RpcMetrics
from lensmith_platform.principal import current_call
from lensmith_platform.service_auth import TokenVerifier

KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
every_kind = pytest.mark.parametrize("kind", KINDS)


async def refused(work):
    """Give the typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return from_rpc_error(caught.value)


def test_links_stand_in_their_order_when_built(tmp_path, keys):
    from prometheus_client import CollectorRegistry

    links = standard_links(
        tracer=None,
        metrics=RpcMetrics(CollectorRegistry()),
        default_deadline_seconds=1,
        authenticator=Authenticator(keys, TokenVerifier(tmp_path, "inference")),
    )
    assert names(links) == [
        "request_id",
        "tracing",
        "metrics",
        "access_log",
        "errors",
        "deadline",
        "authentication",
        "access",
        "validation",
    ]


@every_kind
async def test_links_enclose_each_other_when_a_call_passes_and_when_it_fails(world, kind, echo_parts):
    passed = []

    class Note(Link):
        def __init__(self, name):
            self.name = name

        async def before(self, exchange):
            passed.append(f"before {self.name}")

        async def message(self, exchange, request, size):
            passed.append(f"message {self.name}")

        def after(self, exchange, error):
            passed.append(f"after {self.name} {type(error).__name__}")
            return error

    async def fail(request):
        passed.append("handler")
        if request.id == "bad":
            raise NotFoundError("NOT_HERE", "not here")

    methods, handler = echo_parts(fail)
    server = grpc.aio.server(interceptors=(Chain([Note("outer"), Note("inner")], methods, lambda _: None),))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, 0)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        for text, ending in (("good", "NoneType"), ("bad", "NotFoundError")):
            passed.clear()
            if text == "good":
                await world.call(channel, kind, world.query(text))
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await world.call(channel, kind, world.query(text))
            assert passed == [
                "before outer",
                "before inner",
                "message outer",
                "message inner",
                "handler",
                f"after inner {ending}",
                f"after outer {ending}",
            ]


@every_kind
async def test_call_is_known_to_its_handler_when_a_key_is_sent(world, keys, kind):
    keys.add("secret", world.trash, ["Predict"])
    seen = []

    async def note(request):
        seen.append(current_call())

    async with world.echo(note) as channel:
        answers = await world.call(channel, kind, key="secret")
    assert answers[-1].id == "a"
    assert seen[0].principal.actor == "keys/key-1"
    assert seen[0].principal.app == world.trash
    assert seen[0].request_id


@every_kind
async def test_call_is_refused_when_no_key_is_sent(world, kind):
    async with world.echo() as channel:
        error = await refused(world.call(channel, kind))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert "Authorization: Key" in error.message


@every_kind
async def test_typed_error_arrives_when_the_handler_raises_it(world, keys, kind):
    keys.add("secret", world.trash)

    async def fail(request):
        raise InvalidInputError(
            "PICTURE_ODD", "the picture is odd", metadata={"odd": "very"}, field_violations=[("image", "is odd")]
        )

    async with world.echo(fail) as channel:
        error = await refused(world.call(channel, kind, key="secret"))
    assert isinstance(error, InvalidInputError)
    assert (error.reason, error.message) == ("PICTURE_ODD", "the picture is odd")
    assert error.metadata == {"odd": "very"}
    assert error.field_violations == (("image", "is odd"),)


@every_kind
async def test_cause_stays_in_the_log_when_the_handler_has_a_defect(world, keys, kind):
    keys.add("secret", world.trash)

    async def fail(request):
        raise ValueError("the password is hunter2")

    with structlog.testing.capture_logs() as lines:
        async with world.echo(fail) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await world.call(channel, kind, key="secret")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    error = from_rpc_error(caught.value)
    assert "hunter2" not in str(caught.value)
    assert error.metadata["request_id"] in error.message
    stacks = [line for line in lines if "exc_info" in line]
    assert [str(line["exc_info"]) for line in stacks] == ["the password is hunter2"]
    assert [line["code"] for line in lines if line["event"] == "rpc" and "Echo" in line["method"]] == ["INTERNAL"]


@every_kind
async def test_field_is_named_when_it_breaks_the_contract(world, keys, kind):
    keys.add("secret", world.trash)
    async with world.echo() as channel:
        error = await refused(world.call(channel, kind, world.query("x" * 257), key="secret"))
    assert error.reason == "FIELD_INVALID"
    assert error.field_violations == (("id", "must have at most 256 characters; it has 257"),)


@pytest.mark.parametrize("kind", ["StreamUnary", "StreamStream"])
async def test_each_message_is_checked_when_the_request_is_a_stream(world, keys, kind):
    keys.add("secret", world.trash)
    async with world.echo() as channel:
        requests = [world.query("fine"), world.query("x" * 257)]
        error = await refused(world.call(channel, kind, *requests, key="secret"))
    assert error.reason == "FIELD_INVALID"


@every_kind
async def test_request_is_not_parsed_when_the_caller_is_unknown(world, keys, kind):
    keys.add("secret", world.trash)

    async with world.echo() as channel:
        make = {
            "UnaryUnary": channel.unary_unary,
            "UnaryStream": channel.unary_stream,
            "StreamUnary": channel.stream_unary,
            "StreamStream": channel.stream_stream,
        }[kind]
        rpc = make(f"/lensmith.test.v1.EchoService/{kind}")

        async def send(metadata):
            call = rpc(iter([b"\xff\xff"]) if kind.startswith("Stream") else b"\xff\xff", metadata=metadata)
            if kind.endswith("Stream"):
                async for _ in call:
                    pass
            else:
                await call

        assert (await refused(send(()))).reason == "CREDENTIALS_MISSING"
        assert (await refused(send((("authorization", "Key secret"),)))).reason == "REQUEST_MALFORMED"


async def test_stream_ends_with_the_error_when_it_fails_after_its_first_message(world, keys):
    keys.add("secret", world.trash)

    async def fail(request):
        raise NotFoundError("LATE", "late")

    async with world.echo(fail) as channel:
        rpc = channel.unary_stream(
            "/lensmith.test.v1.EchoService/UnaryStream", request_serializer=lambda message: message.SerializeToString()
        )
        call = rpc(world.query(), metadata=(("authorization", "Key secret"),))
        assert await call.read()
        error = await refused(call.read())
    assert error.reason == "LATE"


async def test_request_id_is_taken_over_when_it_fits_a_log_line(world, keys):
    keys.add("secret", world.trash)
    seen = []

    async def note(request):
        seen.append(current_call().request_id)

    async with world.echo(note) as channel:
        rpc = channel.unary_unary("/lensmith.test.v1.EchoService/UnaryUnary")
        for sent in ("order-7", "two words", "x" * 65):
            metadata = (("authorization", "Key secret"), ("x-request-id", sent))
            call = rpc(world.query().SerializeToString(), metadata=metadata)
            await call
            trailing = dict(await call.trailing_metadata())
            assert trailing["x-request-id"] == seen[-1]
    assert seen[0] == "order-7"
    assert " " not in seen[1]
    assert len(seen[2]) == 32


async def test_handler_is_not_reached_when_too_little_time_is_left(world, keys):
    keys.add("secret", world.trash)
    reached = []

    async def note(request):
        reached.append(request)

    async with world.echo(note) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.call(channel, "UnaryUnary", key="secret", timeout=0.03)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert reached == []


async def test_handler_is_cancelled_when_the_default_deadline_passes(world, keys):
    keys.add("secret", world.trash)
    cancelled = asyncio.Event()

    async def hang(request):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with world.echo(hang, default_deadline_seconds=0.1) as channel:
        error = await refused(world.call(channel, "UnaryUnary", key="secret"))
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert cancelled.is_set()


@every_kind
async def test_handler_is_cancelled_when_the_caller_leaves(world, keys, kind):
    keys.add("secret", world.trash)
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(request):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with world.echo(hang) as channel:
        caller = asyncio.create_task(world.call(channel, kind, key="secret"))
        await began.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await cancelled.wait()


async def test_limit_is_named_when_a_request_is_too_large(world, keys):
    keys.add("secret", world.trash)
    large = world.query()
    large.image.content = b"x" * (3 << 20)
    async with world.echo(max_message_bytes=1 << 20) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.call(channel, "UnaryUnary", large, key="secret")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(2 << 20) in (caught.value.details() or "")


@pytest.mark.parametrize("letter", ["x", "%", "\n", "ü", "鱼", "\U0001f41f", "\ud800"])
async def test_error_still_arrives_when_it_has_more_details_than_a_trailer_holds(world, keys, letter):
    keys.add("secret", world.trash)

    async def fail(request):
        raise InvalidInputError(
            "MANY",
            letter * 5000,
            metadata={f"{n}{letter * 99}": letter * 999 for n in range(50)},
            field_violations=[(f"inputs[{n}]." + letter * 300, letter * 500) for n in range(500)],
        )

    async with world.echo(fail) as channel:
        error = await refused(world.call(channel, "UnaryUnary", key="secret"))
    assert error.reason == "MANY"
    assert 1 <= len(error.field_violations) < 500


async def test_calls_are_counted_with_the_code_that_callers_see(world, keys, probe):
    keys.add("secret", world.trash)

    async def fail(request):
        raise NotFoundError("NOT_HERE", "not here")

    async with world.echo(fail) as channel:
        await refused(world.call(channel, "UnaryUnary", key="secret"))
        await refused(world.call(channel, "UnaryUnary"))
        text = (await probe("/metrics"))[1]
    name = 'method="lensmith.test.v1.EchoService/UnaryUnary"'
    assert f'lensmith_rpc_total{{code="NOT_FOUND",{name}}} 1.0' in text
    assert f'lensmith_rpc_total{{code="UNAUTHENTICATED",{name}}} 1.0' in text
    assert f"lensmith_rpc_seconds_count{{{name}}} 2.0" in text
    assert f"lensmith_rpc_in_flight{{{name}}} 0.0" in text


async def test_health_and_reflection_answer_when_no_key_is_sent(world):
    async with world.echo() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert await health.Check(health_pb2.HealthCheckRequest(service="lensmith.test.v1.EchoService"))
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = [
            service.name
            async for answer in stub.ServerReflectionInfo(iter([ask]))
            for service in answer.list_services_response.service
        ]
    assert "lensmith.test.v1.EchoService" in listed


async def test_no_secret_and_no_content_is_logged_when_calls_pass_and_fail(world, keys):
    keys.add("s3cr3t", world.trash)
    with structlog.testing.capture_logs() as lines:
        async with world.echo() as channel:
            await world.call(channel, "UnaryUnary", world.query("private text"), key="s3cr3t")
            await refused(world.call(channel, "UnaryUnary", world.query("private text"), key="wr0ng"))
    assert lines
    assert not [line for line in lines if any(word in str(line) for word in ("s3cr3t", "wr0ng", "private text"))]


def test_bad_request_details_are_what_grpc_gateways_expect():
    from lensmith_platform.errors import to_status

    status = to_status(InvalidInputError("FIELD_INVALID", "no", field_violations=[("a.b", "is bad")]))
    found = BadRequest()
    assert any(detail.Unpack(found) for detail in status.details)
    assert [(one.field, one.description) for one in found.field_violations] == [("a.b", "is bad")]
