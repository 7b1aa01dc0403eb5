"""The backfill: inputs of apps that move to another base model get their vectors of it, after everything that is new.

What is missing stands in a table, so any number of processes share the work, and one that dies loses nothing: what it
had taken comes back, and a vector that is written twice is the same. While it works, inputs stay READY in the space
that they have.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta

import structlog

from lensmith_dataset.embedder import Embedded, Embedder, Picture
from lensmith_dataset.indexer import Indexer
from lensmith_dataset.metrics import IndexMetrics
from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_dataset.settings import DatasetSettings
from lensmith_dataset.store import apps, missing_embeddings
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_dataset.store.indexing import Waiting
from lensmith_dataset.store.missing_embeddings import Claim
from lensmith_platform.blobs import blob_key
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import DependencyUnavailableError, LensmithError, NotFoundError, to_status
from lensmith_platform.principal import AppRef

_LOG = structlog.get_logger(__name__)

_ERROR_SECONDS = 2.0
_PAUSE = timedelta(seconds=0.5)
"""How long a space rests in which nothing could be embedded, the first time."""
_YIELD_SECONDS = 2.0
"""How long new pictures go first at most: an app that never rests must move on as well."""


class Backfill:
    """Embeds what is missing.

    Args:
        database: of the worker role.
        files: where the bytes are.
        embedder: asks inference.
        indexer: whose pictures go first.
        settings: sizes and times.
        metrics: what is counted.
    """

    def __init__(
        self,
        database: Database,
        files: RecentBlobs,
        embedder: Embedder,
        indexer: Indexer,
        settings: DatasetSettings,
        metrics: IndexMetrics,
    ) -> None:
        self._database = database
        self._files = files
        self._embedder = embedder
        self._indexer = indexer
        self._settings = settings
        self._metrics = metrics

    async def run(self) -> None:
        """Embed what is missing, batch after batch, until cancelled."""
        while True:
            pause = _ERROR_SECONDS
            try:
                worked = await self._step()
                pause = 0.0 if worked else self._settings.backfill_poll_seconds
            except LensmithError as error:
                _LOG.warning("backfill_waits", reason=error.reason, message=error.message)
            except Exception:
                _LOG.exception("backfill_failed")
            heed_cancellation()
            await asyncio.sleep(pause)

    async def _step(self) -> bool:
        """Do one batch; return whether there was anything to do."""
        lease = timedelta(seconds=self._settings.backfill_lease_seconds)
        async with self._database.transaction(None) as connection:
            claim = await missing_embeddings.claim(connection, lease, self._settings.backfill_batch)
            app = None if claim is None else await apps.get(connection, claim.app_id)
        if claim is None:
            return False
        if app is not None:
            for part in _parts(claim.inputs, self._settings.index_batch_bytes):
                await self._indexer.quiet(_YIELD_SECONDS)
                await self._fill(app, claim, part)
        return True

    async def _fill(self, app: AppRef, claim: Claim, part: Sequence[Waiting]) -> None:
        pictures, failures = await self._pictures(app, part)
        ids = [picture.id for picture in pictures]
        try:
            embedded = await self._embed(app, claim, pictures)
        except LensmithError as error:
            await self._postpone(claim, ids, error)
            return
        failures |= embedded.failures

        async def write() -> None:
            async with self._database.transaction(app.app_id) as connection:
                await missing_embeddings.fill(
                    connection, app.app_id, claim.space.space, embedded.vectors, failures, embedded.general
                )
                left = [one for one in ids if one not in embedded.vectors and one not in embedded.failures]
                await missing_embeddings.release(
                    connection, app.app_id, claim.space.space, left, failed=embedded.broken
                )

        await self._database.retry(write)
        self._metrics.backfilled.labels("embedded").inc(len(embedded.vectors))
        self._metrics.backfilled.labels("failed").inc(len(failures))

    async def _embed(self, app: AppRef, claim: Claim, pictures: Sequence[Picture]) -> Embedded:
        """Embed a batch; where inference refuses it as a whole, each picture alone: one may spoil it for the others.

        Raises:
            LensmithError: inference is away or busy, or refuses every single one.
        """
        if not pictures:
            return Embedded(claim.space.space, {}, {})
        try:
            return await self._embedder.embed(app, pictures, claim.space)
        except DependencyUnavailableError as error:
            if error.reason != "EMBED_REFUSED" or len(pictures) == 1:
                raise
        vectors: dict[int, bytes] = {}
        failures: dict[int, bytes] = {}
        general: dict[int, GeneralConcepts] = {}
        refused: list[int] = []
        last: LensmithError | None = None
        for picture in pictures:
            try:
                alone = await self._embedder.embed(app, [picture], claim.space)
            except DependencyUnavailableError as error:
                if error.reason != "EMBED_REFUSED":
                    raise
                refused.append(picture.id)
                last = error
            else:
                vectors |= alone.vectors
                failures |= alone.failures
                general |= alone.general
                refused += alone.broken
        if last is not None and not vectors and not failures:
            raise last
        return Embedded(claim.space.space, vectors, failures, refused, general)

    async def _pictures(self, app: AppRef, part: Sequence[Waiting]) -> tuple[list[Picture], dict[int, bytes]]:
        pictures: list[Picture] = []
        failures: dict[int, bytes] = {}
        for waiting in part:
            try:
                data = await self._files.get(blob_key(app.uid, waiting.sha256.hex()))
            except NotFoundError as error:
                failures[waiting.id] = to_status(error).SerializeToString()
            else:
                hopeless = waiting.attempts >= self._settings.index_give_up_attempts
                pictures.append(Picture(waiting.id, data, hopeless))
        return pictures, failures

    async def _postpone(self, claim: Claim, ids: Sequence[int], error: LensmithError) -> None:
        """Give back what could not be embedded; only a refusal says something about the space, not an outage."""
        refused = isinstance(error, DependencyUnavailableError) and error.reason == "EMBED_REFUSED"
        _LOG.warning("backfill_postponed", app_id=claim.app_id, space=claim.space.space, reason=error.reason)
        status = to_status(error).SerializeToString() if refused else None
        async with self._database.transaction(claim.app_id) as connection:
            await missing_embeddings.release(connection, claim.app_id, claim.space.space, ids)
            await missing_embeddings.postpone(connection, claim.app_id, claim.space.space, _PAUSE, status)


def _parts(inputs: Sequence[Waiting], most_bytes: int) -> Iterator[list[Waiting]]:
    """Cut a batch where it becomes too large for one call; one larger picture still goes alone."""
    part: list[Waiting] = []
    size = 0
    for waiting in inputs:
        if part and size + waiting.size_bytes > most_bytes:
            yield part
            part, size = [], 0
        part.append(waiting)
        size += waiting.size_bytes
    if part:
        yield part
