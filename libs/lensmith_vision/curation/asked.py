"""Which pictures without a label would help against a fault of whole concepts: too few pictures, or confused ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lensmith_vision.curation.suggestion import Asked, Floats, Ints, Pictures, Suggestion
from lensmith_vision.halves import Features
from lensmith_vision.heads import Head

__all__ = ["with_asked"]

_MOST = 20
_OF_BEST = 0.5
"""A picture looks like a concept that is at least half as likely as what the model takes it for."""
_BAR = 0.5
"""From here on a multi_label head takes a picture to show a concept."""


def with_asked(found: Sequence[Suggestion], head: Head, candidates: Pictures) -> list[Suggestion]:
    """Name the pictures that look like a concept which has few, or like both of two confused ones, the likeliest first.

    Args:
        found: Suggestions of any kind; others than those two stay as they are, and so does what lacks negatives.
        head: Of the version.
        candidates: Pictures without a label.
    """
    if len(candidates.ids) == 0 or not any(one.kind in ("FEW_IMAGES", "CONFUSED_CONCEPTS") for one in found):
        return list(found)
    # Equal bytes are asked about once.
    once = np.unique(np.asarray(candidates.group_ids), return_index=True)[1]
    features = candidates.features[once]
    scores = head.scores(features)
    result = []
    for one in found:
        if one.few_negatives:
            result.append(one)
        elif one.kind == "FEW_IMAGES":
            chosen = _unfamiliar(head, features) if head.type == "regression" else _alike(head, scores, one.concept)
            asked = _asked(head, scores, chosen, candidates, once, (one.concept,))
            result.append(_with(one, asked, "may help" if head.type == "regression" else "look like it"))
        elif one.kind == "CONFUSED_CONCEPTS":
            chosen = _alike(head, scores, one.concept, one.other)
            asked = _asked(head, scores, chosen, candidates, once, (one.concept, one.other))
            result.append(_with(one, asked, "look like both"))
        else:
            result.append(one)
    return result


def _with(one: Suggestion, asked: tuple[Asked, ...], why: str) -> Suggestion:
    if not asked:
        return one
    count = f"{len(asked)} pictures" if len(asked) > 1 else "1 picture"
    return replace(one, asked=asked, message=f"{one.message}; {count} without a label {why}")


def _alike(head: Head, scores: Floats, *concepts: str) -> Ints:
    """Rows that look like each of some concepts, those that look most like all of them first."""
    columns = [head.concepts.index(concept) for concept in concepts]
    least = scores[:, columns].min(axis=1)
    bar = scores.max(axis=1) if head.type == "multi_class" else np.full(len(scores), _BAR, np.float32)
    rows = np.flatnonzero(least >= _OF_BEST * bar)
    chosen: Ints = rows[np.argsort(-least[rows], kind="stable")][:_MOST]
    return chosen


def _unfamiliar(head: Head, features: Features) -> Ints:
    """Rows that are least like what is measured already."""
    unlike = head.unfamiliar(features)
    order: Ints = np.arange(len(features)) if unlike is None else np.argsort(-unlike, kind="stable")
    return order[:_MOST]


def _asked(
    head: Head, scores: Floats, rows: Ints, candidates: Pictures, once: Ints, concepts: tuple[str, ...]
) -> tuple[Asked, ...]:
    """Say what the model takes the chosen rows for, among some concepts."""
    asked = []
    for row in rows.tolist():
        picture = candidates.ids[int(once[row])]
        if head.type == "regression":
            asked.append(Asked(picture, concepts[0], float(scores[row, 0]), 1.0))
            continue
        said = [float(scores[row, head.concepts.index(concept)]) for concept in concepts]
        best = int(np.argmax(said))
        asked.append(Asked(picture, concepts[best], True, said[best]))
    return tuple(asked)
