"""What inference asks: a registry with packs and heads, and a dataset with training pictures."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1.serving_service_pb2_grpc import (
    ServingServiceServicer,
)
from lensmith_api.internal.v1.training_data_service_pb2 import (
    FindNearestTrainingInputsRequest,
    FindNearestTrainingInputsResponse,
    NearestTrainingInput,
    NearestTrainingInputs,
    TrainingLabel,
)
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceServicer
from lensmith_api.v1 import base_model_service_pb2 as base_pb
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceServicer
from lensmith_platform.errors import NotFoundError, PreconditionError
from lensmith_vision.general import hierarchy
from lensmith_vision.heads import Head, save
from lensmith_vision.pack import load_card, space_of
from tests.peers import abort

CHUNK = 1 << 20


def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Registry(ServingServiceServicer, BaseModelServiceServicer):
    """Knows models, and sends packs and heads."""

    folders: dict[str, Path] = field(default_factory=dict)
    base_models: dict[str, BaseModel] = field(default_factory=dict)
    models: dict[tuple[int, str], dict[int, serving_pb.ServedModel]] = field(default_factory=dict)
    production: dict[tuple[int, str], int] = field(default_factory=dict)
    heads: dict[str, bytes] = field(default_factory=dict)
    calls: Counter = field(default_factory=Counter)
    general: dict[str, serving_pb.ServedModel] = field(default_factory=dict)
    corrupt: bool = False
    networks: dict[str, Path] = field(default_factory=dict)
    networks_open: asyncio.Event = field(default_factory=_opened)

    def add_pack(self, folder: Path) -> BaseModel:
        card = load_card(folder)
        base_model = BaseModel(
            name=f"baseModels/{card.id}",
            version=str(card.version),
            space=space_of(card).id,
            dimensions=card.feature_dim,
            sha256=card.sha256,
            size_bytes=card.bytes,
            rank=card.rank,
        )
        self.folders[base_model.space] = folder
        self.base_models[base_model.name] = base_model
        return base_model

    def add_version(
        self, app_id: int, app: str, model: str, base_model: BaseModel, head: Head | None, *, concepts=()
    ) -> serving_pb.ServedModel:
        """Add the next version of a model and make it the one in production."""
        versions = self.models.setdefault((app_id, model), {})
        number = len(versions) + 1
        key = ""
        if head is not None:
            data = save(head)
            key = f"apps/uid-{app}/heads/{hashlib.sha256(data).hexdigest()}"
            self.heads[key] = data
        kinds = {"multi_class": 1, "multi_label": 2, "regression": 3}
        own = list(head.concepts) if head is not None else list(concepts)
        served = serving_pb.ServedModel(
            model_uid=f"uid-{model}",
            version_uid=f"uid-{model}-{number}",
            name=f"apps/{app}/models/{model}/versions/{number}",
            type=kinds[head.type] if head is not None else 1,
            base_model=base_model,
            head_artefact=key,
            concepts=own,
            display_names=[concept.title() for concept in own],
            thresholds=[float(value) for value in head.thresholds] if head is not None else [0.5] * len(own),
        )
        versions[number] = served
        self.production[(app_id, model)] = number
        return served

    def add_network(self, served: serving_pb.ServedModel, folder: Path) -> None:
        """Give a version a network of its own."""
        card = load_card(folder)
        served.network_artefact = f"networks/7/{served.version_uid}/1"
        self.networks[served.network_artefact] = folder
        network = BaseModel(
            name=served.name, space=space_of(card).id, sha256=card.sha256, size_bytes=card.bytes, version="1"
        )
        served.base_model.CopyFrom(network)

    async def ResolveModel(self, request, context):
        self.calls["ResolveModel"] += 1
        versions = self.models.get((request.app_id, request.model))
        if versions is None:
            await abort(context, NotFoundError("MODEL_NOT_FOUND", "no such model"))
        number = request.version or self.production.get((request.app_id, request.model), 0)
        if number == 0:
            await abort(context, PreconditionError("MODEL_HAS_NO_TRAINED_VERSION", "the model was never trained"))
        if number not in versions:
            await abort(context, NotFoundError("VERSION_NOT_FOUND", "no such version"))
        return versions[number]

    def add_general(self, base_model: BaseModel, thresholds: float = 0.5, temperature: float = 1.0) -> None:
        """Add a version of General and put it in production."""
        served = self.add_version(1, "main", "general", base_model, None, concepts=[c.id for c in hierarchy().concepts])
        served.type, served.taxonomy, served.temperature = 2, "imagenet-1k", temperature
        served.display_names[:] = [concept.name for concept in hierarchy().concepts]
        served.thresholds[:] = [thresholds] * len(served.concepts)
        self.general[base_model.space] = served

    async def ResolveGeneral(self, request, context):
        self.calls["ResolveGeneral"] += 1
        if not self.general:
            await abort(context, NotFoundError("GENERAL_NOT_INSTALLED", "no base model has the classes"))
        return self.general.get(request.space) or next(iter(self.general.values()))

    async def ResolveSpace(self, request, context):
        self.calls["ResolveSpace"] += 1
        if request.space:
            found = next((each for each in self.base_models.values() if each.space == request.space), None)
            if found is None:
                await abort(context, NotFoundError("SPACE_NOT_FOUND", "no such space"))
            return serving_pb.ResolveSpaceResponse(base_model=found)
        name = f"baseModels/{request.base_model}" if request.base_model else next(iter(self.base_models))
        return serving_pb.ResolveSpaceResponse(base_model=self.base_models[name])

    async def FetchArtefact(self, request, context) -> AsyncIterator[serving_pb.FetchArtefactResponse]:
        self.calls["FetchArtefact"] += 1
        if request.WhichOneof("artefact") == "head":
            self.calls["head"] += 1
            data = self.heads[request.head]
        elif request.WhichOneof("artefact") == "network_file":
            self.calls["network"] += 1
            await self.networks_open.wait()
            data = (self.networks[request.network_file.network] / request.network_file.file_name).read_bytes()
        else:
            self.calls["pack"] += 1
            data = (self.folders[request.pack_file.space] / request.pack_file.file_name).read_bytes()
        if self.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        for start in range(0, len(data), CHUNK):
            yield serving_pb.FetchArtefactResponse(chunk=data[start : start + CHUNK])

    async def GetBaseModel(self, request, context):
        found = self.base_models.get(request.name)
        if found is None:
            await abort(context, NotFoundError("BASE_MODEL_NOT_FOUND", "no such base model"))
        return found

    async def ListBaseModels(self, request, context):
        ranked = sorted(self.base_models.values(), key=lambda one: -one.rank)
        return base_pb.ListBaseModelsResponse(base_models=ranked[: request.page_size or 50])


@dataclass
class Dataset(TrainingDataServiceServicer):
    """Finds the same training picture whatever it is asked about."""

    asked: list[FindNearestTrainingInputsRequest] = field(default_factory=list)

    async def FindNearestTrainingInputs(self, request, context):
        self.asked.append(request)
        label = TrainingLabel(concept=request.concepts[0], positive=True)
        one = NearestTrainingInput(input="apps/a/inputs/like-it", similarity=0.875, labels=[label])
        found = NearestTrainingInputs(inputs=[one])
        return FindNearestTrainingInputsResponse(nearest=[found for _ in request.vectors])
