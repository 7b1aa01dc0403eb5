"""Small pictures for tests that need many different ones."""

import io

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """A picture of coloured blocks, different for each seed."""
    blocks = np.random.RandomState(seed).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()
