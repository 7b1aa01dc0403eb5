"""The services that dataset asks, as small real gRPC servers: auth with keys, registry with a space, inference."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import grpc
import numpy as np
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from lensmith_api.internal.v1 import key_resolver_service_pb2 as keys_pb
from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import (
    KeyResolverServiceServicer,
    add_KeyResolverServiceServicer_to_server,
)
from lensmith_api.internal.v1.serving_service_pb2_grpc import (
    ServingServiceServicer,
    add_ServingServiceServicer_to_server,
)
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.inference_service_pb2 import EmbedResponse
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from lensmith_platform.errors import InvalidInputError, LensmithError, NotFoundError, UnauthenticatedError, to_status
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import VisionError
from lensmith_vision.pack import builtin_pack, load_card, space_of
from lensmith_vision.resize import apply


async def _abort(context: grpc.aio.ServicerContext, error: LensmithError) -> None:
    status: Status = to_status(error)
    await context.abort_with_status(rpc_status.to_status(status))


class Auth(KeyResolverServiceServicer):
    """Knows keys and apps."""

    def __init__(self) -> None:
        self.apps: dict[str, keys_pb.AppIdentity] = {}
        self.keys: dict[bytes, keys_pb.ResolveKeyResponse] = {}
        self.add_app("main", app_id=1)

    def add_app(self, name: str, *, app_id: int) -> keys_pb.AppIdentity:
        uid = str(uuid5(NAMESPACE_URL, f"app:{name}"))
        self.apps[name] = keys_pb.AppIdentity(app_id=app_id, uid=uid, app=name)
        return self.apps[name]

    def add_key(self, secret: str, app: str, scopes: list[str]) -> None:
        self.keys[hashlib.sha256(secret.encode()).digest()] = keys_pb.ResolveKeyResponse(
            key_uid=f"key-of-{app}", app=self.apps[app], scopes=scopes
        )

    async def ResolveKey(self, request, context):
        found = self.keys.get(request.secret_sha256)
        if found is None:
            await _abort(context, UnauthenticatedError("KEY_UNKNOWN", "no such key"))
        return found

    async def ResolveApp(self, request, context):
        found = self.apps.get(request.app)
        if found is None:
            await _abort(context, NotFoundError("APP_NOT_FOUND", "no such app"))
        return found


class Registry(ServingServiceServicer):
    """Knows the space of every app: that of the pack which ships with the code."""

    def __init__(self) -> None:
        card = load_card(builtin_pack())
        self.base_model = BaseModel(name=f"baseModels/{card.id}", space=space_of(card).id, dimensions=card.feature_dim)
        self.calls = 0

    async def ResolveModel(self, request, context):
        await _abort(context, NotFoundError("MODEL_NOT_FOUND", "no such model"))

    async def ResolveSpace(self, request, context):
        self.calls += 1
        return serving_pb.ResolveSpaceResponse(base_model=self.base_model)

    async def FetchArtefact(self, request, context):
        await _abort(context, NotFoundError("ARTEFACT_NOT_FOUND", "no such artefact"))
        yield serving_pb.FetchArtefactResponse()


@dataclass
class Inference(InferenceServiceServicer):
    """Embeds with the pack that ships with the code.

    Attributes:
        open: embedding waits until it is set.
        calls: how often each picture (SHA-256) was asked about.
        batches: sizes of the batches asked for.
        refused: statuses to answer for pictures instead, by SHA-256.
        refusals: errors to end the next calls with.
        poison: pictures whose batch fails as a whole.
    """

    base_model: BaseModel
    open: asyncio.Event = field(default_factory=asyncio.Event)
    calls: Counter = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    refused: dict[bytes, Status] = field(default_factory=dict)
    refusals: list[LensmithError] = field(default_factory=list)
    poison: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.open.set()
        self._engine = OnnxRuntimeEngine(1)
        self._card = self._engine.load(self.base_model.space, builtin_pack())

    def vector(self, data: bytes) -> np.ndarray:
        pixels = apply(decode(data), self._card.resize)
        return self._engine.run(self.base_model.space, pixels[None]).features[0]

    async def Predict(self, request, context):
        await _abort(context, NotFoundError("MODEL_NOT_FOUND", "no such model"))

    async def Embed(self, request, context):
        self.batches.append(len(request.inputs))
        hashes = [hashlib.sha256(query.image.content).digest() for query in request.inputs]
        self.calls.update(hashes)
        await self.open.wait()
        if self.refusals:
            await _abort(context, self.refusals.pop(0))
        if self.poison.intersection(hashes):
            await context.abort(grpc.StatusCode.INTERNAL, "out of luck")
        response = EmbedResponse(space=self.base_model.space)
        for query, sha256 in zip(request.inputs, hashes, strict=True):
            answer = response.embeddings.add(id=query.id)
            if sha256 in self.refused:
                answer.status.CopyFrom(self.refused[sha256])
                continue
            try:
                answer.vector.extend((await asyncio.to_thread(self.vector, query.image.content)).tolist())
            except VisionError as error:
                answer.status.CopyFrom(to_status(InvalidInputError(error.reason, str(error))))
        return response


class Peer:
    """A server on a unix socket that can be stopped and started again at the same address."""

    def __init__(self, socket: Path, *servicers: object) -> None:
        self.target = f"unix:{socket}"
        self._servicers = servicers
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 66 << 20)])
        for servicer in self._servicers:
            if isinstance(servicer, KeyResolverServiceServicer):
                add_KeyResolverServiceServicer_to_server(servicer, server)
            if isinstance(servicer, ServingServiceServicer):
                add_ServingServiceServicer_to_server(servicer, server)
            if isinstance(servicer, InferenceServiceServicer):
                add_InferenceServiceServicer_to_server(servicer, server)
        server.add_insecure_port(self.target)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
