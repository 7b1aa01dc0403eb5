"""Everything that is worth saying about a training set, in one call."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from lensmith_vision.curation.asked import with_asked
from lensmith_vision.curation.concepts import confused_concepts, few_images
from lensmith_vision.curation.duplicates import conflicting_copies, tested_copies
from lensmith_vision.curation.negatives import few_negatives
from lensmith_vision.curation.neighbours import directions, find_neighbours
from lensmith_vision.curation.next_labels import label_next
from lensmith_vision.curation.outliers import outliers
from lensmith_vision.curation.suggestion import Curated, Pictures, Suggestion
from lensmith_vision.curation.wrong_labels import REPLACED_SCORES, doubted_labels, wrong_labels, wrong_numbers
from lensmith_vision.heads import Head

__all__ = ["suggest"]


def suggest(
    data: Curated,
    head: Head,
    *,
    unlabelled: Pictures | None = None,
    tests: Pictures | None = None,
    seed: int = 0,
) -> list[Suggestion]:
    """Say what to fix in a training set and what to add to it, the most useful of each kind first.

    At most 5,000 wrong labels, and hundreds of each other kind. Time and memory are bounded for any number of pictures:
    large sets are compared with a sample of themselves.

    Args:
        data: What the model was trained on, with its scores out of fold.
        head: The trained head.
        unlabelled: Some of the pictures that have no label yet.
        tests: Those kept for testing.
        seed: Of samples.
    """
    # Pieces run side by side instead, see `in_threads`.
    with threadpool_limits(1, user_api="blas"):
        units = directions(data.features)
        doubted = surely_wrong = np.zeros(len(data.ids), dtype=np.bool_)
        if data.type == "regression":
            found = wrong_numbers(data)
        else:
            doubt = doubted_labels(data, find_neighbours(units, data.groups, seed=seed), seed)
            doubted = doubt.of(len(data.ids))
            surely_wrong = doubt.of(len(data.ids), REPLACED_SCORES[data.type])
            found = wrong_labels(data, doubt)
        found += confused_concepts(data, surely_wrong)
        found += few_images(data) + few_negatives(data, head, unlabelled)
        found += conflicting_copies(data)
        if tests is not None:
            found += tested_copies(data, tests)
        found += outliers(data, units, doubted)
        if unlabelled is not None:
            found = with_asked(found, head, unlabelled) + label_next(data, head, unlabelled)
    return found
