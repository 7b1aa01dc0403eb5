"""Pictures of one request through reading and the base network, each on its own way and with its own failure."""

import asyncio
from collections.abc import Sequence

import structlog

from lensmith_api.v1.inference_service_pb2 import ImageQuery
from lensmith_inference.batcher import Batcher, Expectation, Seen
from lensmith_inference.images import ImageReader
from lensmith_inference.metrics import Metrics
from lensmith_platform.errors import InternalError, LensmithError
from lensmith_vision.card import Card

__all__ = ["Pipeline"]

_ANSWER_SECONDS = 0.25
"""Kept back from a request's time: a slow URL must fail early enough for the other pictures' answers to be sent."""

_LOG = structlog.get_logger(__name__)


class Pipeline:
    """Reads pictures and has a base network look at them; later pictures are decoded while earlier ones are looked at.

    Args:
        reader: Makes pixels.
        batcher: Runs base networks.
        fetch_seconds: How long fetching one URL may take.
        metrics: Where failures are counted.
    """

    def __init__(self, reader: ImageReader, batcher: Batcher, *, fetch_seconds: float, metrics: Metrics) -> None:
        self._reader = reader
        self._batcher = batcher
        self._fetch_seconds = fetch_seconds
        self._metrics = metrics

    async def run(
        self, queries: Sequence[ImageQuery], space: str, card: Card, *, logits: bool, deadline: float | None
    ) -> list[Seen | LensmithError]:
        """Look at pictures.

        Args:
            queries: The pictures.
            space: A space that stays loaded meanwhile.
            card: Its card.
            logits: Also give the logits.
            deadline: Time of the event loop's clock at which nobody waits any more.

        Returns:
            For each picture, in their order, what was seen or why nothing was.
        """
        until = asyncio.get_running_loop().time() + self._fetch_seconds
        if deadline is not None:
            until = min(until, deadline - _ANSWER_SECONDS)
        with self._batcher.expecting(space, len(queries)) as expectation:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._look(query, card, expectation, logits, until)) for query in queries]
        outcomes = [task.result() for task in tasks]
        for outcome in outcomes:
            if isinstance(outcome, LensmithError):
                self._metrics.image_errors.labels(space, outcome.reason).inc()
        return outcomes

    async def _look(
        self, query: ImageQuery, card: Card, expectation: Expectation, logits: bool, until: float
    ) -> Seen | LensmithError:
        try:
            try:
                pixels = await self._reader.read(query.image, card.resize, fetch_until=until)
            except BaseException:
                expectation.gone()
                raise
            return await expectation.submit(pixels, logits=logits)
        except LensmithError as error:
            return error
        except Exception:
            # A defect met by one picture must not take the answers of the others with it.
            _LOG.exception("image_failed")
            return InternalError("IMAGE_FAILED", "the picture could not be looked at")
