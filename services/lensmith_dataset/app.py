"""The composition root: builds everything, and is the only place that does."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import grpc.aio

from lensmith_api.internal.v1.curation_service_pb2_grpc import add_CurationServiceServicer_to_server
from lensmith_api.internal.v1.space_service_pb2_grpc import add_SpaceServiceServicer_to_server
from lensmith_api.internal.v1.training_data_service_pb2_grpc import add_TrainingDataServiceServicer_to_server
from lensmith_api.v1.annotation_service_pb2_grpc import add_AnnotationServiceServicer_to_server
from lensmith_api.v1.concept_service_pb2_grpc import add_ConceptServiceServicer_to_server
from lensmith_api.v1.input_service_pb2_grpc import add_InputServiceServicer_to_server
from lensmith_dataset.annotation_service import AnnotationServicer
from lensmith_dataset.backfill import Backfill
from lensmith_dataset.concept_service import ConceptServicer
from lensmith_dataset.curation_service import CurationServicer
from lensmith_dataset.embedder import Embedder
from lensmith_dataset.events import Background
from lensmith_dataset.image_links import ImageLinkSigner
from lensmith_dataset.indexer import Indexer
from lensmith_dataset.ingest import Ingest
from lensmith_dataset.input_service import InputServicer
from lensmith_dataset.metrics import IndexMetrics, IngestMetrics
from lensmith_dataset.purge import Purge
from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_dataset.settings import DatasetSettings
from lensmith_dataset.space_service import SpaceServicer
from lensmith_dataset.training_data_service import TrainingDataServicer
from lensmith_dataset.vectors import pass_halfvec
from lensmith_platform.blobs import Blobs
from lensmith_platform.bus import connect
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database, open_database
from lensmith_platform.fetcher import Fetcher, FetchLimits
from lensmith_platform.outbox import OutboxRelay
from lensmith_platform.platform import Platform
from lensmith_platform.usage import UsageMeter
from lensmith_vision.decode import ImageLimits

PUBLIC = ("lensmith.v1.InputService", "lensmith.v1.ConceptService", "lensmith.v1.AnnotationService")
INTERNAL = (
    "lensmith.internal.v1.TrainingDataService",
    "lensmith.internal.v1.SpaceService",
    "lensmith.internal.v1.CurationService",
)

Servicers: TypeAlias = tuple[
    InputServicer, ConceptServicer, AnnotationServicer, TrainingDataServicer, SpaceServicer, CurationServicer
]


class DatasetService:
    """The dataset service, whole.

    Attributes:
        name: name of the service.
        service_names: gRPC services that this process answers.
        background: its work besides answering.
    """

    name = "dataset"

    def __init__(
        self,
        database: Database,
        servicers: Servicers | None,
        background: Background,
    ) -> None:
        self._database = database
        self._servicers = servicers
        self.background = background
        self.service_names: Sequence[str] = (*PUBLIC, *INTERNAL) if servicers else ()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the servicers; none where this process only indexes."""
        if self._servicers is None:
            return
        inputs, concepts, annotations, training_data, spaces, curation = self._servicers
        add_InputServiceServicer_to_server(inputs, server)
        add_ConceptServiceServicer_to_server(concepts, server)
        add_AnnotationServiceServicer_to_server(annotations, server)
        add_TrainingDataServiceServicer_to_server(training_data, server)
        add_SpaceServiceServicer_to_server(spaces, server)
        add_CurationServiceServicer_to_server(curation, server)

    async def ready(self) -> None:
        """Return when Postgres answers: everything but storing bytes can be served then."""
        async with self._database.transaction(0) as connection:
            await connection.execute("SELECT FROM inputs LIMIT 0")

    async def run(self) -> None:
        """Relay, consume, index and clean up until cancelled."""
        await self.background.run()

    async def close(self) -> None:
        """Nothing: what was opened is closed by the platform."""


async def build(platform: Platform[DatasetSettings]) -> DatasetService:
    """Build the service."""
    settings = platform.settings
    database = await platform.enter(open_database(settings.postgres_url, settings, prepare=pass_halfvec))
    worker = await platform.enter(open_database(settings.worker_postgres_url, settings, prepare=pass_halfvec))
    bus = await platform.enter(await connect(settings.nats_url.get_secret_value(), name="dataset"))
    files = await platform.enter(Blobs(settings.s3_url.get_secret_value()))
    indexer = backfill = None
    recent = RecentBlobs(files, settings.recent_blob_bytes if settings.has_role("indexer") else 0)
    if settings.has_role("indexer"):
        embedder = Embedder(
            platform.clients.channel("registry"),
            platform.clients.channel("inference"),
            platform.clock,
            settings.embed_seconds,
            general_concepts=settings.general_concepts,
        )
        metrics = IndexMetrics(platform.registry)
        indexer = Indexer(worker, recent, embedder, settings, metrics)
        backfill = Backfill(worker, recent, embedder, indexer, settings, metrics)
    meter = UsageMeter(bus)
    api = settings.has_role("api")
    background = Background(
        bus=bus,
        worker=worker,
        relay=OutboxRelay(worker, bus),
        purge=Purge(worker, files, settings) if api else None,
        indexer=indexer,
        backfill=backfill,
        meter=meter,
        settings=settings,
    )
    servicers = _servicers(platform, database, recent, meter) if api else None
    return DatasetService(database, servicers, background)


def _servicers(
    platform: Platform[DatasetSettings], database: Database, files: RecentBlobs, meter: UsageMeter
) -> Servicers:
    settings = platform.settings
    limits = ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        max_aspect_ratio=settings.max_aspect_ratio,
    )
    fetcher = Fetcher(
        FetchLimits(
            max_bytes=settings.max_image_bytes,
            seconds=settings.fetch_seconds,
            max_redirects=settings.fetch_redirects,
            allow_private=settings.allow_private_urls,
        )
    )
    threads = ThreadPoolExecutor(settings.check_threads, thread_name_prefix="check")
    platform.closers.callback(threads.shutdown, wait=False, cancel_futures=True)
    ingest = Ingest(database, files, fetcher, limits, threads, settings.fetch_concurrency)
    links = ImageLinkSigner(settings.service_key_file, platform.clock, settings.image_link_seconds)
    pager = Pager(settings.service_key_file)
    return (
        InputServicer(database, ingest, links, pager, meter, settings, IngestMetrics(platform.registry)),
        ConceptServicer(database, pager),
        AnnotationServicer(database, pager, settings.max_annotations),
        TrainingDataServicer(database, files, settings.feed_wait_seconds),
        SpaceServicer(database, settings.retired_space_grace),
        CurationServicer(database),
    )
