"""Copies and near copies of one picture that say different things, or that stand on both sides of a test."""

from __future__ import annotations

import numpy as np

from lensmith_vision.curation.suggestion import Curated, Floats, Ints, Pictures, Suggestion
from lensmith_vision.folds import groups_of

__all__ = ["conflicting_copies", "tested_copies"]

_MOST = 500
_MOST_RELATED = 8
_TESTED_SCORE = 0.5


def conflicting_copies(data: Curated) -> list[Suggestion]:
    """Find copies whose labels contradict each other; the one that fits worst is to lose its label.

    Of multi_class sets, copies contradict each other by carrying different concepts; of multi_label sets, when one
    shows a concept and the other does not.
    """
    if data.type == "regression":
        return []
    sizes = np.bincount(data.groups)
    by_group = np.argsort(data.groups, kind="stable")
    ends = np.cumsum(sizes)
    found: list[Suggestion] = []
    for group in np.flatnonzero(sizes > 1).tolist():
        members = by_group[ends[group] - sizes[group] : ends[group]]
        truth, scores = data.truth[members], data.scores[members]
        # A picture that was never held out fits neither well nor badly.
        scores = np.where(np.isfinite(scores), scores, np.float32(0.5))
        if data.type == "multi_class":
            said = truth.argmax(axis=1)
            found += _losers(data, members, said, scores[np.arange(len(members)), said], None)
            continue
        for column in np.flatnonzero((truth == 1).any(axis=0) & (truth == 0).any(axis=0)).tolist():
            known = np.isfinite(truth[:, column])
            said = truth[known, column].astype(np.int64)
            fits = np.where(said == 1, scores[known, column], 1 - scores[known, column])
            found += _losers(data, members[known], said, fits, column)
    return sorted(found, key=lambda one: (-one.score, one.picture))[:_MOST]


def _losers(data: Curated, members: Ints, said: Ints, fits: Floats, column: int | None) -> list[Suggestion]:
    """Say which members of a group contradict the one whose label fits best.

    Args:
        data: The set.
        members: [m] its pictures.
        said: [m] the class of each (multi_class), or whether it shows the concept of a column.
        fits: [m] how likely that is.
        column: The column; None for multi_class.
    """
    best = int(fits.argmax())
    found = []
    for place in np.flatnonzero(said != said[best]).tolist():
        row, kept = int(members[place]), int(members[best])
        concept = data.concepts[int(said[place]) if column is None else column]
        other = data.concepts[int(said[best])] if column is None else concept
        current = data.current(row, concept)
        if concept not in current:
            # Only implied, by another label or a closed environment: there is nothing to take away.
            continue
        copy = "a copy" if data.group_ids[row] == data.group_ids[kept] else "a near copy"
        contrary = other if column is None else f"{'not ' if said[best] == 0 else ''}{concept}"
        message = f"{copy} of this picture is labelled {contrary}"
        score = float(fits[best] / max(float(fits[best] + fits[place]), 1e-12))
        desired = {name: value for name, value in current.items() if name != concept}
        found.append(
            Suggestion("DUPLICATE", message, score, concept, other, data.ids[row], (data.ids[kept],), current, desired)
        )
    return found


def tested_copies(data: Curated, tests: Pictures) -> list[Suggestion]:
    """Find training pictures of which a copy or near copy is kept for testing: they make any model look good."""
    if len(tests.ids) == 0:
        return []
    features = np.concatenate([data.features, tests.features])
    groups = groups_of(features, [*data.group_ids, *tests.group_ids])
    tested: dict[int, list[int]] = {}
    for row, group in enumerate(groups[len(data.ids) :].tolist()):
        tested.setdefault(group, []).append(row)
    found = []
    for row, group in enumerate(groups[: len(data.ids)].tolist()):
        copies = tested.get(group)
        concepts = [concept for concept in data.concepts if concept in data.given[row]]
        if not copies or not concepts:
            continue
        same = any(tests.group_ids[copy] == data.group_ids[row] for copy in copies)
        message = f"{'a copy' if same else 'a near copy'} of this picture is kept for testing"
        related = tuple(tests.ids[copy] for copy in copies[:_MOST_RELATED])
        score = 1.0 if same else _TESTED_SCORE
        current = data.current(row, *concepts)
        found.append(Suggestion("DUPLICATE", message, score, concepts[0], "", data.ids[row], related, current, {}))
    return sorted(found, key=lambda one: (-one.score, one.picture))[:_MOST]
