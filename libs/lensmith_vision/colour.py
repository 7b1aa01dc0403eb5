"""Any of Pillow's pixel modes to 8-bit sRGB over white."""

from __future__ import annotations

import functools
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

__all__ = ["to_rgb"]

_WHITE = (255, 255, 255)
# Real profiles end at about 2 MB; the cache below must not be filled with larger ones.
_MAX_PROFILE_BYTES = 4 * 1024 * 1024
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_PROFILE_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab "}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the picture as mode RGB in sRGB.

    The embedded ICC profile is honoured where it fits the pixels; a profile that is broken or for another kind of
    pixels is ignored, as browsers do.
    """
    profile = image.info.get("icc_profile")
    if image.mode in _DEEP_MODES:
        image = _to_eight_bits(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        colours = _to_srgb(rgba.convert("RGB"), profile)
        flat = Image.new("RGB", rgba.size, _WHITE)
        flat.paste(colours, mask=rgba.getchannel("A"))
        return flat
    if image.mode == "P":
        image = image.convert("RGB")
    return _to_srgb(image, profile)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep grey values: 16-bit integers by their full range, floats 0..1 by 255, anything else by its range."""
    values: npt.NDArray[np.float32] = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode != "F" and low >= 0 and high <= 65535:
        values /= 257.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        values *= 255.0
    elif low < 0 or high > 255:
        values = (values - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(values).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: object) -> Image.Image:
    if isinstance(profile, bytes) and 0 < len(profile) <= _MAX_PROFILE_BYTES:
        transform = _transform(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    if image.mode == "LAB":
        return _lab_transform().apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the way from a profile to sRGB once: it costs more than applying it. None when nothing is to be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _PROFILE_SPACES.get(mode):
            return None
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None


@functools.lru_cache(maxsize=1)
def _lab_transform() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
