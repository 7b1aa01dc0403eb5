"""Heat maps drawn over their pictures."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from lensmith_vision.resize import ResizePolicy, seen_box

__all__ = ["OVERLAY_SIDE", "overlay_png", "seen_part", "shrunk"]

OVERLAY_SIDE = 768
"""Most pixels of the longer side of a picture with a map over it."""

_STOPS = np.asarray([(48, 18, 134), (30, 130, 200), (90, 220, 110), (250, 200, 50), (215, 30, 20)], np.float32)
"""Colours from the least to the greatest value: told apart by their lightness too, up to the last."""

_CLEAREST, _DENSEST = 0.15, 0.65


def shrunk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a picture [h, w, 3] with a longer side of at most `OVERLAY_SIDE`; smaller ones stay as they are."""
    image = Image.fromarray(pixels)
    image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    return np.asarray(image, np.uint8)


def seen_part(height: int, width: int, policy: ResizePolicy) -> tuple[float, float, float, float]:
    """Return the part of a picture that a network sees: left, top, right, bottom as fractions of width and height."""
    left, top, right, bottom = seen_box(height, width, policy)
    return left / width, top / height, right / width, bottom / height


def overlay_png(
    pixels: npt.NDArray[np.uint8], values: npt.NDArray[np.float32], part: tuple[float, float, float, float]
) -> bytes:
    """Draw a map over its picture.

    Colours run from the map's least value to its greatest; what the network has not seen stays as it is.

    Args:
        pixels: The picture [h, w, 3], at most `OVERLAY_SIDE` a side.
        values: The map [rows, columns].
        part: Where it lies, see `seen_part`.

    Returns:
        The bytes of a PNG of the picture's size.
    """
    height, width = pixels.shape[:2]
    left, right = (min(max(round(side * width), 0), width) for side in (part[0], part[2]))
    top, bottom = (min(max(round(side * height), 0), height) for side in (part[1], part[3]))
    # Of a very thin picture there may be less than a pixel; a map of nothing cannot be drawn.
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth, np.float32), 0, 1)[..., None]
    place = heat[..., 0] * (len(_STOPS) - 1)
    below = np.minimum(place.astype(np.intp), len(_STOPS) - 2)
    share = (place - below)[..., None]
    colours = _STOPS[below] * (1 - share) + _STOPS[below + 1] * share
    density = _CLEAREST + (_DENSEST - _CLEAREST) * heat
    mixed = pixels.astype(np.float32)
    seen = mixed[top:bottom, left:right]
    rows, columns = seen.shape[:2]
    seen[:] = seen * (1 - density[:rows, :columns]) + colours[:rows, :columns] * density[:rows, :columns]
    stream = io.BytesIO()
    Image.fromarray(np.rint(mixed).astype(np.uint8)).save(stream, "PNG", compress_level=3)
    return stream.getvalue()
