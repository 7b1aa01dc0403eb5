"""Asking inference for vectors: in which space an app's inputs are embedded, and what became of each picture."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import structlog
from google.rpc.status_pb2 import Status

from lensmith_api.internal.v1.serving_service_pb2 import ResolveSpaceRequest
from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.inference_service_pb2 import EmbedRequest, EmbedResponse, ImageQuery
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.input_pb2 import Image
from lensmith_dataset.general_concepts import general_from_response
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_dataset.store.spaces import Space
from lensmith_dataset.vectors import halfvec_from_numbers
from lensmith_platform.clock import Clock
from lensmith_platform.errors import (
    ConflictError,
    DependencyUnavailableError,
    InternalError,
    LensmithError,
    QuotaExceededError,
    to_status,
)
from lensmith_platform.principal import AppRef
from lensmith_platform.resource_names import build
from lensmith_platform.service_auth import service_call_app

if TYPE_CHECKING:
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub
    from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

_LOG = structlog.get_logger(__name__)

_SPACE_SECONDS = 60.0
"""How long an answer of registry is used. When an app moves to another base model, dataset is told of it itself."""
_MAX_SPACES = 10_000

_PICTURE_IS_WRONG = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
_INFERENCE_IS_WRONG = frozenset(
    code.value[0] for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to embed.

    Attributes:
        id: number of the input.
        hopeless: whether it has made inference fail so often that it is given up if it does so again.
    """

    id: int
    data: bytes
    hopeless: bool


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of a batch. A picture in neither mapping is to be tried again later.

    Attributes:
        space: space of the vectors.
        vectors: halfvecs by number of the input.
        failures: serialised `google.rpc.Status` by number of the input.
        broken: numbers of pictures that made inference fail, to be tried again.
        general: what General saw, by number of the input.
    """

    space: str
    vectors: Mapping[int, bytes]
    failures: Mapping[int, bytes]
    broken: Collection[int] = ()
    general: Mapping[int, GeneralConcepts] = field(default_factory=dict)


class Embedder:
    """Asks registry and inference.

    Args:
        registry: channel to registry.
        inference: channel to inference.
        clock: where the time comes from.
        seconds: deadline of one call that embeds.
        general_concepts: whether General shall look at the pictures too.
    """

    def __init__(
        self,
        registry: grpc.aio.Channel,
        inference: grpc.aio.Channel,
        clock: Clock,
        seconds: float,
        *,
        general_concepts: bool,
    ) -> None:
        self._serving: ServingServiceAsyncStub = ServingServiceStub(registry)
        self._inference: InferenceServiceAsyncStub = InferenceServiceStub(inference)
        self._clock = clock
        self._seconds = seconds
        self._general_concepts = general_concepts
        self._spaces: dict[int, tuple[float, BaseModel]] = {}
        # An app's first batches come side by side; one of them asks for all.
        self._asking: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def embed(self, app: AppRef, pictures: Sequence[Picture], space: Space | None) -> Embedded:
        """Embed a batch of one app's pictures.

        Args:
            app: the app.
            pictures: the batch.
            space: where to; None: where registry says.

        Raises:
            LensmithError: registry or inference does not answer, or not as it should; try again later.
        """
        with service_call_app(app):
            base_model = await self._base_model(app) if space is None else _base_model_of(space)
            request = EmbedRequest(
                parent=build("apps/{app}", app=app.name),
                base_model=base_model.name,
                # A base model of which a newer version is installed is found by its space only.
                space=base_model.space,
                inputs=[ImageQuery(id=str(picture.id), image=Image(content=picture.data)) for picture in pictures],
                with_general_concepts=self._general_concepts,
            )
            try:
                response = await self._inference.Embed(request, timeout=self._seconds)
            except (DependencyUnavailableError, QuotaExceededError, ConflictError):
                raise
            except LensmithError as error:
                return self._refused(app, base_model, pictures, error)
        if response.space != base_model.space or len(response.embeddings) != len(pictures):
            # The app's space has just changed, or the two services disagree: registry is asked again.
            self._spaces.pop(app.app_id, None)
            raise DependencyUnavailableError(
                "SPACE_DISAGREES", f"inference answered in space {response.space}; registry says {base_model.space}"
            )
        return _outcome(base_model, pictures, response)

    async def _base_model(self, app: AppRef) -> BaseModel:
        async with self._asking[app.app_id]:
            now = self._clock.monotonic()
            known = self._spaces.get(app.app_id)
            if known is not None and known[0] > now:
                return known[1]
            base_model = await self._resolved(app)
            if len(self._spaces) >= _MAX_SPACES:
                self._spaces.clear()
                self._asking.clear()
            self._spaces[app.app_id] = (now + _SPACE_SECONDS, base_model)
            return base_model

    async def _resolved(self, app: AppRef) -> BaseModel:
        try:
            response = await self._serving.ResolveSpace(
                ResolveSpaceRequest(app_id=app.app_id, base_model=app.base_model), timeout=self._seconds
            )
        except DependencyUnavailableError:
            raise
        except LensmithError as error:
            # No base model is installed yet, for example: the pictures wait, they are not to blame.
            raise DependencyUnavailableError("SPACE_UNKNOWN", f"registry names no space: {error}") from error
        return response.base_model

    def _refused(
        self, app: AppRef, base_model: BaseModel, pictures: Sequence[Picture], error: LensmithError
    ) -> Embedded:
        """A call refused as a whole says nothing about a picture, unless one picture alone is always refused."""
        if len(pictures) == 1 and pictures[0].hopeless:
            return Embedded(base_model.space, {}, {pictures[0].id: _gave_up().SerializeToString()})
        _LOG.error("embed_refused", app_id=app.app_id, reason=error.reason, message=error.message)
        self._spaces.pop(app.app_id, None)
        raise DependencyUnavailableError("EMBED_REFUSED", f"inference refused a batch: {error}") from error


def _outcome(base_model: BaseModel, pictures: Sequence[Picture], response: EmbedResponse) -> Embedded:
    vectors: dict[int, bytes] = {}
    failures: dict[int, bytes] = {}
    broken: list[int] = []
    for picture, embedding in zip(pictures, response.embeddings, strict=True):
        code = embedding.status.code
        vector = halfvec_from_numbers(embedding.vector, base_model.dimensions) if code == 0 else None
        if vector is not None:
            vectors[picture.id] = vector
        elif code in _PICTURE_IS_WRONG:
            failures[picture.id] = embedding.status.SerializeToString()
        elif code == 0 or code in _INFERENCE_IS_WRONG:
            if picture.hopeless:
                failures[picture.id] = _gave_up().SerializeToString()
            else:
                broken.append(picture.id)
        else:
            _LOG.warning("embed_failed", input_id=picture.id, code=code, message=embedding.status.message)
    general = {int(query): seen for query, seen in general_from_response(response).items()}
    return Embedded(base_model.space, vectors, failures, broken, general)


def _base_model_of(space: Space) -> BaseModel:
    return BaseModel(name=space.base_model, space=space.space, dimensions=space.dimensions)


def _gave_up() -> Status:
    status = to_status(InternalError("EMBED_FAILED", ""))
    status.message = "The picture could not be embedded, however often it was tried."
    return status
