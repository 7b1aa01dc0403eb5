"""Pictures of one request through reading and the base network, each on its own way and with its own failure."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import structlog

from lensmith_api.v1.inference_service_pb2 import ImageQuery
from lensmith_inference.batcher import Batcher, Expectation, Seen
from lensmith_inference.images import ImageReader
from lensmith_inference.metrics import Metrics, label_of
from lensmith_platform.errors import InternalError, LensmithError
from lensmith_vision.card import Card

__all__ = ["Look", "Pipeline", "Sight"]

_ANSWER_SECONDS = 0.25
"""Kept back from a request's time: a slow URL must fail early enough for the other pictures' answers to be sent."""

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Look:
    """A network that shall look at pictures.

    Attributes:
        space: A space that stays loaded meanwhile.
        card: Its card.
        logits: Also give the logits.
        feature_map: Also give the last feature map, and the whole picture, small enough to be shown.
    """

    space: str
    card: Card
    logits: bool = False
    feature_map: bool = False


@dataclass(frozen=True, eq=False)
class Sight:
    """What was seen in one picture.

    Attributes:
        own: What the network made of it that was asked for.
        also: What the other one made of it; None where none was asked for, or it failed.
        shown: The whole picture [height, width, 3], where the feature map was asked for.
    """

    own: Seen
    also: Seen | None
    shown: npt.NDArray[np.uint8] | None = None


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
        self, queries: Sequence[ImageQuery], look: Look, *, also: Look | None = None, deadline: float | None
    ) -> list[Sight | LensmithError]:
        """Look at pictures.

        Args:
            queries: The pictures.
            look: The network that shall look at them.
            also: Another network that shall look at the same pictures; no picture fails because of it.
            deadline: Time of the event loop's clock at which nobody waits any more.

        Returns:
            For each picture, in their order, what was seen or why nothing was.
        """
        until = asyncio.get_running_loop().time() + self._fetch_seconds
        if deadline is not None:
            until = min(until, deadline - _ANSWER_SECONDS)
        looks = [look] if also is None else [look, also]
        with ExitStack() as stack:
            expected = [(one, stack.enter_context(self._batcher.expecting(one.space, len(queries)))) for one in looks]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._look(query, expected, until)) for query in queries]
        outcomes = [task.result() for task in tasks]
        for outcome in outcomes:
            if isinstance(outcome, LensmithError):
                self._metrics.image_errors.labels(label_of(look.space), outcome.reason).inc()
        return outcomes

    async def _look(
        self, query: ImageQuery, expected: Sequence[tuple[Look, Expectation]], until: float
    ) -> Sight | LensmithError:
        (look, expectation), *others = expected
        also = others[0][0].card.resize if others else None
        try:
            try:
                pixels = await self._reader.read(
                    query.image, look.card.resize, also=also, show=look.feature_map, fetch_until=until
                )
            except BaseException:
                for _, one in expected:
                    one.gone()
                raise
            if not others or pixels.also is None:
                seen = await expectation.submit(pixels.own, logits=look.logits, feature_map=look.feature_map)
                return Sight(seen, None, pixels.shown)
            seen, besides = await _both(
                expectation.submit(pixels.own, logits=look.logits, feature_map=look.feature_map),
                others[0][1].submit(pixels.also, logits=others[0][0].logits),
            )
            return Sight(seen, besides, pixels.shown)
        except LensmithError as error:
            return error
        except Exception:
            # A defect met by one picture must not take the answers of the others with it.
            _LOG.exception("image_failed")
            return InternalError("IMAGE_FAILED", "the picture could not be looked at")


async def _both(own: Coroutine[None, None, Seen], also: Coroutine[None, None, Seen]) -> tuple[Seen, Seen | None]:
    """Wait for both networks; a failure of the other one is only its own."""
    other = asyncio.ensure_future(also)
    try:
        seen = await own
    except BaseException:
        other.cancel()
        raise
    try:
        return seen, await other
    except LensmithError:
        return seen, None
