"""The errors that calls raise.

LensmithError
├── InvalidInputError         the request is wrong: `field_violations` says where
├── UnauthenticatedError      no key, or not a valid one
├── ForbiddenError            the key may not do this: `metadata["scope"]` is what it lacks
├── NotFoundError             there is no such thing
├── AlreadyExistsError        there is one already
├── ConflictError             somebody else changed it in the meantime: read it again and repeat
├── PreconditionError         it is not in the state for this, such as a model without a trained version
├── QuotaExceededError        too much or too often: `retry_after` says when to come back
├── UnavailableError          the platform, or a part of it, cannot be reached now
├── DeadlineExceededError     no answer within the timeout
└── InternalError             a fault of the platform; `request_id` finds it in its logs
"""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import grpc
from google.protobuf import json_format
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status


class LensmithError(Exception):
    """A call that failed.

    Attributes:
        reason: Why, for programs, such as `SCOPE_MISSING`.
        message: Why, for people.
        metadata: Particulars, such as the limit that was passed.
        field_violations: Pairs of a request field and what is wrong with it.
        retry_after: Seconds to wait before another try, where the platform says so.
        request_id: Id of the request in the platform's logs.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.field_violations = list(field_violations)
        self.retry_after = retry_after
        self.request_id = request_id

    def __str__(self) -> str:
        # Most messages say it themselves already.
        fields = "; ".join(f"{field}: {why}" for field, why in self.field_violations if why not in self.message)
        return f"{self.message} ({fields})" if fields else self.message


class InvalidInputError(LensmithError):
    """The request is wrong."""


class UnauthenticatedError(LensmithError):
    """There is no key, or it is not valid."""


class ForbiddenError(LensmithError):
    """The key may not do this."""


class NotFoundError(LensmithError):
    """There is no such thing."""


class AlreadyExistsError(LensmithError):
    """There is one already."""


class ConflictError(LensmithError):
    """It was changed in the meantime."""


class PreconditionError(LensmithError):
    """It is not in the state that this needs."""


class QuotaExceededError(LensmithError):
    """Too much, or too often."""


class UnavailableError(LensmithError):
    """The platform cannot be reached now."""


class DeadlineExceededError(LensmithError):
    """There was no answer within the timeout."""


class InternalError(LensmithError):
    """A fault of the platform."""


# Closed: what a server says can never choose another class.
_CLASSES: Final[Mapping[int, type[LensmithError]]] = {
    code_pb2.INVALID_ARGUMENT: InvalidInputError,
    code_pb2.OUT_OF_RANGE: InvalidInputError,
    code_pb2.UNAUTHENTICATED: UnauthenticatedError,
    code_pb2.PERMISSION_DENIED: ForbiddenError,
    code_pb2.NOT_FOUND: NotFoundError,
    code_pb2.UNIMPLEMENTED: NotFoundError,
    code_pb2.ALREADY_EXISTS: AlreadyExistsError,
    code_pb2.ABORTED: ConflictError,
    code_pb2.FAILED_PRECONDITION: PreconditionError,
    code_pb2.RESOURCE_EXHAUSTED: QuotaExceededError,
    code_pb2.UNAVAILABLE: UnavailableError,
    code_pb2.DEADLINE_EXCEEDED: DeadlineExceededError,
}


# The platform explains every error of its own in details; without any, it was the connection that failed.
_RETRIED_HTTP: Final = frozenset({502, 503, 504})
_CONNECTION_CODES: Final = frozenset({code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.CANCELLED})


def from_status(status: status_pb2.Status, request_id: str = "") -> LensmithError:
    """Rebuilds the error that a status stands for; `status` is not OK."""
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    cls = _CLASSES.get(status.code, InternalError)
    return cls(
        info.reason or code_pb2.Code.Name(_known_code(status.code)),
        status.message or "no reason given",
        metadata=info.metadata,
        field_violations=[(violation.field, violation.description) for violation in bad_request.field_violations],
        retry_after=retry_after,
        request_id=info.metadata.get("request_id", request_id),
    )


def from_rpc_error(error: grpc.RpcError) -> LensmithError:
    """Rebuilds the error that a failed call stands for."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return UnavailableError("UNAVAILABLE", str(error) or "the call failed before it was sent")
    # An asynchronous error has all that from_call asks of a call.
    status = rpc_status.from_call(cast("grpc.Call", error))
    if status is None:
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    if status.code in _CONNECTION_CODES and not status.details:
        return UnavailableError("CONNECTION_LOST", f"the connection broke off: {status.message}")
    if status.code == code_pb2.UNAVAILABLE and not status.details:
        # gRPC's own words name every layer that it tried; the last is the one that tells.
        tried = status.message.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        return UnavailableError("UNAVAILABLE", f"the platform cannot be reached: {tried}")
    metadata = {str(key): str(value) for key, value in error.initial_metadata() or ()}
    return from_status(status, metadata.get("x-request-id", ""))


def from_http(status_code: int, body: bytes) -> LensmithError:
    """Rebuilds the error of an answer over plain HTTP, whose body is a status as JSON."""
    status = status_pb2.Status()
    try:
        json_format.Parse(body, status, ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError):
        status.Clear()
    if not status.code:
        # Whoever stands between here and the platform.
        cls = UnavailableError if status_code in _RETRIED_HTTP else InternalError
        return cls("HTTP_STATUS", f"the platform answered with HTTP status {status_code}")
    return from_status(status)


def _known_code(code: int) -> "code_pb2.Code":
    return code_pb2.Code.Value("UNKNOWN") if code not in code_pb2.Code.values() else code_pb2.Code.ValueType(code)
