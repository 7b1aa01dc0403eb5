"""A small server that answers as it is told: what the client does with errors, outages and delays."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from lensmith_api.v1 import inference_service_pb2, key_service_pb2
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceServicer, add_KeyServiceServicer_to_server

Context = grpc.aio.ServicerContext


@dataclass
class Script:
    """What the server does: `failures` are raised one a call, then it answers."""

    failures: list[Callable[[Context], object]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    metadata: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    async def play(self, name: str, context: Context) -> None:
        self.calls[name] += 1
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        if self.failures:
            await self.failures.pop(0)(context)


class Keys(KeyServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def WhoAmI(self, request, context):
        await self._script.play("WhoAmI", context)
        return key_service_pb2.WhoAmIResponse(app="apps/trash", effective_scopes=["Predict"])

    async def DeleteKey(self, request, context):
        await self._script.play("DeleteKey", context)


class Inference(InferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Predict(self, request, context):
        await self._script.play("Predict", context)
        return inference_service_pb2.PredictResponse(
            model_version=f"{request.model}/versions/1",
            predictions=[inference_service_pb2.Prediction(id=str(i)) for i, _ in enumerate(request.inputs)],
        )


@asynccontextmanager
async def scripted_server() -> AsyncIterator[Script]:
    """Runs the server."""
    script = Script()
    server = grpc.aio.server()
    add_KeyServiceServicer_to_server(Keys(script), server)
    add_InferenceServiceServicer_to_server(Inference(script), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    script.url = f"http://127.0.0.1:{port}"
    try:
        yield script
    finally:
        await server.stop(None)
