"""Pictures, packs and features that the tests of this package share."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared photographs and networks; tests that need it are skipped, loudly, without it."""
    root = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (root / "datasets").is_dir():
        pytest.skip(f"no shared data in {root}: set LENSMITH_SHARED")
    return root


@pytest.fixture(scope="session")
def near_duplicates(shared: Path) -> Path:
    return shared / "datasets" / "near-duplicates"


@pytest.fixture(scope="session")
def pixels() -> npt.NDArray[np.uint8]:
    """A smooth picture [120, 160, 3] whose four quarters differ, so that turning it shows."""
    rows, columns = np.mgrid[0:120, 0:160]
    planes = [40 + rows, 30 + columns, 200 - rows]
    return np.stack(planes, axis=2).astype(np.uint8)


@pytest.fixture(scope="session")
def picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode a picture: ``encode(image, "PNG", **options)``."""

    def run(image: Image.Image, format: str, **options: object) -> bytes:
        buffer = BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return run
