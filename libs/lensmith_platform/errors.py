"""The typed errors of the platform, and their one form on the wire.

Code raises a `LensmithError`; the error interceptor turns it into a `google.rpc.Status` with `ErrorInfo`; the client
interceptors turn that back into the same typed error. The client gets the reason, the log gets the cause.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

DOMAIN = "lensmith"
"""Domain of every `ErrorInfo`."""

OK = Status(code=0)
"""The status of an item that succeeded."""

STATUS_DETAILS_KEY = "grpc-status-details-bin"
"""Metadata key under which gRPC carries a `google.rpc.Status`."""

# Everything travels in HTTP/2 trailers, and gRPC drops answers with more than 8 KiB of them: the message
# percent-encoded, and once more with all details, base64-encoded.
_MAX_ENCODED_MESSAGE = 2000
_MAX_STATUS = 3800
_MAX_PART = 300
_MAX_FACTS = 8


class LensmithError(Exception):
    """What went wrong, in a form that a program and a person understand.

    Attributes:
        code: gRPC status code of this kind of error.
        reason: the reason in UPPER_SNAKE_CASE, stable: programs decide on it.
        message: one sentence for people that says what and why. Holds no secret.
        metadata: facts for programs (`{"scope": "Inputs:Add"}`).
        field_violations: pairs of a request field's path and what is wrong with it.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.field_violations: tuple[tuple[str, str], ...] = tuple(field_violations)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidInputError(LensmithError):
    """The request itself is wrong; repeating it cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class UnauthenticatedError(LensmithError):
    """Nobody knows who calls: credentials are missing, malformed, unknown or expired."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ForbiddenError(LensmithError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFoundError(LensmithError):
    """The named thing does not exist, or belongs to somebody else."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(LensmithError):
    """Something with this name exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class ConflictError(LensmithError):
    """Somebody else changed it at the same time: read again and repeat."""

    code = grpc.StatusCode.ABORTED


class PreconditionError(LensmithError):
    """The thing is in a state that does not allow this; something else must happen first."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class QuotaExceededError(LensmithError):
    """A limit is used up.

    Attributes:
        retry_after: seconds after which repeating makes sense; None: unknown.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason, message, metadata=metadata, field_violations=field_violations)
        self.retry_after = retry_after


class DependencyUnavailableError(LensmithError):
    """A server that this needs does not answer now; repeating later may help."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(LensmithError):
    """The time allowed for the call is over."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class InternalError(LensmithError):
    """A defect of the platform. Its message is for the log; callers get a fixed text."""

    code = grpc.StatusCode.INTERNAL


# The closed table of what may be rebuilt from the wire: the code decides the class, nothing is imported by name.
_BY_CODE: Mapping[grpc.StatusCode, type[LensmithError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInputError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: QuotaExceededError,
    grpc.StatusCode.UNAVAILABLE: DependencyUnavailableError,
    grpc.StatusCode.CANCELLED: DependencyUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
}

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_number(code: grpc.StatusCode) -> int:
    """Number of a status code on the wire."""
    number: int = code.value[0]
    return number


def to_status(error: BaseException, *, request_id: str = "") -> Status:
    """Turn an error into what a caller may see, for a call as for one item of a batch.

    Anything but a `LensmithError` is a defect: it becomes INTERNAL with a fixed text, and so does `InternalError`.

    Args:
        error: what was raised.
        request_id: named in the text of INTERNAL, so that the cause is found in the log.
    """
    if not isinstance(error, LensmithError) or error.code is grpc.StatusCode.INTERNAL:
        return _internal_status(request_id)
    status = Status(code=code_number(error.code), message=_cut_message(error.message))
    facts = list(error.metadata.items())[:_MAX_FACTS]
    metadata = {_cut(key, 64): _cut(value, _MAX_PART // 2) for key, value in facts}
    _add(status, ErrorInfo(reason=_cut(error.reason, 64), domain=DOMAIN, metadata=metadata))
    if error.field_violations:
        _add(status, _bad_request(error.field_violations, _MAX_STATUS - status.ByteSize()))
    if isinstance(error, QuotaExceededError) and error.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        _add(status, RetryInfo(retry_delay=delay))
    return status


def from_status(status: Status) -> LensmithError:
    """Rebuild the typed error that `to_status` told of.

    Args:
        status: any status but OK.
    """
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info, violations, retry_after = _details(status)
    reason = info.reason if info is not None and info.domain == DOMAIN else code.name
    metadata = dict(info.metadata) if info is not None and info.domain == DOMAIN else {}
    kind = _BY_CODE.get(code, InternalError)
    if kind is QuotaExceededError:
        return QuotaExceededError(
            reason, status.message, metadata=metadata, field_violations=violations, retry_after=retry_after
        )
    return kind(reason, status.message, metadata=metadata, field_violations=violations)


def from_rpc_error(error: grpc.RpcError) -> LensmithError:
    """Rebuild the typed error of a failed call, whoever answered: a service, a proxy or gRPC itself."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return InternalError("UNKNOWN", str(error))
    code: grpc.StatusCode = error.code()
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                status = Status.FromString(value)
            except DecodeError:
                break
            # The status line is what gRPC itself acted on; details that contradict it tell of something else.
            if status.code == code_number(code):
                return from_status(status)
            break
    return from_status(Status(code=code_number(code), message=error.details() or ""))


def _internal_status(request_id: str) -> Status:
    where = f" under request id {request_id}" if request_id else ""
    status = Status(
        code=code_number(grpc.StatusCode.INTERNAL),
        message=f"internal error: the cause stands in the log of the platform{where}",
    )
    _add(status, ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": request_id} if request_id else {}))
    return status


def _details(status: Status) -> tuple[ErrorInfo | None, list[tuple[str, str]], float | None]:
    info: ErrorInfo | None = None
    violations: list[tuple[str, str]] = []
    retry_after: float | None = None
    for detail in status.details:
        if (found := _unpack(detail, ErrorInfo())) is not None:
            info = found
        elif (bad := _unpack(detail, BadRequest())) is not None:
            violations.extend((violation.field, violation.description) for violation in bad.field_violations)
        elif (retry := _unpack(detail, RetryInfo())) is not None:
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return info, violations, retry_after


_UNQUOTED = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_Detail = TypeVar("_Detail", bound=Message)


def _unpack(detail: AnyMessage, into: _Detail) -> _Detail | None:
    try:
        return into if detail.Unpack(into) else None
    except DecodeError:
        return None


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _bad_request(violations: Sequence[tuple[str, str]], room: int) -> BadRequest:
    """Tell of as many violations as there is room for, the first ones."""
    told = BadRequest()
    for field, why in violations:
        told.field_violations.add(field=_cut(field, _MAX_PART), description=_cut(why, _MAX_PART))
        if told.ByteSize() > room and len(told.field_violations) > 1:
            del told.field_violations[-1]
            break
    return told


def _cut_message(text: str) -> str:
    limit = _MAX_ENCODED_MESSAGE
    if len(quote(text, errors="replace", safe=_UNQUOTED)) > limit:
        # Each byte may take three.
        limit //= 3
    return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    """Cut a text to so many bytes; what is no Unicode becomes question marks."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"
