"""Composition root of registry: builds pools, clients and servicers, and nothing else does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence

import grpc.aio

from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceStub
from lensmith_api.internal.v1.learning_curve_job_service_pb2_grpc import add_LearningCurveJobServiceServicer_to_server
from lensmith_api.internal.v1.serving_service_pb2_grpc import add_ServingServiceServicer_to_server
from lensmith_api.internal.v1.space_service_pb2_grpc import SpaceServiceStub
from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import add_SuggestionJobServiceServicer_to_server
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_api.internal.v1.training_job_service_pb2_grpc import add_TrainingJobServiceServicer_to_server
from lensmith_api.v1.base_model_service_pb2_grpc import add_BaseModelServiceServicer_to_server
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceStub
from lensmith_api.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from lensmith_api.v1.suggestion_service_pb2_grpc import add_SuggestionServiceServicer_to_server
from lensmith_api.v1.upgrade_service_pb2_grpc import add_UpgradeServiceServicer_to_server
from lensmith_platform.blobs import Blobs
from lensmith_platform.bus import BroadcastConsumer, Bus, Reconciler, WorkConsumer, connect
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database, open_database
from lensmith_platform.errors import LensmithError, PreconditionError
from lensmith_platform.outbox import OutboxRelay
from lensmith_platform.server import Platform
from lensmith_registry.base_model_service import BaseModelServicer
from lensmith_registry.evaluation_scores import EvaluationScores
from lensmith_registry.evaluations import Evaluations
from lensmith_registry.events import Caretaker
from lensmith_registry.exports import Exporter
from lensmith_registry.fine_tuners import FineTuners
from lensmith_registry.learning_curve_job_service import LearningCurveJobServicer
from lensmith_registry.learning_curves import LearningCurves
from lensmith_registry.model_service import ModelServicer
from lensmith_registry.models import Models
from lensmith_registry.networks import Networks
from lensmith_registry.packs import PackInstaller
from lensmith_registry.retraining import Retrainer
from lensmith_registry.serving_service import ServingServicer
from lensmith_registry.settings import RegistrySettings
from lensmith_registry.suggestion_job_service import SuggestionJobServicer
from lensmith_registry.suggestion_service import SuggestionServicer
from lensmith_registry.training import TrainingStart
from lensmith_registry.training_job_service import TrainingJobServicer
from lensmith_registry.upgrade_service import UpgradeServicer
from lensmith_registry.upgrader import Upgrader
from lensmith_registry.version_inputs import VersionInputs
from lensmith_registry.watch import Watchers
from lensmith_vision.pack import BUILTIN_PACKS

__all__ = ["RegistryService", "build"]

_RETRY_SECONDS = 1.0
_WORKER_POOL_SIZE = 5
_LOG = logging.getLogger(__name__)
Work = Callable[[], Coroutine[None, None, None]]


class RegistryService:
    """Models, versions, base models and artefacts. Made by `build`.

    Args:
        settings: What it was told.
        database: Of the service's role.
        workers: Database of the workers' role.
        blobs: Where artefacts lie.
        bus: Where news travels.
        platform: Clients of other services.
    """

    name = "registry"
    service_names: Sequence[str] = (
        "lensmith.v1.ModelService",
        "lensmith.v1.BaseModelService",
        "lensmith.v1.UpgradeService",
        "lensmith.v1.SuggestionService",
        "lensmith.internal.v1.ServingService",
        "lensmith.internal.v1.TrainingJobService",
        "lensmith.internal.v1.SuggestionJobService",
        "lensmith.internal.v1.LearningCurveJobService",
    )

    def __init__(
        self,
        settings: RegistrySettings,
        database: Database,
        workers: Database,
        blobs: Blobs,
        bus: Bus,
        platform: Platform[RegistrySettings],
    ) -> None:
        self._settings = settings
        self._database = database
        self._installer = PackInstaller(database, blobs)
        self._installed = False
        pager = Pager(settings.service_key_file)
        dataset = platform.clients.channel("dataset")
        watchers = Watchers(settings.max_watches)
        training_data = TrainingDataServiceStub(dataset)
        training = TrainingStart(database, training_data, FineTuners(bus), settings.max_queued_versions)
        self._models = ModelServicer(
            database,
            pager,
            Models(database, ConceptServiceStub(dataset)),
            training,
            VersionInputs(blobs, training_data),
            Exporter(blobs),
            Evaluations(database, pager, EvaluationScores(blobs)),
            LearningCurves(database),
            watchers,
            settings.watch_poll_seconds,
        )
        self._base_models = BaseModelServicer(database, blobs, pager, self._installer, settings.max_pack_bytes)
        self._upgrades = UpgradeServicer(database, pager, watchers, settings.watch_poll_seconds)
        self._serving = ServingServicer(database, blobs)
        networks = Networks(database, blobs, settings.lease_seconds, settings.max_pack_bytes)
        self._jobs = TrainingJobServicer(database, blobs, networks, settings.lease_seconds, settings.max_attempts)
        self._suggestions = SuggestionServicer(database, pager, CurationServiceStub(dataset), training_data)
        self._suggestion_jobs = SuggestionJobServicer(database, blobs)
        self._learning_curve_jobs = LearningCurveJobServicer(database)
        upgrader = Upgrader(workers, bus, SpaceServiceStub(dataset), training, settings.upgrade_seconds)
        retrainer = Retrainer(workers, training_data, training, settings.retrain_seconds)
        self._work: list[Work] = [
            OutboxRelay(workers, bus).run,
            BroadcastConsumer(bus, "models.version_changed", watchers.heard, watchers.resync).run,
            BroadcastConsumer(bus, "models.upgrade_changed", watchers.heard, watchers.resync).run,
            Reconciler("upgrade", settings.upgrade_seconds, upgrader.advance).run,
            Reconciler("retrain", settings.retrain_seconds, retrainer.look).run,
            *_care(settings, workers, blobs, bus),
            self._install_packs,
        ]

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers."""
        add_ModelServiceServicer_to_server(self._models, server)
        add_BaseModelServiceServicer_to_server(self._base_models, server)
        add_UpgradeServiceServicer_to_server(self._upgrades, server)
        add_ServingServiceServicer_to_server(self._serving, server)
        add_TrainingJobServiceServicer_to_server(self._jobs, server)
        add_SuggestionServiceServicer_to_server(self._suggestions, server)
        add_SuggestionJobServiceServicer_to_server(self._suggestion_jobs, server)
        add_LearningCurveJobServiceServicer_to_server(self._learning_curve_jobs, server)

    async def ready(self) -> None:
        """Return when models can be resolved.

        Raises:
            PreconditionError: The packs of the start are not installed yet: an app that asked now would get a base
                model that is not the best one, for ever.
            DependencyUnavailableError: Postgres is away.
        """
        if not self._installed:
            raise PreconditionError("PACKS_NOT_INSTALLED", "the model packs of the start are being installed")
        async with self._database.transaction(None) as connection:
            await connection.execute("SELECT 1")

    async def run(self) -> None:
        """Relay, consume, reconcile, and install the packs of the start."""
        async with asyncio.TaskGroup() as group:
            for work in self._work:
                group.create_task(work())

    async def close(self) -> None:
        """Nothing of its own is open: `build` gave all of it to the platform."""

    async def _install_packs(self) -> None:
        """Install the packs of the start; while a dependency is away, again."""
        builtin = [BUILTIN_PACKS] if self._settings.install_builtin_packs else []
        roots = [*builtin, *self._settings.pack_roots]
        while True:
            try:
                await self._installer.install_folders(roots)
            except LensmithError as error:
                _LOG.warning("packs are not installed yet: %s", error)
                heed_cancellation()
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._installed = True
                return


def _care(settings: RegistrySettings, workers: Database, blobs: Blobs, bus: Bus) -> list[Work]:
    """List what brings versions to their end, and takes away what was deleted."""
    caretaker = Caretaker(
        workers, blobs, bus, silent_seconds=settings.silent_seconds, grace_seconds=settings.purge_grace_seconds
    )
    finish, delete_app = caretaker.finish_version, caretaker.delete_app
    return [
        WorkConsumer(bus, "registry--finish-version", "models.version_completed", finish, 8, 100, workers).run,
        WorkConsumer(bus, "registry--delete-app", "apps.deleted", delete_app, 2, 100, workers).run,
        Reconciler("learning-curves", settings.reconcile_seconds, caretaker.announce_learning_curves).run,
        Reconciler("suggestions", settings.silent_seconds, caretaker.announce_suggestions).run,
        Reconciler("announce-unfinished", settings.reconcile_seconds, caretaker.announce_unfinished).run,
        Reconciler("purge", settings.purge_seconds, caretaker.purge).run,
    ]


async def build(platform: Platform[RegistrySettings]) -> RegistryService:
    """Build registry.

    Raises:
        DependencyUnavailableError: Postgres did not come up in time.
    """
    settings = platform.settings
    service = await platform.enter(open_database(settings.postgres_url, settings))
    workers = await platform.enter(open_database(settings.worker_postgres_url, settings, size=_WORKER_POOL_SIZE))
    bus = await platform.enter(await connect(settings.nats_url.get_secret_value(), name="registry"))
    blobs = await platform.enter(Blobs(settings.s3_url.get_secret_value()))
    return RegistryService(settings, service, workers, blobs, bus, platform)
