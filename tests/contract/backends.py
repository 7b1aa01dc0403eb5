"""Small real gRPC servers that stand behind Envoy in the contract tests; each says what it received."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf import any_pb2, empty_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from lensmith_api.v1 import (
    app_pb2,
    app_service_pb2,
    app_service_pb2_grpc,
    base_model_pb2,
    base_model_service_pb2,
    base_model_service_pb2_grpc,
    concept_pb2,
    concept_score_pb2,
    concept_service_pb2,
    concept_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    input_service_pb2,
    input_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    model_version_pb2,
)
from lensmith_gateway.contract import OWNERS

MAX_MESSAGE = 65 * 1024 * 1024
Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Message, Message]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(slots=True)
class Received:
    """What the servers were asked last."""

    request: Message = field(default_factory=empty_pb2.Empty)
    metadata: dict[str, str] = field(default_factory=dict)

    def note(self, request: Message, context: Context) -> None:
        self.request = request
        self.metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}


async def fail(context: Context, code: int, message: str) -> None:
    """End a call the way the platform does: a status with `ErrorInfo`."""
    info = any_pb2.Any()
    info.Pack(
        error_details_pb2.ErrorInfo(reason="TEST_REASON", domain="lensmith", metadata={"limit": "7"}),
    )
    await context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message=message, details=[info])))


@dataclass(slots=True)
class Apps(app_service_pb2_grpc.AppServiceServicer):
    received: Received

    async def GetApp(self, request: app_service_pb2.GetAppRequest, context: Context) -> app_pb2.App:
        self.received.note(request, context)
        last = request.name.rpartition("/")[2]
        if last.startswith("code-"):
            await fail(context, int(last.removeprefix("code-")), "No such thing “here”.")
        return app_pb2.App(name=request.name)

    async def UpdateApp(self, request: app_service_pb2.UpdateAppRequest, context: Context) -> app_pb2.App:
        self.received.note(request, context)
        return request.app

    async def DeleteApp(self, request: app_service_pb2.DeleteAppRequest, context: Context) -> empty_pb2.Empty:
        self.received.note(request, context)
        return empty_pb2.Empty()


@dataclass(slots=True)
class Keys(key_service_pb2_grpc.KeyServiceServicer):
    received: Received

    async def WhoAmI(self, request: key_service_pb2.WhoAmIRequest, context: Context) -> key_service_pb2.WhoAmIResponse:
        self.received.note(request, context)
        return key_service_pb2.WhoAmIResponse(app="apps/x")


@dataclass(slots=True)
class Concepts(concept_service_pb2_grpc.ConceptServiceServicer):
    received: Received

    async def GetConcept(self, request: concept_service_pb2.GetConceptRequest, context: Context) -> concept_pb2.Concept:
        self.received.note(request, context)
        return concept_pb2.Concept(name=request.name, positive_count=1 << 60)

    async def ListConcepts(
        self, request: concept_service_pb2.ListConceptsRequest, context: Context
    ) -> concept_service_pb2.ListConceptsResponse:
        """`contains` is the size of the answer in MiB, one concept each."""
        self.received.note(request, context)
        concept = concept_pb2.Concept(description="x" * (1 << 20))
        return concept_service_pb2.ListConceptsResponse(concepts=[concept] * int(request.contains or 0))


@dataclass(slots=True)
class Inputs(input_service_pb2_grpc.InputServiceServicer):
    received: Received

    async def CreateInputs(
        self, request: input_service_pb2.CreateInputsRequest, context: Context
    ) -> input_service_pb2.CreateInputsResponse:
        self.received.note(request, context)
        return input_service_pb2.CreateInputsResponse(
            results=[input_service_pb2.CreateInputResult(status=status_pb2.Status()) for _ in request.inputs]
        )

    async def UpdateInput(self, request: input_service_pb2.UpdateInputRequest, context: Context) -> Message:
        self.received.note(request, context)
        return request.input

    async def ListInputs(self, request: input_service_pb2.ListInputsRequest, context: Context) -> Message:
        self.received.note(request, context)
        return input_service_pb2.ListInputsResponse()

    async def DeleteInputs(self, request: input_service_pb2.DeleteInputsRequest, context: Context) -> Message:
        self.received.note(request, context)
        return input_service_pb2.DeleteInputsResponse(statuses=[status_pb2.Status()] * len(request.input_ids))


@dataclass(slots=True)
class Models(model_service_pb2_grpc.ModelServiceServicer):
    received: Received

    async def CreateModel(self, request: model_service_pb2.CreateModelRequest, context: Context) -> model_pb2.Model:
        self.received.note(request, context)
        return request.model

    async def WatchModelVersion(
        self, request: model_service_pb2.WatchModelVersionRequest, context: Context
    ) -> AsyncIterator[model_service_pb2.WatchModelVersionResponse]:
        """Model `refused` fails before the first message, `broken` after it, any other one ends well."""
        self.received.note(request, context)
        model = request.name.split("/")[3]
        if model == "refused":
            await fail(context, 5, "no such version")
        version = model_version_pb2.ModelVersion(name=request.name, progress={"fraction": 0.0})
        yield model_service_pb2.WatchModelVersionResponse(item=version)
        if model == "broken":
            yield model_service_pb2.WatchModelVersionResponse(error=status_pb2.Status(code=14, message="lost"))
            return
        yield model_service_pb2.WatchModelVersionResponse(summary={"model_version": version})


@dataclass(slots=True)
class BaseModels(base_model_service_pb2_grpc.BaseModelServiceServicer):
    received: Received

    async def ImportBaseModel(
        self, request: AsyncIterator[base_model_service_pb2.ImportBaseModelRequest], context: Context
    ) -> base_model_pb2.BaseModel:
        size = 0
        async for part in request:
            self.received.note(part, context)
            size += len(part.chunk)
        return base_model_pb2.BaseModel(name="baseModels/x", size_bytes=size)


@dataclass(slots=True)
class Inference(inference_service_pb2_grpc.InferenceServiceServicer):
    received: Received

    async def Predict(
        self, request: inference_service_pb2.PredictRequest, context: Context
    ) -> inference_service_pb2.PredictResponse:
        self.received.note(request, context)
        score = concept_score_pb2.ConceptScore(concept="dog", value=0.0)
        return inference_service_pb2.PredictResponse(
            predictions=[
                inference_service_pb2.Prediction(status=status_pb2.Status(), concepts=[score]) for _ in request.inputs
            ]
        )


class Backends:
    """All of them, each owner's on a socket of its own, running on a loop in a thread."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.received = Received()
        self.sockets = {owner: directory / f"{owner}.sock" for owner in (*sorted(set(OWNERS.values())), "gateway")}
        self._loop = loop
        self._servers: dict[str, grpc.aio.Server] = {}

    def run(self, coroutine: Coroutine[object, object, Result]) -> Result:
        """Run something on the servers' loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def start(self, owner: str) -> None:
        """Start one owner's server."""
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        server = grpc.aio.server(options=options)
        if owner == "auth":
            app_service_pb2_grpc.add_AppServiceServicer_to_server(Apps(self.received), server)
            key_service_pb2_grpc.add_KeyServiceServicer_to_server(Keys(self.received), server)
        elif owner == "dataset":
            concept_service_pb2_grpc.add_ConceptServiceServicer_to_server(Concepts(self.received), server)
            input_service_pb2_grpc.add_InputServiceServicer_to_server(Inputs(self.received), server)
        elif owner == "registry":
            model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(self.received), server)
            base_model_service_pb2_grpc.add_BaseModelServiceServicer_to_server(BaseModels(self.received), server)
        elif owner == "inference":
            inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(self.received), server)
        else:
            reflection.enable_server_reflection([f"lensmith.v1.{name}" for name in OWNERS], server)
        server.add_insecure_port(f"unix:{self.sockets[owner]}")
        await server.start()
        self._servers[owner] = server

    async def stop(self, owner: str) -> None:
        """Stop one owner's server at once."""
        await self._servers.pop(owner).stop(grace=None)

    async def stop_all(self) -> None:
        """Stop every server."""
        for owner in list(self._servers):
            await self.stop(owner)


@contextmanager
def running_backends(directory: Path) -> Iterator[Backends]:
    """Start every owner's server."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="backends")
    thread.start()
    backends = Backends(directory, loop)
    try:
        for owner in backends.sockets:
            backends.run(backends.start(owner))
        yield backends
    finally:
        backends.run(backends.stop_all())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
