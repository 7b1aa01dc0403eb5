"""The composition root of inference: builds everything, and nothing else does."""

import asyncio
from collections.abc import Sequence

import grpc
import structlog

from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from lensmith_api.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from lensmith_inference.admission import Admission
from lensmith_inference.artefacts import Artefacts
from lensmith_inference.batcher import Batcher
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.classifiers import Classifiers
from lensmith_inference.events import ModelNews
from lensmith_inference.explainer import Explainer
from lensmith_inference.general import General
from lensmith_inference.heads_cache import HeadsCache
from lensmith_inference.images import ImageReader
from lensmith_inference.metrics import Metrics
from lensmith_inference.nearest import TrainingPictures
from lensmith_inference.pipeline import Pipeline
from lensmith_inference.predictor import Predictor
from lensmith_inference.service import InferenceServicer
from lensmith_inference.settings import InferenceSettings
from lensmith_inference.spaces import Spaces
from lensmith_platform.bus import BroadcastConsumer, Bus, connect
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import DependencyUnavailableError, LensmithError
from lensmith_platform.fetcher import Fetcher, FetchLimits
from lensmith_platform.server import Platform
from lensmith_platform.usage import UsageMeter
from lensmith_vision.decode import ImageLimits
from lensmith_vision.engine import Engine, OnnxRuntimeEngine

__all__ = ["InferenceService", "build"]

_LOG = structlog.get_logger(__name__)

_PRELOAD_AGAIN_SECONDS = 1.0


class InferenceService:
    """The service, built.

    Args:
        platform: What it stands on.
        bus: Where news comes from and usage goes to.
        engine: Runs base networks.
    """

    name = "inference"
    service_names: Sequence[str] = ("lensmith.v1.InferenceService",)

    def __init__(self, platform: Platform[InferenceSettings], bus: Bus, engine: Engine) -> None:
        settings = platform.settings
        metrics = Metrics(platform.registry)
        registry = platform.clients.channel("registry")
        serving = ServingServiceStub(registry)
        artefacts = self._artefacts = Artefacts(serving, settings.cache_dir, settings.network_disk_bytes)
        self._engine = engine
        self._catalogue = Catalogue(
            serving,
            BaseModelServiceStub(registry),
            fresh_seconds=settings.model_ttl_seconds,
            stale_seconds=settings.stale_seconds,
            most=settings.max_models,
            metrics=metrics,
        )
        self._spaces = Spaces(engine, artefacts, settings.max_base_models, settings.network_cache_bytes, metrics)
        self._batcher = _batcher(settings, engine, metrics)
        self._reader = _reader(settings, metrics)
        pipeline = Pipeline(self._reader, self._batcher, fetch_seconds=settings.fetch_seconds, metrics=metrics)
        heads = HeadsCache(artefacts, settings.head_cache_bytes, settings.kernel_head_cache_bytes, metrics)
        general = General(self._catalogue, self._spaces)
        predictor = Predictor(self._catalogue, self._spaces, heads, general, pipeline, metrics)
        self._usage = UsageMeter(bus)
        explainer = Explainer(
            self._catalogue,
            self._spaces,
            heads,
            Classifiers(artefacts),
            pipeline,
            TrainingPictures(TrainingDataServiceStub(platform.clients.channel("dataset"))),
            metrics,
        )
        admission = Admission(settings, metrics)
        self._servicer = InferenceServicer(predictor, explainer, admission, self._usage, metrics)
        self._news = ModelNews(self._catalogue, predictor, warm=settings.warm_models)
        self._consumers = (
            BroadcastConsumer(bus, "models.changed", self._news.model_changed, self._news.missed),
            BroadcastConsumer(bus, "apps.space_changed", self._news.space_changed, self._news.missed),
            BroadcastConsumer(bus, "apps.deleted", self._news.app_deleted, self._news.missed),
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the RPCs."""
        add_InferenceServiceServicer_to_server(self._servicer, server)

    async def ready(self) -> None:
        """Tell whether predictions can be answered: a base network is loaded. Neither database nor bus is needed.

        Raises:
            DependencyUnavailableError: None is loaded yet.
        """
        if not self._engine.loaded():
            raise DependencyUnavailableError("NO_BASE_MODEL_LOADED", "no base model is loaded yet")

    async def run(self) -> None:
        """Listen to news, warm what changed, and load the first base model, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for consumer in self._consumers:
                group.create_task(consumer.run())
            group.create_task(self._news.run_warming())
            group.create_task(self._usage.run())
            group.create_task(self._preload())
            group.create_task(self._artefacts.tidy())

    async def close(self) -> None:
        """Stop the threads; calls in flight have ended before."""
        await self._batcher.close()
        self._reader.close()

    async def _preload(self) -> None:
        """Load the base model that apps get by default; while registry is away, the one that was used last."""
        while True:
            try:
                best = await self._catalogue.best_base_model()
                if best is not None:
                    await self._spaces.warm(best)
                    return
            except LensmithError as error:
                _LOG.info("base_model_not_preloaded", reason=error.reason)
                if not self._engine.loaded():
                    await self._spaces.warm_kept()
            heed_cancellation()
            await asyncio.sleep(_PRELOAD_AGAIN_SECONDS)


async def build(platform: Platform[InferenceSettings]) -> InferenceService:
    """Build the service."""
    settings = platform.settings
    bus = await platform.enter(await connect(settings.nats_url.get_secret_value(), name="inference"))
    return InferenceService(platform, bus, OnnxRuntimeEngine(threads=1))


def _batcher(settings: InferenceSettings, engine: Engine, metrics: Metrics) -> Batcher:
    return Batcher(
        engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        wait_seconds=settings.batch_wait_ms / 1000,
        metrics=metrics,
    )


def _reader(settings: InferenceSettings, metrics: Metrics) -> ImageReader:
    limits = FetchLimits(
        max_bytes=settings.max_image_bytes,
        seconds=settings.fetch_seconds,
        max_redirects=settings.fetch_redirects,
        allow_private=settings.allow_private_urls,
    )
    return ImageReader(
        Fetcher(limits),
        ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
        threads=settings.decode_threads,
        fetch_concurrency=settings.fetch_concurrency,
        metrics=metrics,
    )
