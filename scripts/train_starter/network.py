"""The student: a small convolutional network that is fast on a CPU, in training as in serving.

Residual 3x3 convolutions (He et al. 2015, arXiv:1512.03385) and nothing else: per multiplication they are several times
faster on a CPU than depthwise ones, which wait for memory. The picture is reduced to a quarter at once, and the last
map of a 128-pixel picture is 8 x 8, fine enough for heat maps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 1024
"""Length of its vectors."""

CLASSES = 1001
"""ImageNet's thousand classes behind a background class, as its teacher has them."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    )


class Dense(nn.Module):
    """Residual 3x3 convolution, [n, c, h, w] to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels, 3)

    def forward(self, maps: Tensor) -> Tensor:
        """Add what the convolution finds."""
        return functional.relu(maps + self.conv(maps))


class Starter(nn.Module):
    """Pictures [n, 3, s, s], RGB scaled to about -2 to 2, to the last map, its mean and the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 48, 7, 4),
            nn.ReLU(),
            Dense(48),
            _conv(48, 96, 3, 2),
            nn.ReLU(),
            Dense(96),
            Dense(96),
            _conv(96, 192, 3, 2),
            nn.ReLU(),
            Dense(192),
            Dense(192),
            Dense(192),
            _conv(192, FEATURES, 1),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the last map [n, 1024, s/16, s/16], its mean over space [n, 1024] and the logits [n, 1001]."""
        maps = self.body(pictures)
        features = maps.mean((2, 3))
        return maps, features, self.classifier(features)


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(tensor.numel() for tensor in network.parameters())


def scaled(pictures: Tensor) -> Tensor:
    """Raw RGB [n, s, s, 3] uint8 to what the network takes, [n, 3, s, s] with channels last in memory."""
    return pictures.permute(0, 3, 1, 2).to(torch.float32).sub_(127.5).mul_(1 / 64)
