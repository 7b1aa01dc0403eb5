"""Composition root of trainer: builds clients, the pool of threads and the consumer, and nothing else does."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc.aio

from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceStub
from lensmith_api.internal.v1.learning_curve_job_service_pb2_grpc import LearningCurveJobServiceStub
from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import SuggestionJobServiceStub
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceStub
from lensmith_platform.bus import Bus, WorkConsumer, connect
from lensmith_platform.errors import DependencyUnavailableError
from lensmith_platform.events import FINE_TUNING_CONSUMER
from lensmith_platform.server import Platform
from lensmith_platform.usage import UsageMeter
from lensmith_trainer.fine_tuning import FineTuning
from lensmith_trainer.fit_memory import FitMemories
from lensmith_trainer.jobs import TrainingJobs
from lensmith_trainer.learning_curves import LearningCurveJobs
from lensmith_trainer.learning_process import missing_packages
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.network_transfer import NetworkTransfer
from lensmith_trainer.replicas import Replicas
from lensmith_trainer.scratch import Scratch
from lensmith_trainer.settings import TrainerSettings
from lensmith_trainer.spare_process import SpareProcess
from lensmith_trainer.suggestions import SuggestionJobs

__all__ = ["TrainerService", "build"]

_MAX_DELIVER = 20
_STOP_SECONDS = 3.0
_SUGGESTED_AT_ONCE = 4
_MAX_SUGGEST = 5
_LOG = logging.getLogger(__name__)


class TrainerService:
    """Takes queued versions and trains them. It answers no RPC but health. Made by `build`.

    Args:
        bus: Where versions are announced.
        jobs: Who trains them.
        suggestions: Who looks through their data afterwards.
        learning_curves: Who finds out what more images would bring.
        usage: Where trainings are counted.
        concurrency: Versions trained at once.
        fine_tunings: Who trains those whose whole network is to learn; None: other trainers do.
    """

    name = "trainer"
    service_names: Sequence[str] = ()

    def __init__(
        self,
        bus: Bus,
        jobs: TrainingJobs,
        suggestions: SuggestionJobs,
        learning_curves: LearningCurveJobs,
        usage: UsageMeter,
        concurrency: int,
        fine_tunings: TrainingJobs | None,
    ) -> None:
        self._bus = bus
        self._usage = usage
        self._consumer = WorkConsumer(
            bus,
            "trainer--start-job",
            "models.version_queued",
            jobs.start,
            concurrency,
            _MAX_DELIVER,
            # Training is killable at any moment: a stop waits for what is nearly done, no longer.
            grace=_STOP_SECONDS,
        )
        # A slot of its own: those who wait for seconds never wait for those who wait for hours.
        self._fine_tuning: WorkConsumer | None = None
        if fine_tunings is not None:
            start = fine_tunings.start
            self._fine_tuning = WorkConsumer(
                bus, FINE_TUNING_CONSUMER, "models.fine_tuning_queued", start, 1, _MAX_DELIVER, grace=_STOP_SECONDS
            )
        self._suggesting = WorkConsumer(
            bus, "trainer--suggest", "models.version_completed", suggestions.start, _SUGGESTED_AT_ONCE, _MAX_SUGGEST
        )
        self._continuing = WorkConsumer(
            bus, "trainer--learning-curve", "models.learning_curve_queued", learning_curves.start, 1, _MAX_DELIVER
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register nothing: work comes from the bus."""

    async def ready(self) -> None:
        """Return when work can come in.

        Raises:
            DependencyUnavailableError: The bus is away.
        """
        if not self._bus.is_connected:
            raise DependencyUnavailableError("NATS_UNAVAILABLE", "the bus is away")

    async def run(self) -> None:
        """Take work until cancelled; a version that is not done then goes back to the bus."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consumer.run())
            if self._fine_tuning is not None:
                group.create_task(self._fine_tuning.run())
            group.create_task(self._suggesting.run())
            group.create_task(self._continuing.run())
            group.create_task(self._usage.run())

    async def close(self) -> None:
        """Nothing of its own is open: `build` gave all of it to the platform."""


async def build(platform: Platform[TrainerSettings]) -> TrainerService:
    """Build trainer.

    Raises:
        OSError: The folder of the replicas cannot be made.
    """
    settings = platform.settings
    bus = await platform.enter(await connect(settings.nats_url.get_secret_value(), name="trainer"))
    usage = UsageMeter(bus)
    metrics = Metrics(platform.registry)
    threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="fit")
    platform.closers.callback(threads.shutdown, wait=False, cancel_futures=True)
    replicas = Replicas(
        settings.cache_dir,
        settings.cache_bytes,
        settings.memory_bytes,
        TrainingDataServiceStub(platform.clients.channel("dataset")),
        settings.stream_seconds,
        metrics,
    )
    await replicas.prepare()
    jobs = TrainingJobs(
        TrainingJobServiceStub(platform.clients.channel("registry")),
        replicas,
        threads,
        FitMemories(settings.memory_bytes),
        usage,
        metrics,
        trainer=f"{socket.gethostname()}/{os.getpid()}",
        report_seconds=settings.report_seconds,
        complete_seconds=settings.complete_seconds,
    )
    spare = SpareProcess(settings.fit_threads)
    suggestions = SuggestionJobs(
        SuggestionJobServiceStub(platform.clients.channel("registry")),
        CurationServiceStub(platform.clients.channel("dataset")),
        replicas,
        spare,
        metrics,
    )
    learning_curves = LearningCurveJobs(
        LearningCurveJobServiceStub(platform.clients.channel("registry")), replicas, spare
    )
    fine_tunings = await _fine_tunings(platform, replicas, usage, metrics) if _fine_tunes(settings) else None
    return TrainerService(bus, jobs, suggestions, learning_curves, usage, settings.concurrency, fine_tunings)


def _fine_tunes(settings: TrainerSettings) -> bool:
    """Whether to listen for versions whose whole network is to learn: registry takes whoever listens at its word."""
    missing = missing_packages() if settings.fine_tunes else []
    if missing:
        _LOG.info("this trainer does not fine-tune: it lacks %s (the extra lensmith[finetune])", ", ".join(missing))
    return settings.fine_tunes and not missing


async def _fine_tunings(
    platform: Platform[TrainerSettings], replicas: Replicas, usage: UsageMeter, metrics: Metrics
) -> TrainingJobs:
    """Build what trains versions whose whole network is to learn, with a thread that no other version waits for."""
    settings = platform.settings
    registry = TrainingJobServiceStub(platform.clients.channel("registry"))
    threads = ThreadPoolExecutor(1, thread_name_prefix="fine-tune")
    platform.closers.callback(threads.shutdown, wait=False, cancel_futures=True)
    scratch = Scratch(settings.scratch, settings.scratch_bytes)
    await scratch.prepare()
    transfer = NetworkTransfer(
        ServingServiceStub(platform.clients.channel("registry")),
        TrainingDataServiceStub(platform.clients.channel("dataset")),
        registry,
        settings.stream_seconds,
        settings.complete_seconds,
    )
    return TrainingJobs(
        registry,
        replicas,
        threads,
        FitMemories(0),
        usage,
        metrics,
        FineTuning(transfer, scratch, threads, settings.fine_tune_threads, settings.fine_tune_processes),
        trainer=f"{socket.gethostname()}/{os.getpid()}",
        report_seconds=settings.report_seconds,
        complete_seconds=settings.complete_seconds,
    )
