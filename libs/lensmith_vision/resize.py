"""From a picture of any size to the square that a network takes, as its card says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["RESIZE_KINDS", "ResizeKind", "ResizePolicy", "apply", "seen_box"]

ResizeKind = Literal["short_side_crop", "squash", "half_crop"]
RESIZE_KINDS: tuple[str, ...] = get_args(ResizeKind)

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class ResizePolicy:
    """How a picture comes to the input size of a network.

    Attributes:
        kind: ``short_side_crop`` shrinks or grows the shorter side to ``short_side`` and cuts the middle out;
            ``squash`` ignores the aspect ratio; ``half_crop`` cuts the longer side until half of the difference of
            aspect ratios (as a factor) is gone, and ignores the other half: objects near the rim stay in the
            picture, and those in the middle keep most of their shape.
        height: Rows of the result.
        width: Columns of the result.
        short_side: Only for ``short_side_crop``; at least ``height`` and ``width``.
        filter: The antialiased filter, ``bilinear`` or ``bicubic``.
    """

    kind: ResizeKind
    height: int
    width: int
    short_side: int = 0
    filter: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if self.kind not in RESIZE_KINDS or self.filter not in _FILTERS:
            raise ValueError(f"unknown resize policy {self.kind!r} with filter {self.filter!r}")
        if not (1 <= self.height <= 4096 and 1 <= self.width <= 4096):
            raise ValueError("the input of a network has 1 to 4096 pixels a side")
        if self.kind == "short_side_crop" and not max(self.height, self.width) <= self.short_side <= 8192:
            raise ValueError("short_side must hold the crop")

    @property
    def min_side_hint(self) -> int:
        """The shortest side a decoded picture may have without loss, for :func:`lensmith_vision.decode.decode`."""
        return self.short_side if self.kind == "short_side_crop" else max(self.height, self.width)

    @property
    def key(self) -> str:
        """A short stable name, part of the id of a space."""
        if self.kind != "short_side_crop":
            return f"{self.kind.replace('_', '-')}-{self.height}x{self.width}-{self.filter}"
        return f"crop-{self.short_side}-{self.height}x{self.width}-{self.filter}"


def seen_box(height: int, width: int, policy: ResizePolicy) -> tuple[float, float, float, float]:
    """Return the part of a picture of some size that a network sees: left, top, right, bottom in its pixels."""
    if policy.kind == "squash":
        return 0.0, 0.0, float(width), float(height)
    if policy.kind == "half_crop":
        aspect = math.sqrt((width / height) * (policy.width / policy.height))
        # Rounded so that a picture of the right shape is left as it is.
        cut_w, cut_h = min(float(width), round(height * aspect, 6)), min(float(height), round(width / aspect, 6))
    else:
        scale = min(height, width) / policy.short_side
        cut_w, cut_h = policy.width * scale, policy.height * scale
    left, top = (width - cut_w) / 2, (height - cut_h) / 2
    return left, top, left + cut_w, top + cut_h


def apply(image: npt.NDArray[np.uint8], policy: ResizePolicy) -> npt.NDArray[np.uint8]:
    """Resize one picture.

    Args:
        image: Pixels [h, w, 3].
        policy: From the card of the pack.

    Returns:
        Pixels [policy.height, policy.width, 3].
    """
    height, width = image.shape[:2]
    resample = _FILTERS[policy.filter]
    # One resampling of the part that stays equals resizing everything and cropping, without the wasted pixels.
    box = seen_box(height, width, policy)
    if (height, width) == (policy.height, policy.width) and box == (0.0, 0.0, float(width), float(height)):
        return image
    resized = Image.fromarray(image).resize((policy.width, policy.height), resample, box=box, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8)
