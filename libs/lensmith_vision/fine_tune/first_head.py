"""The classifier that a training begins with: a head, on features as the network gives them. Needs no torch."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from lensmith_vision.classes import fit_classes
from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import Floats, Ints
from lensmith_vision.heads import HeadType
from lensmith_vision.labels import fit_labels
from lensmith_vision.numbers import fit_numbers

__all__ = ["first_head"]


def first_head(
    type: HeadType, features: Floats, truth: Floats, groups: Ints, folds: Ints, seed: int
) -> tuple[Floats, Floats]:
    """Fit a linear classifier; nothing is done to features that the network would have to do as well.

    Args:
        type: What is learnt.
        features: [n, d].
        truth: Labels [n, c] with NaN unknown, or numbers [n, 1].
        groups: [n], near copies share a number.
        folds: [n], by which its strength is chosen.
        seed: Of samples.

    Returns:
        Weights [d, c] and bias [c].

    Raises:
        TrainingError: ``FINE_TUNE_JOB_INVALID``: a picture has no concept, or several, where there must be one.
    """
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    # As for heads: fits run side by side instead.
    with threadpool_limits(1, user_api="blas"):
        if type == "multi_class":
            if not ((truth == 1).sum(axis=1) == 1).all():
                raise TrainingError("FINE_TUNE_JOB_INVALID", "each picture must show one concept and no other")
            classes = (truth == 1).argmax(axis=1)
            width = truth.shape[1]
            fitted = fit_classes(
                features, classes, width, groups, folds, tier="linear", seed=seed, step=_pass, plain=True
            )
            return fitted.weights, fitted.bias
        if type == "multi_label":
            ridge = fit_labels(features, truth, groups, folds, seed=seed, step=_pass, plain=True)
        else:
            ridge = fit_numbers(features, truth[:, 0], groups, folds, seed=seed, step=_pass, plain=True)
    return ridge.weights.astype(np.float32), ridge.bias.astype(np.float32)


def _pass(part: float) -> None:
    """Nobody waits for so short a fit."""
