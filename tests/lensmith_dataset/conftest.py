"""Dataset with all its interceptors, on real servers, between real peers."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest

from lensmith_api.internal.v1.space_service_pb2_grpc import SpaceServiceStub
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_api.v1 import concept_service_pb2, input_service_pb2
from lensmith_api.v1.annotation_service_pb2_grpc import AnnotationServiceStub
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceStub
from lensmith_api.v1.input_pb2 import Image, InputStatus
from lensmith_api.v1.input_service_pb2_grpc import InputServiceStub
from lensmith_dataset.app import DatasetService, build
from lensmith_dataset.settings import DatasetSettings
from lensmith_platform.errors import from_status
from lensmith_platform.server import RunningService, running
from lensmith_platform.service_auth import TokenSigner, make_key_pair
from tests.lensmith_dataset.peers import Inference, Registry
from tests.peers import Auth, Peer
from tests.polling import until

if TYPE_CHECKING:
    from tests.conftest import Bucket, Database

APP, OTHER_APP = "a", "b"
APP_IDS = {APP: 7, OTHER_APP: 8}
READY = InputStatus.INPUT_STATUS_READY
PENDING = InputStatus.INPUT_STATUS_PENDING
FAILED = InputStatus.INPUT_STATUS_FAILED

Metadata = tuple[tuple[str, str], ...]


def reason_of(status: Any) -> str:
    """Reason of a `google.rpc.Status`; empty for OK."""
    return from_status(status).reason if status.code else ""


@dataclass
class Rig:
    """A running dataset service and its peers."""

    running: RunningService[DatasetService]
    settings: DatasetSettings
    channel: grpc.aio.Channel
    auth: Auth
    registry: Registry
    inference: Inference
    inference_peer: Peer
    database: "Database"
    bucket: "Bucket"
    directory: Path

    def __post_init__(self) -> None:
        self.inputs = InputServiceStub(self.channel)
        self.concepts = ConceptServiceStub(self.channel)
        self.annotations = AnnotationServiceStub(self.channel)
        self.training = TrainingDataServiceStub(self.channel)
        self.spaces = SpaceServiceStub(self.channel)

    def key(self, app: str = APP) -> Metadata:
        return (("authorization", f"Key secret-of-{app}"),)

    def token(self, service: str, app_id: int) -> Metadata:
        signer = TokenSigner(service, self.directory / "private" / f"{service}.pem")
        return (("authorization", f"Service {signer.token('dataset', app_id)}"),)

    async def create(self, *items: input_service_pb2.NewInput, app: str = APP, **options: Any) -> list[Any]:
        """CreateInputs; returns the results."""
        request = input_service_pb2.CreateInputsRequest(parent=f"apps/{app}", inputs=items, **options)
        return list((await self.inputs.CreateInputs(request, metadata=self.key(app))).results)

    async def create_concepts(self, *own_ids: str, app: str = APP) -> None:
        request = concept_service_pb2.CreateConceptsRequest(
            parent=f"apps/{app}", concepts=[concept_service_pb2.NewConcept(concept_id=own_id) for own_id in own_ids]
        )
        await self.concepts.CreateConcepts(request, metadata=self.key(app))

    async def get(self, name: str, app: str = APP) -> Any:
        return await self.inputs.GetInput(input_service_pb2.GetInputRequest(name=name), metadata=self.key(app))

    async def counts(self, app: str = APP) -> Any:
        return await self.inputs.GetInputCounts(
            input_service_pb2.GetInputCountsRequest(parent=f"apps/{app}"), metadata=self.key(app)
        )

    async def indexed(self, app: str = APP) -> None:
        """Wait until no input waits."""

        async def settled() -> bool:
            return (await self.counts(app)).pending == 0

        await until(settled)

    async def sql(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Look at the database past all policies."""
        connection = await asyncpg.connect(self.database.admin_url, server_settings={"search_path": "dataset,public"})
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    def objects(self) -> set[str]:
        """Keys of all objects in the bucket."""
        return {str(found.object_name) for found in self.bucket.client.list_objects(self.bucket.name, recursive=True)}


def new_input(data: bytes, input_id: str = "", **fields: Any) -> input_service_pb2.NewInput:
    return input_service_pb2.NewInput(input_id=input_id, image=Image(content=data), **fields)


Start = Callable[..., Awaitable[Rig]]


@asynccontextmanager
async def _rig(
    directory: Path, database: "Database", nats_url: str, bucket: "Bucket", **overrides: Any
) -> AsyncIterator[Rig]:
    for service in ("dataset", "auth", "registry", "inference", "trainer"):
        make_key_pair(service, directory / "private" / f"{service}.pem", directory / "keys")
    auth, registry = Auth(), Registry()
    inference = Inference(registry.base_model)
    for app, app_id in APP_IDS.items():
        auth.add_app(app, app_id=app_id)
        scopes = ["Inputs:Get", "Inputs:Add", "Inputs:Delete", "Concepts:Get", "Concepts:Add", "Concepts:Delete"]
        auth.add_key(f"secret-of-{app}", app, [*scopes, "Annotations:Get", "Annotations:Add"])
    async with AsyncExitStack() as stack:
        # Paths of unix sockets are short, and pytest's directories are not.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lens-")))
        peers = {name: Peer(sockets / name, one) for name, one in (("auth", auth), ("registry", registry))}
        peers["inference"] = Peer(sockets / "inference", inference)
        for peer in peers.values():
            await peer.start()
            stack.push_async_callback(peer.stop)
        settings = DatasetSettings(
            service_key_file=directory / "private" / "dataset.pem",
            service_keys_dir=directory / "keys",
            addresses={name: peer.target for name, peer in peers.items()},
            postgres_url=database.url("dataset"),
            worker_postgres_url=database.url("dataset", worker=True),
            nats_url=nats_url,
            s3_url=bucket.url,
            grace_seconds=2.0,
            **overrides,
        )
        service = await stack.enter_async_context(running(settings, build))
        options = [("grpc.max_receive_message_length", 66 << 20), ("grpc.max_send_message_length", 80 << 20)]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.target, options=options))
        yield Rig(
            service, settings, channel, auth, registry, inference, peers["inference"], database, bucket, directory
        )


@pytest.fixture
async def start(tmp_path: Path, database: "Database", nats_url: str, s3: "Bucket") -> AsyncIterator[Start]:
    """Starts dataset with settings of the test's choice."""
    async with AsyncExitStack() as stack:

        async def start_one(**overrides: Any) -> Rig:
            return await stack.enter_async_context(_rig(tmp_path, database, nats_url, s3, **overrides))

        yield start_one


@pytest.fixture
async def rig(start: Start) -> Rig:
    """Dataset as it is set by default."""
    return await start()
