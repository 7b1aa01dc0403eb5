"""gRPC and gRPC-Web through the port that REST uses."""

import struct
from collections.abc import Iterator

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from lensmith_api.internal.v1 import serving_service_pb2, serving_service_pb2_grpc
from lensmith_api.v1 import (
    app_service_pb2,
    app_service_pb2_grpc,
    base_model_service_pb2,
    base_model_service_pb2_grpc,
    input_pb2,
    input_service_pb2,
    input_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from lensmith_gateway.contract import OWNERS
from lensmith_gateway.envoy_settings import MEBIBYTE
from tests.contract.conftest import ORIGIN, Edge


def test_details_arrive_when_a_grpc_call_fails(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        app_service_pb2_grpc.AppServiceStub(channel).GetApp(app_service_pb2.GetAppRequest(name="apps/code-7"))
    status = rpc_status.from_call(failure.value)  # type: ignore[arg-type]  # a failed call is also the call
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.reason) == (7, "TEST_REASON")


def test_bytes_arrive_when_a_grpc_request_has_63_mebibytes(channel: grpc.Channel, edge: Edge) -> None:
    content = b"\xff" * (63 * MEBIBYTE)
    request = input_service_pb2.CreateInputsRequest(inputs=[{"image": input_pb2.Image(content=content)}])
    answer = input_service_pb2_grpc.InputServiceStub(channel).CreateInputs(request)
    assert len(answer.results) == 1
    assert edge.received.request == request


def test_every_message_arrives_when_the_client_streams(channel: grpc.Channel) -> None:
    def parts() -> Iterator[base_model_service_pb2.ImportBaseModelRequest]:
        yield base_model_service_pb2.ImportBaseModelRequest(file_name="model.onnx")
        for _ in range(20):
            yield base_model_service_pb2.ImportBaseModelRequest(chunk=b"x" * MEBIBYTE)

    answer = base_model_service_pb2_grpc.BaseModelServiceStub(channel).ImportBaseModel(parts())
    assert answer.size_bytes == 20 * MEBIBYTE


def test_every_message_arrives_when_the_server_streams(channel: grpc.Channel) -> None:
    request = model_service_pb2.WatchModelVersionRequest(name="apps/x/models/good/versions/1")
    events = list(model_service_pb2_grpc.ModelServiceStub(channel).WatchModelVersion(request))
    assert [event.WhichOneof("event") for event in events] == ["item", "summary"]


def test_internal_services_are_unimplemented_when_called_from_outside(channel: grpc.Channel) -> None:
    stub = serving_service_pb2_grpc.ServingServiceStub(channel)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ResolveModel(serving_service_pb2.ResolveModelRequest())
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_service_is_unavailable_without_internals_when_its_server_is_away(channel: grpc.Channel, edge: Edge) -> None:
    edge.backends.run(edge.backends.stop("auth"))
    try:
        with pytest.raises(grpc.RpcError) as failure:
            key_service_pb2_grpc.KeyServiceStub(channel).WhoAmI(key_service_pb2.WhoAmIRequest())
    finally:
        edge.backends.run(edge.backends.start("auth"))
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert failure.value.details() == (
        "The service that answers this call cannot be reached at the moment. Try again shortly."
    )


def test_reflection_knows_every_public_service_when_asked(channel: grpc.Channel) -> None:
    known = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {name for name in known if name.startswith("lensmith.")} == {f"lensmith.v1.{name}" for name in OWNERS}


def test_grpc_web_call_is_answered_when_a_browser_makes_it(rest: httpx.Client, edge: Edge) -> None:
    message = app_service_pb2.GetAppRequest(name="apps/x").SerializeToString()
    response = _grpc_web(rest, "/lensmith.v1.AppService/GetApp", message)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert edge.received.request == app_service_pb2.GetAppRequest(name="apps/x")
    length = struct.unpack(">I", response.content[1:5])[0]
    assert response.content[0] == 0
    assert b"apps/x" in response.content[5 : 5 + length]
    assert b"grpc-status:0" in response.content[5 + length :].replace(b" ", b"")


def test_grpc_web_call_fails_with_a_grpc_status_when_refused(rest: httpx.Client) -> None:
    message = app_service_pb2.GetAppRequest(name="apps/code-7").SerializeToString()
    response = _grpc_web(rest, "/lensmith.v1.AppService/GetApp", message)
    assert response.headers["grpc-status"] == "7"
    assert response.headers["grpc-status-details-bin"]


def _grpc_web(rest: httpx.Client, path: str, message: bytes) -> httpx.Response:
    return rest.post(
        path,
        content=struct.pack(">BI", 0, len(message)) + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "origin": ORIGIN},
    )
