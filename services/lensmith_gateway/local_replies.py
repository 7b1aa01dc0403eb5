"""Answers that Envoy gives itself (no such path, too large, service away), in the error body of the API."""

from collections.abc import Iterator
from dataclasses import dataclass

from lensmith_gateway.envoy_settings import Config


@dataclass(frozen=True, slots=True)
class _Reply:
    """How answers of one HTTP status look.

    Attributes:
        status: HTTP status they have.
        code: gRPC code in the body.
        reason: machine-readable reason.
        message: text for people; `None` keeps Envoy's, which says what was wrong with the request.
    """

    status: int
    code: int
    reason: str
    message: str | None = None


# Envoy's own words follow, which may be none (an escaped slash in a path).
_REFUSED = "The request was not understood."
_AWAY = "The service that answers this call cannot be reached at the moment. Try again shortly."
_REPLIES = (
    _Reply(400, 3, "REQUEST_MALFORMED"),
    _Reply(403, 7, "REQUEST_FORBIDDEN"),
    _Reply(404, 5, "ROUTE_NOT_FOUND", "Nothing is served at this method and path. See /docs for what is."),
    _Reply(405, 12, "METHOD_NOT_ALLOWED", "This path does not answer this HTTP method. See /docs for what it answers."),
    _Reply(408, 4, "REQUEST_TIMEOUT", "The request did not arrive in time."),
    _Reply(413, 3, "REQUEST_TOO_LARGE", "The request is larger than the {limit} MiB allowed."),
    _Reply(415, 3, "CONTENT_TYPE_UNSUPPORTED"),
    _Reply(426, 9, "UPGRADE_REQUIRED"),
    _Reply(429, 8, "TOO_MANY_REQUESTS"),
    _Reply(431, 3, "HEADERS_TOO_LARGE", "The request's headers are too large."),
    _Reply(500, 13, "RESPONSE_NOT_TRANSCODED", "The answer could not be turned into JSON; over {limit} MiB use gRPC."),
    _Reply(502, 14, "SERVICE_UNAVAILABLE", _AWAY),
    _Reply(503, 14, "SERVICE_UNAVAILABLE", _AWAY),
    _Reply(504, 4, "DEADLINE_EXCEEDED", "The call took longer than it may."),
)


def local_reply_config(max_body_mebibytes: int) -> Config:
    """The `local_reply_config` of Envoy's HTTP connection manager."""
    return {"mappers": [_lua_reply(), *(m for reply in _REPLIES for m in _mappers(reply, max_body_mebibytes))]}


def _lua_reply() -> Config:
    """What `strict_json.lua` refuses is a finished error body already."""
    return {
        "filter": {
            "metadata_filter": {
                "matcher": {
                    "filter": "lensmith",
                    "path": [{"key": "json_fault"}],
                    "value": {"bool_match": True},
                },
                "match_if_key_not_found": False,
            }
        },
        "body_format_override": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
            "content_type": "application/json",
        },
    }


def _mappers(reply: _Reply, limit: int) -> Iterator[Config]:
    message = reply.message.format(limit=limit) if reply.message else None
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reply.reason,
        "domain": "lensmith",
        "metadata": {},
    }
    yield {
        "filter": {"and_filter": {"filters": [_status_is(reply.status), _over_rest()]}},
        "body_format_override": {
            "json_format": {
                "code": reply.code,
                "message": message or f"{_REFUSED} %LOCAL_REPLY_BODY%",
                "details": [info],
            },
            "content_type": "application/json",
        },
    }
    if message:
        # Envoy puts the body into `grpc-message` when a gRPC client asked.
        yield {
            "filter": _status_is(reply.status),
            "body_format_override": {"text_format_source": {"inline_string": message}},
        }


def _status_is(status: int) -> Config:
    key = f"lensmith.local_reply.{status}"
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": key}}}}


def _over_rest() -> Config:
    """Not gRPC; a transcoded request looks like gRPC by now, but has kept its path of origin."""
    grpc = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
    return {
        "or_filter": {
            "filters": [
                {"header_filter": {"header": {**grpc, "invert_match": True, "treat_missing_header_as_empty": True}}},
                {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": True}}},
            ]
        }
    }
