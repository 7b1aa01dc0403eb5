"""Typed errors cross the wire whole."""

import grpc
import pytest
from google.rpc.status_pb2 import Status

from lensmith_platform import errors
from lensmith_platform.errors import InternalError, LensmithError, QuotaExceededError, from_status, to_status

KINDS = [
    errors.InvalidInputError,
    errors.UnauthenticatedError,
    errors.ForbiddenError,
    errors.NotFoundError,
    errors.AlreadyExistsError,
    errors.ConflictError,
    errors.PreconditionError,
    errors.QuotaExceededError,
    errors.DependencyUnavailableError,
    errors.DeadlineExceededError,
]


@pytest.mark.parametrize("kind", KINDS)
async def test_error_is_rebuilt_equal_when_it_crosses_a_real_connection(world, keys, kind, echo_through_clients):
    keys.add("secret", world.trash)
    sent = kind("WHY_NOT", "because é", metadata={"limit": "3"}, field_violations=[("a.b[1]", "is bad"), ("c", "too")])

    async def fail(request):
        raise sent

    async with echo_through_clients(fail) as call:
        with pytest.raises(LensmithError) as caught:
            await call("UnaryUnary")
    assert type(caught.value) is kind
    assert (caught.value.reason, caught.value.message) == ("WHY_NOT", "because é")
    assert caught.value.metadata == {"limit": "3"}
    assert caught.value.field_violations == (("a.b[1]", "is bad"), ("c", "too"))


@pytest.mark.parametrize("kind", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
async def test_error_is_typed_when_any_kind_of_rpc_fails(world, kind, echo_through_clients):
    async def fail(request):
        raise QuotaExceededError("QUOTA", "used up", retry_after=1.5)

    async with echo_through_clients(fail) as call:
        with pytest.raises(QuotaExceededError) as caught:
            await call(kind)
    assert caught.value.retry_after == 1.5


async def test_defect_is_internal_when_another_service_has_one(world, echo_through_clients):
    async def fail(request):
        raise KeyError("private")

    async with echo_through_clients(fail) as call:
        with pytest.raises(InternalError) as caught:
            await call("UnaryUnary")
    assert "private" not in str(caught.value)


def test_every_code_gives_a_typed_error_when_it_carries_no_details():
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        error = from_status(Status(code=code.value[0], message="words"))
        assert error.reason == code.name
        assert error.message == "words"


def test_error_is_rebuilt_when_its_details_are_of_an_unknown_type_or_broken():
    status = to_status(errors.NotFoundError("GONE", "gone"))
    status.details.add(type_url="type.googleapis.com/unknown.Type", value=b"\xff")
    status.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff\xff")
    error = from_status(status)
    assert (type(error), error.reason) == (errors.NotFoundError, "GONE")


def test_foreign_reason_is_not_taken_for_ours_when_another_domain_sent_it():
    status = Status(code=5, message="gone")
    from google.rpc.error_details_pb2 import ErrorInfo

    status.details.add().Pack(ErrorInfo(reason="API_DISABLED", domain="googleapis.com"))
    assert from_status(status).reason == "NOT_FOUND"


def test_message_is_fixed_when_the_error_is_internal():
    status = to_status(InternalError("BROKEN", "secret cause"), request_id="r1")
    assert "secret" not in str(status)
    assert "r1" in status.message
    assert status.code == 13
