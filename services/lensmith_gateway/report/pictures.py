"""Pictures for a report: small enough to stand in the page itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image, ImageOps

__all__ = ["Seen", "Thumbnail", "shrink"]

# Whatever was taken in was checked by then; these hold should that ever be not so.
_MOST_PIXELS = 200_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_QUALITY = 82


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG."""

    data: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.data).decode()


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture, and the same with what spoke for the answer; None where it could not be had.

    Attributes:
        name: resource name of the input as it is called now; empty where it is gone.
        file: the name of the file that an import brought it in from; empty where nobody noted one.
    """

    name: str = ""
    file: str = ""
    picture: Thumbnail | None = None
    heat_map: Thumbnail | None = None


def shrink(data: bytes, side: int) -> Thumbnail | None:
    """Make a picture small; None where it cannot be read. Blocking: call it in a thread.

    Args:
        data: the encoded file.
        side: most pixels of its longer side.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return None
            # A JPEG is decoded at a fraction of its size where that is enough.
            image.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(image)
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
            flat = _without_transparency(upright)
            file = io.BytesIO()
            flat.save(file, "JPEG", quality=_QUALITY, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Thumbnail(file.getvalue())


def _without_transparency(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")
