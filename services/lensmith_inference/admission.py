"""How much work is taken on at once, so that a flood is refused at the door instead of filling the memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lensmith_api.v1.inference_service_pb2 import ImageQuery
from lensmith_inference.metrics import Metrics
from lensmith_inference.settings import InferenceSettings
from lensmith_platform.errors import InvalidInputError, QuotaExceededError

__all__ = ["Admission"]


class Admission:
    """Counts the pictures and bytes in work.

    Args:
        settings: The limits.
        metrics: Where the pictures in work are shown.
    """

    def __init__(self, settings: InferenceSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._images = 0
        self._bytes = 0

    @contextmanager
    def admit(self, queries: Sequence[ImageQuery]) -> Iterator[None]:
        """Take on the pictures of one request until the block ends.

        Raises:
            InvalidInputError: The request alone is over a limit, which the error names.
            QuotaExceededError: The service has all the work it can hold; try again.
        """
        limits = self._settings
        images, size = len(queries), sum(query.ByteSize() for query in queries)
        if images > limits.max_images:
            raise _over("TOO_MANY_IMAGES", "max_images", images, limits.max_images, "images")
        # The pictures' own bytes are copied when they are looked at, so only where it may matter.
        if size > limits.max_request_bytes and (sent := _bytes_of(queries)) > limits.max_request_bytes:
            raise _over("REQUEST_TOO_LARGE", "max_request_bytes", sent, limits.max_request_bytes, "bytes of images")
        # A request that fits its own limits is always served by an idle service, whatever the sums are set to.
        full = self._images + images > limits.max_pending_images or self._bytes + size > limits.max_pending_bytes
        if full and self._images > 0:
            raise QuotaExceededError(
                "INFERENCE_OVERLOADED",
                f"{self._images} images are being worked on; try again in a moment",
                metadata={
                    "pending_images": str(self._images),
                    "limit": "max_pending_images",
                    "max": str(limits.max_pending_images),
                },
                retry_after=1.0,
            )
        self._add(images, size)
        try:
            yield
        finally:
            self._add(-images, -size)

    def _add(self, images: int, size: int) -> None:
        self._images += images
        self._bytes += size
        self._metrics.pending_images.set(self._images)


def _bytes_of(queries: Sequence[ImageQuery]) -> int:
    return sum(len(query.image.content) for query in queries)


def _over(reason: str, limit: str, actual: int, most: int, unit: str) -> InvalidInputError:
    return InvalidInputError(
        reason,
        f"the request has {actual} {unit}; at most {most} are taken ({limit})",
        metadata={"limit": limit, "max": str(most), "actual": str(actual)},
        field_violations=[("inputs", f"at most {most} {unit}")],
    )
