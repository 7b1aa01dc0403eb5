"""Registry with all its interceptors between real peers and real servers, for its own tests and the trainer's."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from lensmith_api.v1 import model_service_pb2 as model_pb
from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_service_pb2_grpc import ModelServiceStub
from lensmith_api.v1.model_version_pb2 import ModelVersion, ModelVersionState
from lensmith_api.v1.upgrade_service_pb2_grpc import UpgradeServiceStub
from lensmith_platform.server import RunningService, running
from lensmith_platform.service_auth import TokenSigner, make_key_pair
from lensmith_registry.app import RegistryService, build
from lensmith_registry.settings import RegistrySettings
from lensmith_vision.evaluation import ConceptEvaluation, Evaluation
from lensmith_vision.heads import Head, save
from lensmith_vision.pack import builtin_pack, load_card, space_of
from tests.lensmith_registry.peers import Dataset
from tests.peers import Auth, Peer
from tests.polling import until

if TYPE_CHECKING:
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub
    from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceAsyncStub
    from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceAsyncStub
    from lensmith_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from lensmith_api.v1.upgrade_service_pb2_grpc import UpgradeServiceAsyncStub

TRASH, OTHER = 7, 8
KEY, OTHER_KEY, READ_KEY, OPERATOR_KEY = "key-of-trash", "key-of-other", "read-only-key", "key-of-operator"
SCOPES = ["Models:Add", "Models:Get", "Models:Delete", "Models:Train", "Predict", "Apps:Get", "Apps:Add"]
PLAIN = load_card(builtin_pack())
SPACE = space_of(PLAIN).id
DIM = PLAIN.feature_dim
MULTI_CLASS, MULTI_LABEL, REGRESSION = 1, 2, 3
Metadata = tuple[tuple[str, str], ...]


@dataclass
class Rig:
    """A running registry, its peers, and ways to ask it."""

    service: RunningService[RegistryService]
    channel: grpc.aio.Channel
    auth: Auth
    dataset: Dataset
    auth_peer: Peer
    dataset_peer: Peer
    directory: Path
    database_url: str
    models: "ModelServiceAsyncStub"
    base_models: "BaseModelServiceAsyncStub"
    serving: "ServingServiceAsyncStub"
    jobs: "TrainingJobServiceAsyncStub"
    upgrades: "UpgradeServiceAsyncStub"

    @staticmethod
    def key(secret: str = KEY) -> Metadata:
        return (("authorization", f"Key {secret}"),)

    def token(self, service: str, app_id: int = 0) -> Metadata:
        signer = TokenSigner(service, self.directory / "private" / f"{service}.pem")
        return (("authorization", f"Service {signer.token('registry', app_id)}"),)

    async def create(
        self, model_id: str, model: Model | None = None, *, app: str = "trash", key: str = KEY, request_id: str = ""
    ) -> Model:
        request = model_pb.CreateModelRequest(
            parent=f"apps/{app}", model_id=model_id, model=model or Model(type=MULTI_CLASS), request_id=request_id
        )
        return await self.models.CreateModel(request, metadata=self.key(key))

    async def train(self, model_id: str, *, app: str = "trash", key: str = KEY, request_id: str = "") -> ModelVersion:
        request = model_pb.TrainModelRequest(name=f"apps/{app}/models/{model_id}", request_id=request_id)
        return await self.models.TrainModel(request, metadata=self.key(key))

    async def version(self, name: str, *, key: str = KEY) -> ModelVersion:
        return await self.models.GetModelVersion(model_pb.GetModelVersionRequest(name=name), metadata=self.key(key))

    async def model(self, model_id: str, *, app: str = "trash", key: str = KEY) -> Model:
        request = model_pb.GetModelRequest(name=f"apps/{app}/models/{model_id}")
        return await self.models.GetModel(request, metadata=self.key(key))

    async def until_state(self, name: str, state: str) -> ModelVersion:
        """Wait until a version is in a state; fail when it is in another last one."""
        wanted = ModelVersionState.Value(f"MODEL_VERSION_STATE_{state}")

        async def arrived() -> ModelVersion | None:
            version = await self.version(name)
            assert version.state == wanted or version.state < 3, version
            return version if version.state == wanted else None

        return await until(arrived)

    async def queued(self, model_id: str = "sorter", counts: dict[str, int] | None = None) -> ModelVersion:
        """A version that waits, of a model with data enough."""
        self.dataset.add_classes(TRASH, DIM, counts or {"glass": 30, "metal": 30})
        await self.create(model_id)
        return await self.train(model_id)

    async def claim(self, version: ModelVersion, *, app_id: int = TRASH, trainer: str = "test") -> job_pb.TrainingJob:
        request = job_pb.ClaimModelVersionRequest(app_id=app_id, version_uid=version.uid, trainer=trainer)
        return await self.jobs.ClaimModelVersion(request, metadata=self.token("trainer", app_id))

    async def report(self, job: job_pb.TrainingJob, fraction: float = 0.5) -> job_pb.ReportProgressResponse:
        request = job_pb.ReportProgressRequest(app_id=job.app_id, version_uid=job.version_uid, lease=job.lease)
        request.progress.fraction = fraction
        request.progress.stage = "fitting"
        return await self.jobs.ReportProgress(request, metadata=self.token("trainer", job.app_id))

    async def complete(self, job: job_pb.TrainingJob, *, seed: int = 0, **changes: object) -> ModelVersion:
        request = completion(job, seed=seed)
        for name, value in changes.items():
            # `summary.accuracy` is a field of a field.
            message, _, field = name.rpartition(".")
            setattr(getattr(request, message) if message else request, field, value)
        return await self.jobs.CompleteModelVersion(request, metadata=self.token("trainer", job.app_id))

    async def trained(self, model_id: str = "sorter") -> ModelVersion:
        """A version that is READY, handed in by a trainer of this test."""
        version = await self.queued(model_id)
        await self.complete(await self.claim(version))
        return await self.until_state(version.name, "READY")

    async def sql(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Look into, or change, the database as a superuser."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()


def completion(job: job_pb.TrainingJob, *, seed: int = 0) -> job_pb.CompleteModelVersionRequest:
    """What a trainer hands in for a multi-class job, with random numbers."""
    concepts = tuple(job.model.concepts)
    random = np.random.RandomState(seed)
    head = Head(
        "multi_class",
        job.space,
        concepts,
        random.randn(DIM, len(concepts)).astype(np.float32),
        np.zeros(len(concepts), np.float32),
        np.full(len(concepts), 0.5, np.float32),
    )
    rows = tuple(ConceptEvaluation(concept, 30, 30, 0.9, 0.8, 0.85, 0.5, roc_auc=0.95) for concept in concepts)
    evaluation = Evaluation("5-fold out-of-fold", 60, 60, 0.01, accuracy=0.9, concepts=rows)
    return job_pb.CompleteModelVersionRequest(
        app_id=job.app_id,
        version_uid=job.version_uid,
        lease=job.lease,
        head=save(head),
        evaluation_json=evaluation.to_json().encode(),
        concepts=concepts,
        thresholds=[0.5] * len(concepts),
        input_count=60,
        dataset_sha256=hashlib.sha256(b"data").hexdigest(),
        summary={"accuracy": 0.9},
    )


async def refusal(call: Awaitable[object]) -> ErrorInfo:
    """The typed refusal of a call, with the gRPC code and message in its metadata."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    status.details[0].Unpack(info)
    info.metadata["code"] = error.code().name
    info.metadata["text"] = error.details() or ""
    return info


@asynccontextmanager
async def rig_of(
    directory: Path, database_urls: Sequence[str], nats_url: str, s3_url: str, **settings: object
) -> AsyncIterator[Rig]:
    """Start registry and its peers.

    Args:
        directory: Of the test.
        database_urls: Of the service, of its workers, and of a superuser.
        nats_url: The bus.
        s3_url: The bucket.
        settings: Of registry, other than these.
    """
    for service in ("registry", "dataset", "inference", "trainer", "auth"):
        make_key_pair(service, directory / "private" / f"{service}.pem", directory / "keys")
    auth, dataset = Auth(), Dataset()
    auth.add_app("trash", app_id=TRASH)
    auth.add_app("other", app_id=OTHER)
    auth.add_key(KEY, "trash", SCOPES)
    auth.add_key(OTHER_KEY, "other", SCOPES)
    auth.add_key(READ_KEY, "trash", ["Predict", "Search"])
    auth.add_key(OPERATOR_KEY, None, [])
    # Paths of unix sockets are short, and pytest's directories are not.
    with tempfile.TemporaryDirectory(prefix="lens-") as sockets:
        auth_peer, dataset_peer = Peer(Path(sockets) / "auth", auth), Peer(Path(sockets) / "dataset", dataset)
        await auth_peer.start()
        await dataset_peer.start()
        chosen = RegistrySettings(
            **{
                "service_key_file": directory / "private" / "registry.pem",
                "service_keys_dir": directory / "keys",
                "addresses": {"auth": auth_peer.target, "dataset": dataset_peer.target},
                "listen": f"unix:{Path(sockets) / 'registry'}",
                "postgres_url": database_urls[0],
                "worker_postgres_url": database_urls[1],
                "postgres_pool_size": 5,
                "nats_url": nats_url,
                "s3_url": s3_url,
                "grace_seconds": 1.0,
                # Whatever else ships with the code: apps of these tests learn on `plain` unless a test says otherwise.
                "install_builtin_packs": False,
                **settings,
                "pack_folders": os.pathsep.join([str(builtin_pack()), str(settings.get("pack_folders", ""))]),
            }
        )
        try:
            async with running(chosen, build) as service, grpc.aio.insecure_channel(service.target) as channel:
                await until(lambda: _true(service.readiness.is_ready))
                yield Rig(
                    service,
                    channel,
                    auth,
                    dataset,
                    auth_peer,
                    dataset_peer,
                    directory,
                    database_urls[2],
                    ModelServiceStub(channel),
                    BaseModelServiceStub(channel),
                    ServingServiceStub(channel),
                    TrainingJobServiceStub(channel),
                    UpgradeServiceStub(channel),
                )
        finally:
            dataset.open.set()
            await asyncio.gather(auth_peer.stop(), dataset_peer.stop())


async def _true(value: bool) -> bool:
    return value
