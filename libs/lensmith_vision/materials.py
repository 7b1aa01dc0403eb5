"""Pictures of materials drawn by formula: something to learn from where no photographs are at hand.

Each picture has its own colours, scale, direction and light: a model has to learn the material, not the picture.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

SIDE = 192
JPEG_QUALITY = 88

Array = npt.NDArray[np.float64]
Rng = np.random.Generator


def render(folder: Path, pictures: int, seed: int = 0) -> list[Path]:
    """Draws `pictures` JPEG files of each material, `folder/{material}/{number}.jpg`, and returns them.

    The same seed draws the same pictures.
    """
    paths = []
    for index, (name, draw) in enumerate(MATERIALS.items()):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for number in range(pictures):
            rng = np.random.default_rng((seed, index, number))
            path = target / f"{number:03}.jpg"
            Image.fromarray(_finish(draw(rng), rng)).save(path, quality=JPEG_QUALITY)
            paths.append(path)
    return paths


def _finish(picture: Array, rng: Rng) -> npt.NDArray[np.uint8]:
    """Add light from one side and the noise of a camera; `picture` is [side, side, 3] in 0..1."""
    x, y = _grid(rng.uniform(0, 2 * np.pi))
    light = 1 + rng.uniform(0, 0.35) * (x + y)
    noisy = picture * light[..., None] * rng.uniform(0.75, 1.15) + rng.normal(0, 0.02, picture.shape)
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)


def _grid(angle: float) -> tuple[Array, Array]:
    """Coordinates of the pixels in -0.5..0.5, turned by an angle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def _noise(rng: Rng, scale: float, stretch: float = 1.0) -> Array:
    """Smooth noise of unit variance; `scale` in pixels, `stretch` times longer along the rows."""
    field = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), (scale, scale * stretch), mode="wrap")
    return np.asarray(field / field.std())


def _mix(first: Array, second: Array, amount: Array) -> Array:
    """Blends two colours by an amount in 0..1 for each pixel."""
    share = np.clip(amount, 0, 1)[..., None]
    return first * (1 - share) + second * share


def _colour(rng: Rng, low: tuple[float, float, float], high: tuple[float, float, float]) -> Array:
    return rng.uniform(low, high)


def _wood(rng: Rng) -> Array:
    x, y = _grid(rng.uniform(-0.3, 0.3))
    rings = np.hypot(x * rng.uniform(0.3, 0.8) + 1.5, y * rng.uniform(2, 5)) * rng.uniform(8, 20)
    grain = 0.5 + 0.5 * np.sin(rings * 2 * np.pi + _noise(rng, 12, 4) * 0.8) + 0.15 * _noise(rng, 1, 12)
    return _mix(
        _colour(rng, (0.35, 0.2, 0.08), (0.5, 0.3, 0.15)), _colour(rng, (0.6, 0.4, 0.2), (0.85, 0.65, 0.4)), grain
    )


def _brick(rng: Rng) -> Array:
    x, y = _grid(rng.uniform(-0.1, 0.1))
    rows = rng.uniform(5, 9)
    row = np.floor((y + 0.5) * rows)
    column = (x + 0.5) * rows / 2 + 0.5 * (row % 2)
    edge = np.minimum(
        np.minimum(column % 1, 1 - column % 1) * 2, np.minimum((y + 0.5) * rows % 1, 1 - (y + 0.5) * rows % 1)
    )
    tone = np.sin(np.floor(column) * 12.9898 + row * 78.233 + rng.uniform(0, 6)) * 0.5 + 0.5
    body = _mix(
        _colour(rng, (0.4, 0.15, 0.1), (0.55, 0.25, 0.15)), _colour(rng, (0.6, 0.3, 0.2), (0.8, 0.4, 0.3)), tone
    )
    body = body * (1 + 0.08 * _noise(rng, 1.5))[..., None]
    return _mix(_colour(rng, (0.6, 0.6, 0.55), (0.8, 0.8, 0.75)), body, edge * 14 - 0.5)


def _marble(rng: Rng) -> Array:
    x, y = _grid(rng.uniform(0, np.pi))
    veins = np.abs(np.sin((x * rng.uniform(2, 5) + y) * 2 * np.pi + _noise(rng, 16) * 1.6 + _noise(rng, 5) * 0.5))
    ground = _colour(rng, (0.8, 0.78, 0.75), (0.97, 0.97, 0.95))
    return _mix(_colour(rng, (0.3, 0.3, 0.32), (0.55, 0.52, 0.5)), ground, veins**0.35 + 0.05 * _noise(rng, 8))


def _fabric(rng: Rng) -> Array:
    x, y = _grid(rng.uniform(-0.5, 0.5))
    threads = rng.uniform(28, 55)
    weave = np.sin(x * threads * 2 * np.pi) * np.sin(y * threads * 2 * np.pi)
    stripes = 0.5 + 0.5 * np.sign(np.sin(x * rng.uniform(2, 9) * 2 * np.pi))
    body = _mix(_colour(rng, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9)), _colour(rng, (0.1, 0.1, 0.1), (0.9, 0.9, 0.9)), stripes)
    return body * (0.85 + 0.15 * weave + 0.05 * _noise(rng, 1))[..., None]


def _grass(rng: Rng) -> Array:
    blades = sum(np.roll(_noise(rng, 1, 7).T, shift, 1) for shift in (0, 3)) / 2
    blades = ndimage.rotate(blades, rng.uniform(-25, 25), reshape=False, mode="wrap", order=1)
    dark, light = _colour(rng, (0.05, 0.2, 0.02), (0.15, 0.35, 0.08)), _colour(rng, (0.3, 0.5, 0.1), (0.6, 0.8, 0.3))
    return _mix(dark, light, 0.45 + 0.3 * blades + 0.1 * _noise(rng, 20))


def _water(rng: Rng) -> Array:
    x, y = _grid(rng.uniform(-0.4, 0.4))
    waves = sum(
        np.sin((y * rng.uniform(6, 22) + x * rng.uniform(-3, 3)) * 2 * np.pi + _noise(rng, 14, 3) * 1.5)
        for _ in range(3)
    )
    deep, bright = _colour(rng, (0.0, 0.15, 0.3), (0.1, 0.35, 0.5)), _colour(rng, (0.4, 0.6, 0.7), (0.8, 0.95, 1.0))
    return _mix(deep, bright, 0.35 + 0.2 * np.asarray(waves))


MATERIALS: dict[str, Callable[[Rng], Array]] = {
    "brick": _brick,
    "fabric": _fabric,
    "grass": _grass,
    "marble": _marble,
    "water": _water,
    "wood": _wood,
}
