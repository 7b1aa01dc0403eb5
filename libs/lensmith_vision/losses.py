"""How far scores are from the truth, in nats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensmith_vision.heads import HeadType

__all__ = ["log_loss"]


def log_loss(type: HeadType, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> float:
    """Mean log loss: of the true class (multi_class), or of each known label, averaged over concepts."""
    if type == "multi_class":
        shifted = logits - logits.max(axis=1, keepdims=True)
        true = (shifted * labels).sum(axis=1)
        return float((np.log(np.exp(shifted).sum(axis=1)) - true).mean())
    known = np.isfinite(labels)
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    losses = np.where(known, softplus - logits * np.nan_to_num(labels), 0)
    return float((losses.sum(axis=0) / np.maximum(known.sum(axis=0), 1)).mean())
