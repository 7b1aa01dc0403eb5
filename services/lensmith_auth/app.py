"""Composition root of auth: builds pools and servicers, and nothing else does."""

import asyncio
from collections.abc import Sequence

import grpc

from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import add_KeyResolverServiceServicer_to_server
from lensmith_api.v1.app_service_pb2_grpc import add_AppServiceServicer_to_server
from lensmith_api.v1.key_service_pb2_grpc import add_KeyServiceServicer_to_server
from lensmith_api.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server
from lensmith_auth.app_service import AppServicer
from lensmith_auth.bootstrap import ensure_operator_key
from lensmith_auth.events import UsageRecorder
from lensmith_auth.key_resolver_service import KeyResolverServicer
from lensmith_auth.key_service import KeyServicer
from lensmith_auth.key_source import StoredKeySource
from lensmith_auth.revocations import Revocations
from lensmith_auth.scope_methods import methods_by_scope
from lensmith_auth.settings import AuthSettings
from lensmith_auth.usage_service import UsageServicer
from lensmith_platform.bus import Bus, WorkConsumer, connect
from lensmith_platform.db import Database, open_database
from lensmith_platform.db.pagination import Pager
from lensmith_platform.outbox import OutboxRelay
from lensmith_platform.server import Platform

WORKER_POOL_SIZE = 6


class AuthService:
    """The service, built.

    Args:
        settings: What it was told.
        tenant: Database as the service's role: one app at a time.
        worker: Database as the workers' role: all apps.
        bus: Where news travels.
        source: Where keys and apps are found.
    """

    name = "auth"
    service_names: Sequence[str] = (
        "lensmith.v1.AppService",
        "lensmith.v1.KeyService",
        "lensmith.v1.UsageService",
        "lensmith.internal.v1.KeyResolverService",
    )

    def __init__(
        self, settings: AuthSettings, tenant: Database, worker: Database, bus: Bus, source: StoredKeySource
    ) -> None:
        self._worker = worker
        self._revocations = Revocations(worker, bus, settings.heartbeat_seconds)
        pager = Pager(settings.service_key_file)
        self._apps = AppServicer(tenant, worker, self._revocations, pager)
        self._keys = KeyServicer(tenant, self._revocations, pager, methods_by_scope())
        self._usage = UsageServicer(tenant)
        self._resolver = KeyResolverServicer(source)
        self._relay = OutboxRelay(worker, bus)
        self._recorder = WorkConsumer(
            bus, "auth--record-usage", "usage.recorded", UsageRecorder(worker), concurrency=4, database=worker
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers."""
        add_AppServiceServicer_to_server(self._apps, server)
        add_KeyServiceServicer_to_server(self._keys, server)
        add_UsageServiceServicer_to_server(self._usage, server)
        add_KeyResolverServiceServicer_to_server(self._resolver, server)

    async def ready(self) -> None:
        """Return when keys can be resolved.

        Raises:
            DependencyUnavailableError: Postgres is away.
        """
        async with self._worker.transaction(None) as connection:
            await connection.execute("SELECT 1")

    async def run(self) -> None:
        """Send heartbeats, relay events and record usage until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._revocations.run())
            group.create_task(self._relay.run())
            group.create_task(self._recorder.run())

    async def close(self) -> None:
        """Nothing of its own is open: `build` gave all of it to the platform."""


async def build(platform: Platform[AuthSettings]) -> AuthService:
    """Build the service, and the operator's key at the first start."""
    settings = platform.settings
    tenant = await platform.enter(open_database(settings.postgres_url, settings))
    worker = await platform.enter(open_database(settings.worker_postgres_url, settings, size=WORKER_POOL_SIZE))
    if settings.bootstrap_key:
        await ensure_operator_key(worker, settings.bootstrap_key.get_secret_value())
    bus = await platform.enter(await connect(settings.nats_url.get_secret_value(), name="auth"))
    source = StoredKeySource(worker, settings.last_used_seconds)
    platform.authenticator.source = source
    return AuthService(settings, tenant, worker, bus, source)
