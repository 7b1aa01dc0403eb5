"""The gateway between a real auth and a real dataset, on real servers."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Bucket, Database

if TYPE_CHECKING:
    from lensmith_api.v1.input_service_pb2_grpc import InputServiceAsyncStub

from lensmith_api.v1.app_service_pb2 import CreateAppRequest
from lensmith_api.v1.app_service_pb2_grpc import AppServiceStub
from lensmith_api.v1.concept_service_pb2 import CreateConceptsRequest, NewConcept
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceStub
from lensmith_api.v1.input_service_pb2_grpc import InputServiceStub
from lensmith_api.v1.key_pb2 import Key
from lensmith_api.v1.key_service_pb2 import CreateKeyRequest
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceStub
from lensmith_auth.app import build as build_auth
from lensmith_auth.settings import AuthSettings
from lensmith_dataset.app import build as build_dataset
from lensmith_dataset.settings import DatasetSettings
from lensmith_gateway.app import build
from lensmith_gateway.settings import GatewaySettings
from lensmith_platform.blobs import Blobs
from lensmith_platform.server import running
from lensmith_platform.service_auth import make_key_pair

OPERATOR = "lsk_" + "operator" * 6
MEBIBYTE = 1 << 20


@dataclass
class Rig:
    """A running gateway, what is behind it, and an app."""

    http: httpx.AsyncClient
    target: str
    secret: str
    auth: grpc.aio.Channel
    dataset: grpc.aio.Channel
    directory: Path

    @property
    def headers(self) -> dict[str, str]:
        """Credentials of the app `trash`."""
        return {"Authorization": f"Key {self.secret}"}

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Key {self.secret}"),)

    @property
    def inputs(self) -> "InputServiceAsyncStub":
        return InputServiceStub(self.dataset)

    async def key(self, *scopes: str) -> dict[str, str]:
        """Headers with a new key of the app."""
        stub = KeyServiceStub(self.auth)
        request = CreateKeyRequest(parent="apps/trash", key=Key(scopes=scopes))
        answer = await stub.CreateKey(request, metadata=self.metadata)
        return {"Authorization": f"Key {answer.secret}"}


@pytest.fixture
async def rig(tmp_path: Path, database: Database, nats_url: str, s3: Bucket) -> AsyncIterator[Rig]:
    """The gateway with small limits, and the app `trash` with the concept `glass`."""
    keys = tmp_path / "keys"
    for service in ("auth", "dataset", "gateway", "registry", "inference"):
        make_key_pair(service, tmp_path / f"{service}.pem", keys)
    async with (
        Blobs(s3.url) as blobs,
        running(
            AuthSettings(
                service_key_file=tmp_path / "auth.pem",
                service_keys_dir=keys,
                postgres_url=database.url("auth"),
                worker_postgres_url=database.url("auth", worker=True),
                nats_url=nats_url,
                bootstrap_key=OPERATOR,
                grace_seconds=2,
            ),
            build_auth,
        ) as auth,
        running(
            DatasetSettings(
                service_key_file=tmp_path / "dataset.pem",
                service_keys_dir=keys,
                postgres_url=database.url("dataset"),
                worker_postgres_url=database.url("dataset", worker=True),
                nats_url=nats_url,
                s3_url=s3.url,
                roles="api",
                addresses={"auth": auth.target, "registry": "127.0.0.1:1", "inference": "127.0.0.1:1"},
                grace_seconds=2,
            ),
            build_dataset,
        ) as dataset,
        running(
            GatewaySettings(
                service_key_file=tmp_path / "gateway.pem",
                service_keys_dir=keys,
                nats_url=nats_url,
                s3_url=s3.url,
                addresses={
                    "auth": auth.target,
                    "dataset": dataset.target,
                    # Something that is well and knows no models.
                    "registry": dataset.target,
                    "inference": dataset.target,
                },
                max_upload_bytes=4 * MEBIBYTE,
                max_file_bytes=MEBIBYTE,
                max_upload_files=8,
                batch_bytes=MEBIBYTE,
                upload_temp_dir=str(tmp_path),
                grace_seconds=2,
            ),
            build,
        ) as gateway,
        grpc.aio.insecure_channel(auth.target) as auth_channel,
        grpc.aio.insecure_channel(dataset.target) as dataset_channel,
        httpx.AsyncClient(base_url=f"http://{gateway.service.http_address}", timeout=30) as http,
    ):
        await blobs.ensure_bucket()
        async with asyncio.timeout(30):
            while not (auth.readiness.is_ready and dataset.readiness.is_ready and gateway.readiness.is_ready):
                await asyncio.sleep(0.02)
        apps = AppServiceStub(auth_channel)
        made = await apps.CreateApp(CreateAppRequest(app_id="trash"), metadata=(("authorization", f"Key {OPERATOR}"),))
        rig = Rig(http, gateway.target, made.secret, auth_channel, dataset_channel, tmp_path)
        concepts = ConceptServiceStub(dataset_channel)
        await concepts.CreateConcepts(
            CreateConceptsRequest(parent="apps/trash", concepts=[NewConcept(concept_id="glass")]),
            metadata=rig.metadata,
        )
        yield rig


def picture(seed: int, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """A picture of coloured blocks, different for each seed."""
    blocks = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).save(file, kind)
    return file.getvalue()
