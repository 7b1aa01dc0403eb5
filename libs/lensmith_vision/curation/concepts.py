"""What is wrong with concepts as a whole: two that are taken for each other, and those with too few pictures."""

from __future__ import annotations

import numpy as np

from lensmith_vision.curation.suggestion import Bools, Curated, Suggestion
from lensmith_vision.preflight import ENOUGH_POSITIVES, MAX_IMBALANCE

__all__ = ["confused_concepts", "few_images"]

_LEAST_RATE = 0.1
_LEAST_CONFUSED = 3
_MOST_PAIRS = 50
_MOST_FEW = 200
_EXAMPLES = 8


def confused_concepts(data: Curated, surely_wrong: Bools) -> list[Suggestion]:
    """Find pairs of concepts that are often taken for each other.

    Args:
        data: What the model was trained on, with its scores out of fold.
        surely_wrong: [n], pictures to leave aside. Only those: every picture of two concepts that are the same thing
            may be doubted a little, whichever of the two it is given.
    """
    if data.type == "regression":
        return []
    truth, width = data.truth, len(data.concepts)
    if data.type == "multi_class":
        rows = np.flatnonzero(~surely_wrong & data.held_out)
        actual, taken = truth[rows].argmax(axis=1), data.scores[rows].argmax(axis=1)
    else:
        # A picture of one concept that is taken to show another one too, and does not.
        rows, taken = np.nonzero((truth == 0) & (data.scores >= 0.5) & ~surely_wrong[:, None])
        shown = truth[rows] == 1
        shown_any = shown.any(axis=1)
        rows, taken, actual = rows[shown_any], taken[shown_any], shown[shown_any].argmax(axis=1)
    wrong = actual != taken
    rows, actual, taken = rows[wrong], actual[wrong], taken[wrong]
    low, high = np.minimum(actual, taken), np.maximum(actual, taken)
    pairs, inverse, counts = np.unique(low * width + high, return_inverse=True, return_counts=True)
    positives = (truth == 1).sum(axis=0)
    found = []
    for place, (pair, count) in enumerate(zip(pairs.tolist(), counts.tolist(), strict=True)):
        left, right = divmod(pair, width)
        rate = count / max(int(positives[left] + positives[right]), 1)
        if count < _LEAST_CONFUSED or rate < _LEAST_RATE:
            continue
        ours = rows[inverse == place]
        order = ours[np.argsort(-data.scores[ours, taken[inverse == place]], kind="stable")]
        one, other = data.concepts[left], data.concepts[right]
        message = (
            f"{count} of {int(positives[left] + positives[right])} pictures of {one} and {other} are taken for the "
            f"other: add pictures that show the difference, or make them one concept"
        )
        examples = tuple(data.ids[row] for row in order[:_EXAMPLES].tolist())
        found.append(Suggestion("CONFUSED_CONCEPTS", message, min(rate, 1.0), one, other, related=examples))
    return sorted(found, key=lambda one: (-one.score, one.concept, one.other))[:_MOST_PAIRS]


def few_images(data: Curated) -> list[Suggestion]:
    """Find concepts with few pictures, or with far fewer than others, and say how many to add."""
    if data.type == "regression":
        counts = {data.concepts[0]: len(data.ids)}
    else:
        counts = dict(zip(data.concepts, (data.truth == 1).sum(axis=0).tolist(), strict=True))
    most = max(counts, key=lambda concept: counts[concept])
    found = []
    for concept, count in counts.items():
        # In a multi_label set, what is rare in the world is rare in the set; only too few are worth a word.
        balanced = int(np.ceil(counts[most] / MAX_IMBALANCE)) if data.type == "multi_class" else 0
        wanted = max(ENOUGH_POSITIVES, balanced)
        if count >= wanted:
            continue
        more = f"about {wanted - count} more"
        if count < balanced:
            message = f"{concept} has {count} pictures and {most} {counts[most]}: add {more} of {concept}"
        else:
            message = f"{concept} has only {count} pictures: {more} make the model dependable"
        found.append(Suggestion("FEW_IMAGES", message, 1 - count / wanted, concept))
    return sorted(found, key=lambda one: (-one.score, one.concept))[:_MOST_FEW]
