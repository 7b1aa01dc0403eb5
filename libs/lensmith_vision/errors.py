"""What can go wrong here, each with a reason a program can act on."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["VisionError", "ImageError", "PackError", "HeadError", "TrainingError"]


class VisionError(Exception):
    """An input that this library refuses.

    Attributes:
        reason: A stable word in UPPER_SNAKE, such as ``IMAGE_TRUNCATED``.
        metadata: The facts behind the refusal (limits, sizes, names), as strings.
    """

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})


class ImageError(VisionError):
    """The bytes are not an image that can be taken in."""


class PackError(VisionError):
    """A model pack is incomplete, altered, or does not keep the contract."""


class HeadError(VisionError):
    """A stored head is damaged, or was made for another space."""


class TrainingError(VisionError):
    """A training set cannot be trained on, or a training was cancelled."""
