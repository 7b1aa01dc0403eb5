"""Every field of every public RPC holds what nobody should send: the answer is typed, never the platform's fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToJson, ParseDict
from google.protobuf.message import Message

from lensmith.errors import LensmithError, from_rpc_error
from tests.platform_process import PlatformProcess
from tests.security.tenants import RPCS, Rpc, Tenants, names

pytestmark = [pytest.mark.xdist_group("platform"), pytest.mark.timeout(300)]

Change = Callable[[Message], None]

DEPTH = 3
MANY = 1001
TYPED = {
    grpc.StatusCode.OK,
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS),
    *(grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ABORTED),
}
# They end what the others are tried on, or wait for what nobody changes.
LEFT_OUT = {"DeleteApp", "DeleteKey", "DeleteModel", "DeleteModelVersion", "WatchUpgrade", "UpdateKey", "CreateApp"}
TEXTS = ("\u202e\u0007\x1b[31m\n\ufeff\U0010ffff", "x" * 1_000_000, "../../../etc/passwd", "apps/second/inputs/1", "-1")
REALS = (math.nan, math.inf, -1e308, 1e19)
PICTURE = {"image": {"content": "eA=="}}

# What a request needs besides the name of what it is about, so that a field is looked at and not what is missing.
BODIES: dict[str, dict[str, object]] = {
    "AcceptSuggestions": {"all": {"kind": "SUGGESTION_KIND_WRONG_LABEL"}},
    "Annotate": {"items": [{"input": "nobody's", "annotations": [{"concept": "hidden-wood"}]}]},
    "CompareModelVersions": {"otherVersion": 1},
    "CreateConcepts": {"concepts": [{"conceptId": "hidden-too"}]},
    "CreateInputs": {"inputs": [PICTURE]},
    "CreateKey": {"key": {"scopes": ["Predict"]}},
    "CreateModel": {"modelId": "hidden-copy", "model": {"type": "MODEL_TYPE_REGRESSION", "concepts": ["hidden-wood"]}},
    "DeleteConcepts": {"conceptIds": ["nobody's"]},
    "DeleteInputs": {"inputIds": ["nobody's"]},
    "Embed": {"inputs": [PICTURE]},
    "Explain": {"inputs": [PICTURE]},
    "GetEvaluation": {"thresholds": [0.5, 0.5]},
    "ListChangedInputs": {"otherVersion": 1},
    "Predict": {"inputs": [PICTURE]},
}


def _values(field: FieldDescriptor) -> tuple[object, ...]:
    of_type: dict[int, tuple[object, ...]] = {
        field.TYPE_STRING: TEXTS,
        field.TYPE_BYTES: (b"\xff" * 1000,),
        field.TYPE_DOUBLE: REALS,
        field.TYPE_FLOAT: REALS,
        field.TYPE_INT32: (-1, -(2**31), 2**31 - 1),
        field.TYPE_INT64: (-(2**63), 2**63 - 1),
        field.TYPE_ENUM: (999, -1, 2**31 - 1),
        field.TYPE_BOOL: (True,),
    }
    return of_type.get(field.type, ())


def _times() -> Iterator[Change]:
    for seconds in (-(2**63), 2**63 - 1, -62_135_596_800):
        yield lambda stamp, seconds=seconds: setattr(stamp, "seconds", seconds)


def _masks() -> Iterator[Change]:
    for paths in (["*"], ["name"], ["x..y"], ["display_name"] * MANY):
        yield lambda mask, paths=paths: mask.paths.extend(paths)


def _structs() -> Iterator[Change]:
    yield lambda struct: struct.update({"a": math.nan})
    yield lambda struct: struct.update({"a\0": "\0"})


WELL_KNOWN = {
    "google.protobuf.Timestamp": _times,
    "google.protobuf.FieldMask": _masks,
    "google.protobuf.Struct": _structs,
}


def _changes(message: Message, path: str = "", depth: int = 0) -> Iterator[tuple[str, Change]]:
    """Ways to spoil one field of a message or of the messages in it, each with the field's path."""
    for field in message.DESCRIPTOR.fields:
        at = f"{path}.{field.name}".removeprefix(".")
        if field.message_type is None:
            yield from ((at, change) for change in _of_values(field))
        elif field.message_type.full_name in WELL_KNOWN:
            yield from ((at, _within(field, change)) for change in WELL_KNOWN[field.message_type.full_name]())
        elif not field.message_type.GetOptions().map_entry:
            yield from _of_messages(field, at, depth)


def _of_values(field: FieldDescriptor) -> Iterator[Change]:
    values = _values(field)
    yield from (_setting(field, value) for value in values)
    if field.is_repeated:
        yield _setting(field, *[values[0]] * MANY)


def _of_messages(field: FieldDescriptor, path: str, depth: int) -> Iterator[tuple[str, Change]]:
    yield path, _within(field, lambda _: None)
    if field.is_repeated:
        yield path, lambda message: [getattr(message, field.name).add() for _ in range(MANY)]
    if depth < DEPTH:
        for below, change in _changes(message_factory.GetMessageClass(field.message_type)(), path, depth + 1):
            yield below, _within(field, change)


def _setting(field: FieldDescriptor, *values: object) -> Change:
    def change(message: Message) -> None:
        if field.is_repeated:
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, *values)

    return change


def _within(field: FieldDescriptor, change: Change) -> Change:
    """A change of the message in a field, or of the first of those in it."""

    def outer(message: Message) -> None:
        held = getattr(message, field.name)
        if field.is_repeated:
            change(held[0] if held else held.add())
        else:
            held.SetInParent()
            change(held)

    return outer


def _request(rpc: Rpc, tenants: Tenants) -> Message:
    request = rpc.build(names("first", tenants.ids))
    ParseDict(BODIES.get(rpc.path.rpartition("/")[2], {}), request)
    return request


def _spoilt(rpc: Rpc, tenants: Tenants) -> Iterator[tuple[str, Message]]:
    for path, change in _changes(rpc.request()):
        request = _request(rpc, tenants)
        change(request)
        if "Update" in rpc.path and "." in path:
            # Fields that the mask does not name are not looked at.
            request.update_mask.paths.append(path.split(".")[1])
        yield path, request


@pytest.mark.parametrize(
    "rpc", [rpc for rpc in RPCS if rpc.path.rpartition("/")[2] not in LEFT_OUT], ids=lambda rpc: rpc.path
)
def test_answer_is_typed_when_a_field_is_hostile(tenants: Tenants, rpc: Rpc) -> None:
    for path, request in _spoilt(rpc, tenants):
        code, refusal, said = _answer(rpc, tenants, request)
        assert code in TYPED, (path, code, refusal)
        assert refusal is None or refusal.reason, (path, refusal)
        assert len(str(refusal)) < 2000, (path, "a refusal that repeats what was sent")
        assert not {'"NaN"', '"Infinity"', '"-Infinity"'} & set(said.split()), path


def _answer(rpc: Rpc, tenants: Tenants, request: Message) -> tuple[grpc.StatusCode, LensmithError | None, str]:
    try:
        said = " ".join(map(MessageToJson, rpc.call(tenants.channel, tenants.first, request)))
    except grpc.RpcError as error:
        return error.code(), from_rpc_error(error), ""
    return grpc.StatusCode.OK, None, said


@pytest.mark.parametrize("path", ["models/hidden-model", "models/hidden-model/versions/1/report", "inputs"])
def test_rest_answer_is_typed_when_an_address_is_hostile(
    tenants: Tenants, platform: PlatformProcess, path: str
) -> None:
    address = f"{platform.url}/v1/apps/first/{path}"
    spoilt = [address.replace("first", part) for part in ("%00", "%2e%2e", "a" * 5000, "%ff", "%E2%80%AE", "*")]
    queries = ("pageSize=abc", "pageSize=1e99", "%00=", "&".join(["concept=x"] * 3000), "pictures=?", "format=%00")
    with httpx.Client(headers={"Authorization": f"Key {tenants.first}"}, timeout=30) as client:
        for url in spoilt + [f"{address}?{query}" for query in queries]:
            answer = client.get(url)
            if not (answer.status_code == 200 and url.endswith("concept=x")):  # of many values the last one counts
                assert 400 <= answer.status_code < 500, (url[:200], answer.text)
                assert any(detail.get("reason") for detail in answer.json()["details"]), (url[:200], answer.text)
