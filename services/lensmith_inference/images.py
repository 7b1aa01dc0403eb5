"""From a picture in a request, bytes or URL, to the pixels that a base network takes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_api.v1.input_pb2 import Image
from lensmith_inference.metrics import Metrics
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.fetcher import Fetcher
from lensmith_vision import decode, resize
from lensmith_vision.decode import ImageLimits
from lensmith_vision.errors import ImageError
from lensmith_vision.heat import OVERLAY_SIDE, shrunk
from lensmith_vision.resize import ResizePolicy

__all__ = ["ImageReader", "Pixels"]

_ENLARGED = 1.5
"""Pixels decoded for a smaller network serve another up to this many times its size; beyond, it would see a blur."""


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture, resized.

    Attributes:
        own: [height, width, 3] as the space wants it.
        also: [height, width, 3] as the other network wants it, where there is one.
        shown: [height, width, 3], the whole picture, small enough to be shown to people; None unless asked for.
    """

    own: npt.NDArray[np.uint8]
    also: npt.NDArray[np.uint8] | None
    shown: npt.NDArray[np.uint8] | None = None


class ImageReader:
    """Reads pictures in a bounded pool of threads.

    Args:
        fetcher: Fetches URLs.
        limits: How large a picture may be.
        threads: Pictures decoded at once.
        fetch_concurrency: Pictures fetched at once; each is held until it is decoded, so this bounds memory too.
        metrics: Where decoding is timed.
    """

    def __init__(
        self, fetcher: Fetcher, limits: ImageLimits, *, threads: int, fetch_concurrency: int, metrics: Metrics
    ) -> None:
        self._fetcher = fetcher
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._fetching = asyncio.Semaphore(fetch_concurrency)
        self._metrics = metrics

    async def read(
        self,
        image: Image,
        policy: ResizePolicy,
        *,
        also: ResizePolicy | None = None,
        show: bool = False,
        fetch_until: float,
    ) -> Pixels:
        """Return a picture's pixels.

        Args:
            image: Bytes or URL.
            policy: How the space wants pictures resized.
            also: How another network wants the same picture.
            show: Also give the whole picture.
            fetch_until: Time of the event loop's clock after which a URL is given up.

        Raises:
            LensmithError: No image, one that cannot be fetched, or one that cannot be decoded.
        """
        source = image.WhichOneof("source")
        if source == "content":
            return await self._decode(image.content, policy, also, show)
        if source == "url":
            return await self._fetch(image.url, policy, also, show, fetch_until)
        raise InvalidInputError("IMAGE_MISSING", "the query has neither the bytes of an image nor a URL")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)

    async def _fetch(
        self, url: str, policy: ResizePolicy, also: ResizePolicy | None, show: bool, until: float
    ) -> Pixels:
        try:
            # Waiting for a turn counts too: others' slow URLs must not take the time of this request's good pictures.
            async with asyncio.timeout_at(until) as limit, self._fetching:
                fetched = await self._fetcher.fetch(url)
                limit.reschedule(None)
                return await self._decode(fetched.data, policy, also, show)
        except TimeoutError:
            raise InvalidInputError("URL_TIMEOUT", "the image could not be fetched in time") from None

    async def _decode(self, data: bytes, policy: ResizePolicy, also: ResizePolicy | None, show: bool) -> Pixels:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, data, policy, also, show)
        except ImageError as error:
            raise InvalidInputError(error.reason, str(error), metadata=error.metadata) from error

    def _read(self, data: bytes, policy: ResizePolicy, also: ResizePolicy | None, show: bool) -> Pixels:
        with self._metrics.decode_seconds.time():
            # The pixels of a space never depend on whether another network looks too: vectors would differ.
            pixels = decode.decode(data, self._limits, min_side_hint=policy.min_side_hint)
            own = resize.apply(pixels, policy)
            shown = shrunk(decode.decode(data, self._limits, min_side_hint=OVERLAY_SIDE)) if show else None
            if also is None:
                return Pixels(own, None, shown)
            if also.min_side_hint > _ENLARGED * policy.min_side_hint:
                pixels = decode.decode(data, self._limits, min_side_hint=also.min_side_hint)
            return Pixels(own, own if also == policy else resize.apply(pixels, also), shown)
