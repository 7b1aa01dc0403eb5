"""Whether a pack can be fine-tuned at all, asked before anything is spent on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import Floats
from lensmith_vision.fine_tune.network import Network
from lensmith_vision.pack import golden_images, load_card

__all__ = ["check_start"]

_ROUNDING = 0.02


def check_start(start: Path) -> None:
    """Read a pack's network as one that learns.

    Args:
        start: Folder of the pack.

    Raises:
        TrainingError: ``NETWORK_NOT_TRAINABLE``: it cannot learn on, and the message says why.
        PackError: It is no pack.
    """
    card = load_card(start)
    if card.views > 1:
        raise TrainingError(
            "NETWORK_NOT_TRAINABLE",
            f"{card.id} looks at {card.views} views of a picture: fine-tuning begins from networks that look once",
        )
    network = Network(start, np.zeros((card.feature_dim, 1), np.float32), np.zeros(1, np.float32))
    if not network.weights:
        raise TrainingError("NETWORK_NOT_TRAINABLE", f"{card.id} has no layers that learn: choose another base model")
    # Some nodes say only when they run what they lack, and what runs may still compute something else.
    images = golden_images(card.golden.seeds, card.resize.height, card.resize.width)
    with torch.inference_mode():
        features = network.features(torch.from_numpy(images)).numpy()
    expected = card.golden.features
    if features.shape != expected.shape or not _close(features, expected):
        raise TrainingError("NETWORK_NOT_TRAINABLE", f"{card.id} gives other features in training than it gives now")


def _close(features: Floats, expected: Floats) -> bool:
    """Whether features are the same but for rounding; those that are no numbers are not."""
    return float(np.linalg.norm(features - expected)) <= _ROUNDING * float(np.linalg.norm(expected))
