"""Concepts that overlap, of which too few pictures are said not to show them, and pictures that may not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensmith_vision.curation.suggestion import Asked, Curated, Floats, Ints, Pictures, Suggestion
from lensmith_vision.heads import Head
from lensmith_vision.preflight import ENOUGH_POSITIVES, MAX_IMBALANCE

__all__ = ["few_negatives"]

_MOST_CONCEPTS = 200
_MOST_ASKED = 20
_BAR = 0.5
"""From here on a multi_label head takes a picture to show a concept."""


def few_negatives(data: Curated, head: Head, unlabelled: Pictures | None = None) -> list[Suggestion]:
    """Find concepts with few pictures that do not show them, or with far more that do; the gravest first.

    Each names pictures that nobody has judged for the concept, with or without labels of others: those first that look
    most like it of what likely does not show it, for these teach most as negatives.

    Args:
        data: What is labelled; where concepts exclude each other, each is the negative of the others.
        head: Of the version.
        unlabelled: Pictures without a label.
    """
    if data.type != "multi_label":
        return []
    shown, missing = (data.truth == 1).sum(axis=0), (data.truth == 0).sum(axis=0)
    wanted = np.maximum(ENOUGH_POSITIVES, np.ceil(shown / MAX_IMBALANCE).astype(np.int64))
    # Of a concept without any picture something else is to be said.
    columns = np.flatnonzero((missing < wanted) & (shown > 0))
    short = 1 - missing[columns] / wanted[columns]
    gravest = columns[np.argsort(-short, kind="stable")][:_MOST_CONCEPTS].tolist()
    if not gravest:
        return []
    pool = _Pool(data, head, unlabelled)
    return [_suggestion(data, pool, column, int(shown[column]), int(wanted[column])) for column in gravest]


def _suggestion(data: Curated, pool: _Pool, column: int, shown: int, wanted: int) -> Suggestion:
    concept = data.concepts[column]
    missing = int((data.truth[:, column] == 0).sum())
    said = "1 picture is" if missing == 1 else f"{missing} pictures are"
    message = (
        f"only {said} labelled as not showing {concept}, and {shown} as showing it: about {wanted - missing} more "
        f"that do not show it make the model dependable"
    )
    asked = pool.asked(column)
    if asked:
        count = f"{len(asked)} pictures are" if len(asked) > 1 else "1 picture is"
        message += f"; {count} worth a look"
    return Suggestion("FEW_IMAGES", message, 1 - missing / wanted, concept, asked=asked, few_negatives=True)


class _Pool:
    """Pictures that may be asked about: those without a label, then those of the set."""

    def __init__(self, data: Curated, head: Head, unlabelled: Pictures | None) -> None:
        self._data = data
        self._ids = () if unlabelled is None else unlabelled.ids
        self._groups = () if unlabelled is None else unlabelled.group_ids
        self._scores: Floats = np.empty((0, len(data.concepts)), np.float32)
        if unlabelled is not None and len(unlabelled.ids):
            self._scores = head.scores(unlabelled.features)

    def asked(self, column: int) -> tuple[Asked, ...]:
        """Pictures that nobody has judged for a concept, those of equal bytes once."""
        # Of the set, only what was held out: the model may not have learned from a picture what it says of it.
        free = np.isnan(self._data.truth[:, column]) & np.isfinite(self._data.scores[:, column])
        rows = np.flatnonzero(free)
        first = len(self._ids)
        likely = np.concatenate([self._scores[:, column], self._data.scores[rows, column]])
        chosen: list[Asked] = []
        seen: set[str] = set()
        for place in _worth(likely).tolist():
            own = place < first
            row = place if own else int(rows[place - first])
            group = self._groups[row] if own else self._data.group_ids[row]
            if group in seen:
                continue
            seen.add(group)
            chance = float(likely[place])
            shows = chance >= _BAR
            picture = self._ids[row] if own else self._data.ids[row]
            chosen.append(Asked(picture, self._data.concepts[column], shows, chance if shows else 1 - chance))
            if len(chosen) == _MOST_ASKED:
                break
        return tuple(chosen)


def _worth(likely: npt.NDArray[np.float32]) -> Ints:
    """Order chances: what likely does not show it, the most alike first; then the rest, the least alike first."""
    shows = likely >= _BAR
    order: Ints = np.lexsort((np.where(shows, likely, -likely), shows))
    return order
