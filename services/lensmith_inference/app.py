"""The composition root of inference: builds everything, and nothing else does."""

import asyncio
import logging
from collections.abc import Sequence

import grpc
from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceStub
from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from lensmith_api.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from lensmith_platform.bus import BroadcastConsumer, Bus, connect
from lensmith_platform.errors import DependencyUnavailableError, LensmithError
from lensmith_platform.fetcher import Fetcher, FetchLimits
from lensmith_platform.server import Platform
from lensmith_platform.usage import UsageMeter
from lensmith_vision.decode import ImageLimits
from lensmith_vision.engine import Engine, OnnxRuntimeEngine

from lensmith_inference.admission import Admission
from lensmith_inference.artefacts import Artefacts
from lensmith_inference.batcher import Batcher
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.events import ModelNews
from lensmith_inference.heads_cache import HeadsCache
from lensmith_inference.images import ImageReader
from lensmith_inference.metrics import Metrics
from lensmith_inference.pipeline import Pipeline
from lensmith_inference.predictor import Predictor
from lensmith_inference.service import InferenceServicer
from lensmith_inference.settings import InferenceSettings
from lensmith_inference.spaces import Spaces

__all__ = ["Inference", "build"]

_log = logging.getLogger(__name__)

_PRELOAD_AGAIN_SECONDS = 1.0


class Inference:
    """The service, built.

    Args:
        settings: Its settings.
        platform: What it stands on.
    """

    name = "inference"
    service_names: Sequence[str] = ("lensmith.v1.InferenceService",)

    def __init__(self, settings: InferenceSettings, platform: Platform, engine: Engine) -> None:
        metrics = Metrics(platform.registry)
        registry = platform.clients.channel("registry")
        artefacts = Artefacts(ServingServiceStub(registry), settings.cache_dir / "packs")
        self._settings = settings
        self._engine = engine
        self._catalogue = Catalogue(
            ServingServiceStub(registry),
            BaseModelServiceStub(registry),
            fresh_seconds=settings.model_ttl_seconds,
            stale_seconds=settings.stale_seconds,
            most=settings.max_models,
            metrics=metrics,
        )
        self._spaces = Spaces(engine, artefacts, settings.max_base_models)
        self._batcher = Batcher(
            engine,
            threads=settings.engine_threads,
            max_batch=settings.max_batch,
            wait_seconds=settings.batch_wait_ms / 1000,
            metrics=metrics,
        )
        self._reader = ImageReader(
            Fetcher(_fetch_limits(settings)),
            ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels),
            threads=settings.decode_threads,
            fetch_concurrency=settings.fetch_concurrency,
            metrics=metrics,
        )
        pipeline = Pipeline(self._reader, self._batcher, fetch_seconds=settings.fetch_seconds, metrics=metrics)
        heads = HeadsCache(artefacts, settings.head_cache_bytes, metrics)
        predictor = Predictor(self._catalogue, self._spaces, heads, pipeline, metrics)
        self._news = ModelNews(self._catalogue, predictor, warm=settings.warm_models)
