"""Bytes to pixels: every picture becomes 8-bit sRGB, upright, over white.

The bytes come from strangers. So: the format is read from the bytes and never from a name, only the listed formats are
tried, sizes are checked on the header before any pixel is decoded, and whatever a decoder raises becomes one
:class:`ImageError` with a reason. No global state of Pillow is changed, and calls may run in many threads at once.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from lensmith_vision.colour import to_rgb
from lensmith_vision.errors import ImageError

__all__ = ["FORMATS", "ImageLimits", "ImageInfo", "inspect", "decode"]

# Importing a plugin registers its format; without these lines Pillow would load every plugin it has at the first WebP.
_PLUGINS = (
    AvifImagePlugin.AvifImageFile,
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    Jpeg2KImagePlugin.Jpeg2KImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)

FORMATS: dict[str, str] = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "JPEG2000": "image/jp2",
    "PPM": "image/x-portable-anymap",
}
"""The formats taken in, by Pillow's name, with the media type of each.

Left out on purpose: formats that run other programs (EPS), fetch other files (FPX, WMF), or cannot be told by their
first bytes (TGA, ICO, PCX), because those make any garbage look like a picture.
"""

# MPO (JPEG with further pictures behind the first) has no entrance of its own: the JPEG plugin opens it.
_TRIED = tuple(plugin.format for plugin in _PLUGINS if plugin.format is not None)
_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_REDUCIBLE = frozenset({"L", "RGB", "RGBA", "LA", "CMYK"})
# First bytes of files that people send as pictures and that are refused by name rather than as "not an image".
_KNOWN_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML or SVG"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%!PS", "PostScript"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftyp", "MP4 or QuickTime video"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM video"),
)
_STARTS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
)


@dataclass(frozen=True)
class ImageLimits:
    """How large a picture may be, checked before its pixels are decoded.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height. Pillow's own guard refuses everything beyond 178 million, whatever stands here.
        max_side: The longer side in pixels.
        max_aspect_ratio: Longer side over shorter side.
        min_side: The shorter side in pixels.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 100_000_000
    max_side: int = 32_768
    max_aspect_ratio: float = 25.0
    min_side: int = 1


@dataclass(frozen=True)
class ImageInfo:
    """What a checked picture is; width and height as seen, that is after EXIF orientation."""

    format: str
    width: int
    height: int
    mime_type: str


def inspect(data: bytes, limits: ImageLimits | None = None) -> ImageInfo:
    """Prove that a picture decodes to its last row, and say what it is.

    Args:
        data: The whole file.
        limits: What is too large; the defaults of :class:`ImageLimits` when left out.

    Raises:
        ImageError: Not a picture, not a supported one, beyond the limits, or damaged.
    """
    limits = limits or ImageLimits()
    image = _open(data, limits)
    width, height = image.size
    # An eighth of the size reads the same compressed bytes at a third of the cost.
    _load(image, 1)
    if _orientation(image) >= 5:
        width, height = height, width
    name = image.format or ""
    return ImageInfo(format="JPEG" if name == "MPO" else name, width=width, height=height, mime_type=FORMATS[name])


def decode(
    data: bytes, limits: ImageLimits | None = None, *, min_side_hint: int | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a picture into sRGB pixels, the first frame of an animation.

    EXIF orientation, ICC profiles, CMYK, palettes, 16 bits, floats and alpha (over white) are all resolved.

    Args:
        data: The whole file.
        limits: What is too large; the defaults of :class:`ImageLimits` when left out.
        min_side_hint: The caller will shrink the picture to a short side of this many pixels anyway, so it may come
            smaller than it is, for less time and memory, as long as its short side stays at least this long.

    Returns:
        Pixels [height, width, 3], RGB.

    Raises:
        ImageError: As :func:`inspect`.
    """
    limits = limits or ImageLimits()
    image = _open(data, limits)
    _load(image, min_side_hint)
    transpose = _UPRIGHT.get(_orientation(image))
    try:
        rgb = to_rgb(_shrink(image, min_side_hint))
        if transpose is not None:
            rgb = rgb.transpose(transpose)
    except (OSError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise _damaged(image.format or "", error) from error
    return np.asarray(rgb, dtype=np.uint8)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Read the header only, and hold it against the limits."""
    if not data:
        raise ImageError("IMAGE_EMPTY", "the image has no bytes")
    if len(data) > limits.max_bytes:
        raise ImageError(
            "IMAGE_TOO_LARGE",
            f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken",
            {"bytes": str(len(data)), "max_bytes": str(limits.max_bytes)},
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_TRIED)
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            "IMAGE_TOO_MANY_PIXELS",
            f"the image has more pixels than the {limits.max_pixels} that are taken",
            {"max_pixels": str(limits.max_pixels)},
        ) from error
    # Decoders of hostile headers raise nearly anything; none of it may reach a caller as a crash.
    except Exception as error:
        if _cut_short(data):
            raise ImageError("IMAGE_TRUNCATED", "the WEBP file ends too early", {"format": "WEBP"}) from error
        raise _damaged(_starts_as(data, _STARTS) or "", error) from error
    _check_size(image.size, limits)
    return image


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    longer, shorter = max(size), min(size)
    facts = {"width": str(width), "height": str(height)}
    if shorter < max(1, limits.min_side):
        raise ImageError(
            "IMAGE_TOO_SMALL",
            f"the image is {width}x{height}; the shorter side must have at least {max(1, limits.min_side)} pixels",
            {**facts, "min_side": str(limits.min_side)},
        )
    if width * height > limits.max_pixels or longer > limits.max_side:
        raise ImageError(
            "IMAGE_TOO_MANY_PIXELS",
            f"the image is {width}x{height}; at most {limits.max_pixels} pixels and {limits.max_side} a side are taken",
            {**facts, "max_pixels": str(limits.max_pixels), "max_side": str(limits.max_side)},
        )
    if longer > shorter * limits.max_aspect_ratio:
        raise ImageError(
            "IMAGE_ASPECT_RATIO",
            f"the image is {width}x{height}; one side may be at most {limits.max_aspect_ratio:g} times the other",
            {**facts, "max_aspect_ratio": f"{limits.max_aspect_ratio:g}"},
        )


def _load(image: Image.Image, min_side: int | None) -> None:
    """Decode the pixels, a JPEG at reduced size where ``min_side`` allows."""
    try:
        if min_side is not None and image.format in ("JPEG", "MPO"):
            image.draft(image.mode, (max(1, min_side), max(1, min_side)))
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("IMAGE_TOO_MANY_PIXELS", "a frame of the image has too many pixels") from error
    except Exception as error:
        raise _damaged(image.format or "", error) from error


def _shrink(image: Image.Image, min_side: int | None) -> Image.Image:
    """Average blocks of a very large picture before its colours are worked on, which takes many times its memory."""
    factor = 1 if min_side is None else min(image.size) // (2 * max(1, min_side))
    return image.reduce(factor) if factor >= 2 and image.mode in _REDUCIBLE else image


def _orientation(image: Image.Image) -> int:
    # TIFF is turned upright by its decoder; turning it again would undo it.
    if image.format in ("TIFF", "JPEG2000"):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        return 1  # broken EXIF is common and says nothing about the pixels
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _starts_as(data: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n") if data[:1] in b"\xef \t\r\n<" else data[:64]
    return next((name for at, start, name in table if head[at : at + len(start)] == start), None)


def _cut_short(data: bytes) -> bool:
    """Tell whether a WebP says itself that it is longer; its decoder only ever says that it failed."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _unidentified(data: bytes) -> ImageError:
    started = _starts_as(data, _STARTS)
    if started is not None:
        return ImageError(
            "IMAGE_CORRUPT", f"the image starts as {started} but its header cannot be read", {"format": started}
        )
    other = _starts_as(data, _KNOWN_OTHERS)
    supported = ", ".join(sorted(set(FORMATS) - {"MPO"}))
    if other is not None:
        return ImageError(
            "IMAGE_FORMAT_UNSUPPORTED",
            f"the file is {other}; supported are {supported}",
            {"format": other, "supported": supported},
        )
    return ImageError("IMAGE_NOT_AN_IMAGE", f"the bytes are no image of a supported format ({supported})")


def _damaged(name: str, error: BaseException) -> ImageError:
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "not enough" in text or "unexpected end" in text:
        return ImageError("IMAGE_TRUNCATED", f"the {name or 'image'} file ends too early", {"format": name})
    return ImageError("IMAGE_CORRUPT", f"the {name or 'image'} file is damaged and cannot be decoded", {"format": name})
