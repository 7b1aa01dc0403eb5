"""Chance changes of photographs that leave what they show: other crops, light and colours, mirrored, tilted."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["augmented"]

_LEAST_AREA = 0.45
_STRETCH = 1.25
_TILT_DEGREES = 10.0
_LIGHT, _CONTRAST, _COLOUR = 0.25, 0.25, 0.3
_GREY = (0.299, 0.587, 0.114)


def augmented(pictures: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Change pictures by chance, all in one go on the device where they are, in full precision whatever surrounds it.

    Args:
        pictures: [n, h, w, 3] uint8, larger than what is cut from them.
        height: Rows of the result.
        width: Columns of the result.
        generator: On the CPU: the same state gives the same changes on every device.

    Returns:
        [n, height, width, 3] float32, 0 to 255.
    """
    count, device = len(pictures), pictures.device
    chance = torch.rand(count, 8, generator=generator).to(device)
    planes = pictures.permute(0, 3, 1, 2).to(torch.float32)
    # Mixed precision would put places half a pixel off: the grid is a product of matrices.
    with torch.autocast(device.type, enabled=False):
        grid = functional.affine_grid(_views(chance), [count, 3, height, width], align_corners=False)
        cut = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        return _relit(cut, chance[:, 5:]).permute(0, 2, 3, 1)


def _views(chance: Tensor) -> Tensor:
    """Where to look: a part of at least `_LEAST_AREA`, stretched, tilted and mirrored by chance; [n, 2, 3]."""
    area = _LEAST_AREA + (1 - _LEAST_AREA) * chance[:, 0]
    stretch = torch.exp((chance[:, 1] * 2 - 1) * math.log(_STRETCH) / 2)
    across, down = (area.sqrt() * stretch).clamp(max=1.0), (area.sqrt() / stretch).clamp(max=1.0)
    angle = (chance[:, 2] * 2 - 1) * math.radians(_TILT_DEGREES)
    mirrored = torch.where(chance[:, 3] < 0.5, -1.0, 1.0)
    # The place takes both halves of one number, so that eight are enough.
    right = (torch.frac(chance[:, 4] * 64) * 2 - 1) * (1 - across)
    below = (torch.frac(chance[:, 4] * 4096) * 2 - 1) * (1 - down)
    cosine, sine = angle.cos(), angle.sin()
    rows = [mirrored * across * cosine, -down * sine, right, mirrored * across * sine, down * cosine, below]
    return torch.stack(rows, 1).reshape(-1, 2, 3)


def _relit(planes: Tensor, chance: Tensor) -> Tensor:
    light, contrast, colour = (
        (1 + (chance[:, column] * 2 - 1) * most).reshape(-1, 1, 1, 1)
        for column, most in enumerate((_LIGHT, _CONTRAST, _COLOUR))
    )
    weights = torch.tensor(_GREY, device=planes.device).reshape(1, 3, 1, 1)
    grey = (planes * weights).sum(1, keepdim=True)
    coloured = grey + (planes - grey) * colour
    middle = grey.mean((2, 3), keepdim=True)
    return ((middle + (coloured - middle) * contrast) * light).clamp(0, 255)
