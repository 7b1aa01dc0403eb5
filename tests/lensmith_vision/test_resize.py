"""Pictures come to the size of the network as its card says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lensmith_vision.resize import ResizePolicy, apply, seen_box

_HALF = ResizePolicy("half_crop", 32, 24)
Pixels = npt.NDArray[np.uint8]


def test_apply_equals_resize_and_crop_when_short_side_is_set(pixels: Pixels) -> None:
    policy = ResizePolicy("short_side_crop", 56, 56, 64)
    whole = Image.fromarray(pixels).resize((85, 64), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[4:60, 14:70]
    result = apply(pixels, policy)
    assert result.shape == (56, 56, 3)
    assert np.abs(result.astype(int) - expected.astype(int)).mean() < 1.5


def test_apply_keeps_everything_when_squashed(pixels: Pixels) -> None:
    result = apply(pixels, ResizePolicy("squash", 30, 30))
    assert result.shape == (30, 30, 3)
    assert np.abs(result[0, 0].astype(int) - pixels[:4, :5].mean(axis=(0, 1))).max() < 3
    assert np.abs(result[-1, -1].astype(int) - pixels[-4:, -5:].mean(axis=(0, 1))).max() < 3


def test_apply_cuts_half_of_the_excess_when_half_cropped() -> None:
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 50:150] = 255
    policy = ResizePolicy("half_crop", 40, 40)
    assert seen_box(50, 200, policy) == (50.0, 0.0, 150.0, 50.0)
    assert seen_box(200, 50, policy) == (0.0, 50.0, 50.0, 150.0)
    assert (apply(wide, policy)[:, 1:-1] == 255).all()
    assert policy.key == "half-crop-40x40-bilinear"


def test_apply_averages_when_shrinking_far() -> None:
    checks = ((np.indices((512, 512)).sum(axis=0) % 2) * 255).astype(np.uint8)
    image = np.repeat(checks[:, :, None], 3, axis=2)
    for filter in ("bilinear", "bicubic"):
        result = apply(image, ResizePolicy("squash", 16, 16, filter="bicubic" if filter == "bicubic" else "bilinear"))
        assert np.abs(result.astype(int) - 127).max() <= 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 25), (25, 1), (2000, 80), (3, 7)])
def test_apply_gives_the_size_when_pictures_are_odd(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 77, np.uint8)
    for policy in (
        ResizePolicy("short_side_crop", 24, 24, 28),
        ResizePolicy("squash", 24, 32, filter="bicubic"),
        _HALF,
    ):
        result = apply(image, policy)
        assert result.shape == (policy.height, policy.width, 3)
        assert (result == 77).all()


def test_apply_changes_nothing_when_size_fits(pixels: Pixels) -> None:
    assert (apply(pixels, ResizePolicy("squash", 120, 160)) == pixels).all()
    assert (apply(pixels, ResizePolicy("half_crop", 120, 160)) == pixels).all()
    square = pixels[:100, :100]
    assert (apply(square, ResizePolicy("short_side_crop", 100, 100, 100)) == square).all()


def test_policy_refuses_when_it_makes_no_sense() -> None:
    for arguments in (("stretch", 8, 8), ("squash", 0, 8), ("squash", 8, 9999), ("short_side_crop", 8, 8, 7)):
        with pytest.raises(ValueError, match=r"\w"):
            ResizePolicy(*arguments)  # the types are wrong on purpose
