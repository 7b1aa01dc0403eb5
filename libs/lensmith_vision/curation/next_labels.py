"""Which pictures without a label to label next: those the model is unsure of, and that are unlike each other."""

from __future__ import annotations

import numpy as np

from lensmith_vision.curation.neighbours import directions
from lensmith_vision.curation.suggestion import Curated, Floats, Pictures, Suggestion
from lensmith_vision.halves import Features
from lensmith_vision.heads import Head

__all__ = ["MOST_CANDIDATES", "label_next"]

MOST_CANDIDATES = 4096
"""So many pictures without a label are looked at; the cost is bounded however many there are."""

_MOST = 50
_ROUNDING = 1e-6
_SHORTLIST = 10
_MOST_COMPARED = 4096


def label_next(data: Curated, head: Head, candidates: Pictures, most: int = _MOST) -> list[Suggestion]:
    """Choose pictures one by one: each the most unsure times its distance to labelled and chosen ones.

    Args:
        data: What is labelled.
        head: Of the version.
        candidates: What is not.
        most: How many to choose.
    """
    if len(candidates.ids) == 0:
        return []
    scores = head.scores(candidates.features)
    unsure = _unsure(head, scores, candidates.features)
    shortlist = np.argsort(-unsure, kind="stable")[: _SHORTLIST * most]
    labelled = np.random.default_rng(0).permutation(len(data.ids))[:_MOST_COMPARED]
    units = directions(np.concatenate([candidates.features[shortlist], data.features[labelled]]))
    pool, known = units[: len(shortlist)], units[len(shortlist) :]
    apart = 1 - (pool @ known.T).max(axis=1)
    found = []
    for _ in range(min(most, len(shortlist))):
        gain = unsure[shortlist] * apart
        place = int(gain.argmax())
        if gain[place] <= _ROUNDING:
            break
        found.append(_suggestion(head, candidates, int(shortlist[place]), scores, float(unsure[shortlist[place]])))
        apart = np.minimum(apart, 1 - pool @ pool[place])
        apart[place] = 0
    return found


def _unsure(head: Head, scores: Floats, features: Features) -> Floats:
    """How unsure a head is of each picture, 0 to 1."""
    if head.type == "multi_class":
        best = np.partition(scores, -2, axis=1)
        margins: Floats = 1 - (best[:, -1] - best[:, -2])
        return margins
    if head.type == "multi_label":
        doubts: Floats = (1 - np.abs(2 * scores - 1)).max(axis=1)
        return doubts
    unfamiliar = head.unfamiliar(features)
    return np.ones(len(features), np.float32) if unfamiliar is None else unfamiliar


def _suggestion(head: Head, candidates: Pictures, row: int, scores: Floats, unsure: float) -> Suggestion:
    if head.type == "regression":
        concept, value = head.concepts[0], float(scores[row, 0])
        message = f"unlike what is labelled: say how much {concept} it has, {value:.4g} as it seems now"
        return Suggestion(
            "LABEL_NEXT", message, unsure, concept, concept, candidates.ids[row], desired={concept: value}
        )
    ranked = np.argsort(-scores[row], kind="stable")
    first = head.concepts[int(ranked[0])]
    second = head.concepts[int(ranked[1])] if len(ranked) > 1 else ""
    part = f"{100 * float(scores[row, ranked[0]]):.0f} %"
    if head.type == "multi_label":
        # What to ask is the concept that it is least sure of, whichever side that is on.
        asked = int(np.abs(2 * scores[row] - 1).argmin())
        first, second, part = head.concepts[asked], "", f"{100 * float(scores[row, asked]):.0f} %"
    message = f"{first} ({part})" + (f" or {second}?" if second else "?")
    desired = {first: bool(head.type == "multi_class" or scores[row, head.concepts.index(first)] >= 0.5)}
    return Suggestion("LABEL_NEXT", message, unsure, first, second, candidates.ids[row], desired=desired)
