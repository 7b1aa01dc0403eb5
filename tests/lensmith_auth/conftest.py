"""A running auth service on a database of its own, and ways to call it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from lensmith_api.v1 import app_service_pb2, key_service_pb2
from lensmith_api.v1.app_service_pb2_grpc import AppServiceStub
from lensmith_api.v1.key_pb2 import Key
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceStub
from lensmith_api.v1.usage_service_pb2_grpc import UsageServiceStub
from lensmith_auth.app import build
from lensmith_auth.settings import AuthSettings
from lensmith_platform.service_auth import make_key_pair
from tests.conftest import Database

if TYPE_CHECKING:
    from lensmith_api.v1.app_service_pb2_grpc import AppServiceAsyncStub
    from lensmith_api.v1.key_service_pb2_grpc import KeyServiceAsyncStub
    from lensmith_api.v1.usage_service_pb2_grpc import UsageServiceAsyncStub

OPERATOR_SECRET = "lsk_" + "operator" * 6


@dataclass
class Caller:
    """Stubs that send one key."""

    channel: grpc.aio.Channel
    secret: str
    scheme: str = "Key"

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"{self.scheme} {self.secret}"),) if self.secret else ()

    @property
    def apps(self) -> "AppServiceAsyncStub":
        return AppServiceStub(self.channel)

    @property
    def keys(self) -> "KeyServiceAsyncStub":
        return KeyServiceStub(self.channel)

    @property
    def usage(self) -> "UsageServiceAsyncStub":
        return UsageServiceStub(self.channel)

    def with_secret(self, secret: str) -> "Caller":
        return Caller(self.channel, secret, self.scheme)

    async def create_app(self, app: str, **fields: str) -> app_service_pb2.CreateAppResponse:
        request = app_service_pb2.CreateAppRequest(app_id=app, request_id=fields.pop("request_id", ""))
        return await self.apps.CreateApp(request, metadata=self.metadata)

    async def create_key(self, app: str, scopes: list[str], **fields: str) -> key_service_pb2.CreateKeyResponse:
        request = key_service_pb2.CreateKeyRequest(
            parent=f"apps/{app}", key=Key(scopes=scopes), request_id=fields.pop("request_id", "")
        )
        return await self.keys.CreateKey(request, metadata=self.metadata)

    async def whoami(self) -> key_service_pb2.WhoAmIResponse:
        return await self.keys.WhoAmI(key_service_pb2.WhoAmIRequest(), metadata=self.metadata)


@pytest.fixture
def settings(database: Database, nats_url: str, tmp_path: Path) -> AuthSettings:
    keys = tmp_path / "keys"
    for service in ("auth", "dataset"):
        make_key_pair(service, tmp_path / f"{service}.pem", keys)
    return AuthSettings(
        listen="127.0.0.1:0",
        service_key_file=tmp_path / "auth.pem",
        service_keys_dir=keys,
        postgres_url=database.url("auth"),
        worker_postgres_url=database.url("auth", worker=True),
        nats_url=nats_url,
        bootstrap_key=OPERATOR_SECRET,
        key_cache_seconds=60.0,
    )


Start = Callable[[AuthSettings], AbstractAsyncContextManager[Caller]]


@pytest.fixture
def start() -> Start:
    """Runs a service and yields the operator, calling it."""
    from lensmith_platform.server import running

    @asynccontextmanager
    async def start(settings: AuthSettings) -> AsyncIterator[Caller]:
        async with running(settings, build) as service, grpc.aio.insecure_channel(service.target) as channel:
            yield Caller(channel, OPERATOR_SECRET)

    return start


@pytest.fixture
async def operator(settings: AuthSettings, start: Start) -> AsyncIterator[Caller]:
    async with start(settings) as caller:
        yield caller
