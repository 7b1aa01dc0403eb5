"""What a model says that never saw the pictures whose labels are in doubt, so that these have no say any more."""

from __future__ import annotations

import numpy as np

from lensmith_vision.classes import Tier
from lensmith_vision.curation.suggestion import Bools, Curated, Floats
from lensmith_vision.errors import TrainingError
from lensmith_vision.preflight import MIN_POSITIVES
from lensmith_vision.training import TrainingSet, TrainOptions, fit

__all__ = ["scores_without"]

_MOST_ROWS: dict[Tier, int] = {"linear": 20_000, "auto": 20_000, "kernel": 10_000}
"""Larger sets are looked at once: there are enough right labels in them to outvote the wrong ones."""


def scores_without(data: Curated, doubted: Bools, tier: Tier, seed: int) -> Floats | None:
    """Train without the doubted pictures of a multi_class set, and say what that model makes of all of them.

    Args:
        data: Pictures that each show one concept.
        doubted: [n], which to leave out.
        tier: Of the head to fit.
        seed: Of its folds.

    Returns:
        Scores [n, c], none by a model that saw the picture; None where too little is left to train on, or too much.
    """
    if not doubted.any() or len(doubted) > _MOST_ROWS[tier]:
        return None
    kept = data.rows(~doubted)
    if ((kept.truth == 1).sum(axis=0) < MIN_POSITIVES).any():
        return None
    left = TrainingSet("curated", kept.concepts, kept.ids, kept.features, kept.group_ids, labels=kept.truth)
    try:
        fitted = fit(left, TrainOptions("multi_class", seed=seed, tier=tier))
    except TrainingError:
        return None
    scores = np.empty_like(data.scores)
    scores[~doubted] = fitted.out_of_fold.scores
    scores[doubted] = fitted.head.scores(data.features[doubted])
    return scores
