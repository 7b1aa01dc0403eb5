"""The services that dataset asks, as small real gRPC servers: registry with a space, inference."""

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.rpc.status_pb2 import Status

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1.serving_service_pb2_grpc import (
    ServingServiceServicer,
)
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.concept_score_pb2 import ConceptScore
from lensmith_api.v1.inference_service_pb2 import EmbedResponse
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceServicer
from lensmith_platform.errors import InvalidInputError, LensmithError, NotFoundError, to_status
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import VisionError
from lensmith_vision.pack import builtin_pack, load_card, space_of
from lensmith_vision.resize import apply
from tests.peers import abort


class Registry(ServingServiceServicer):
    """Knows the space of every app: that of the pack which ships with the code."""

    def __init__(self) -> None:
        card = load_card(builtin_pack())
        self.base_model = BaseModel(name=f"baseModels/{card.id}", space=space_of(card).id, dimensions=card.feature_dim)
        self.calls = 0

    async def ResolveModel(self, request, context):
        await abort(context, NotFoundError("MODEL_NOT_FOUND", "no such model"))

    async def ResolveSpace(self, request, context):
        self.calls += 1
        return serving_pb.ResolveSpaceResponse(base_model=self.base_model)

    async def FetchArtefact(self, request, context):
        await abort(context, NotFoundError("ARTEFACT_NOT_FOUND", "no such artefact"))
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
        closed_spaces: spaces in which nothing can be embedded.
        general: what General sees in pictures, by SHA-256.
        general_version: which version of General says so.
        general_asked: how many calls asked for it.
    """

    base_model: BaseModel
    open: asyncio.Event = field(default_factory=asyncio.Event)
    calls: Counter = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    refused: dict[bytes, Status] = field(default_factory=dict)
    refusals: list[LensmithError] = field(default_factory=list)
    poison: set[bytes] = field(default_factory=set)
    closed_spaces: set[str] = field(default_factory=set)
    general: dict[bytes, list[ConceptScore]] = field(default_factory=dict)
    general_version: int = 1
    general_asked: int = 0

    def __post_init__(self) -> None:
        self.open.set()
        self._engine = OnnxRuntimeEngine(1)
        self._card = self._engine.load(self.base_model.space, builtin_pack())

    def vector(self, data: bytes, space: str = "") -> np.ndarray:
        """The vector of a picture; in any space but the usual one it points the other way."""
        if space not in ("", self.base_model.space):
            return -self.vector(data)
        pixels = apply(decode(data), self._card.resize)
        return self._engine.run(self.base_model.space, pixels[None]).features[0]

    async def Predict(self, request, context):
        await abort(context, NotFoundError("MODEL_NOT_FOUND", "no such model"))

    async def Embed(self, request, context):
        self.batches.append(len(request.inputs))
        hashes = [hashlib.sha256(query.image.content).digest() for query in request.inputs]
        self.calls.update(hashes)
        await self.open.wait()
        if self.refusals:
            await abort(context, self.refusals.pop(0))
        if self.poison.intersection(hashes) or request.space in self.closed_spaces:
            await context.abort(grpc.StatusCode.INTERNAL, "out of luck")
        response = EmbedResponse(space=request.space or self.base_model.space)
        if request.with_general_concepts:
            self.general_asked += 1
            response.general_version = f"apps/main/models/general/versions/{self.general_version}"
        for query, sha256 in zip(request.inputs, hashes, strict=True):
            answer = response.embeddings.add(id=query.id)
            if sha256 in self.refused:
                answer.status.CopyFrom(self.refused[sha256])
                continue
            if request.with_general_concepts:
                answer.general_concepts.extend(self.general.get(sha256, ()))
            try:
                vector = await asyncio.to_thread(self.vector, query.image.content, response.space)
                answer.vector.extend(vector.tolist())
            except VisionError as error:
                answer.status.CopyFrom(to_status(InvalidInputError(error.reason, str(error))))
        return response
