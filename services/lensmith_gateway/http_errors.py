"""Errors over plain HTTP, in the body that the rest of the API has: `{"code", "message", "details"}`."""

import grpc
import structlog
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lensmith_platform.errors import (
    InvalidInputError,
    LensmithError,
    NotFoundError,
    code_number,
    from_rpc_error,
    to_status,
)
from lensmith_platform.telemetry import current_trace

_log = structlog.get_logger("lensmith.gateway")

# As grpc-gateway and Envoy translate them.
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_STATUS_OF_NUMBER = {code_number(code): status for code, status in _HTTP_STATUS.items()}


class TooLargeError(InvalidInputError):
    """The request is larger than a limit; over HTTP this has a status of its own."""


def json_body(message: Message) -> bytes:
    """A message as the transcoder prints it: defaults shown, enums by name."""
    return json_format.MessageToJson(message, always_print_fields_with_no_presence=True, indent=None).encode()


def json_response(message: Message, status: int = 200) -> Response:
    """Answer with a message."""
    return Response(json_body(message), status, media_type="application/json")


TOLD_KEY = "lensmith.told"
"""In the scope of a request whose unexpected error was logged and answered."""


async def on_error(request: Request, error: Exception) -> Response:
    """Answer for whatever a route raised."""
    request.scope[TOLD_KEY] = True
    if isinstance(error, grpc.RpcError):
        error = from_rpc_error(error)
    trace = current_trace()
    status = to_status(error, request_id=trace.request_id if trace else "")
    if not isinstance(error, LensmithError) or error.code is grpc.StatusCode.INTERNAL:
        _log.error("http request failed", exc_info=error)
    return error_response(status, 413 if isinstance(error, TooLargeError) else None)


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Answer for what the router itself refuses: an unknown path or the wrong method."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    refusal = NotFoundError("ROUTE_NOT_FOUND", "Nothing is served at this method and path. See /docs for what is.")
    return error_response(to_status(refusal), status)


def error_response(status: Status, http_status: int | None = None) -> Response:
    """Answer with an error body; nobody may keep it."""
    chosen = http_status or _STATUS_OF_NUMBER.get(status.code, 500)
    response = json_response(status, chosen)
    response.headers["Cache-Control"] = "no-store"
    if chosen == 401:
        response.headers["WWW-Authenticate"] = "Key"
    return response
