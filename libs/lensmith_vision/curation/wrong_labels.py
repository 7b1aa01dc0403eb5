"""Which labels are likely wrong: confident learning on opinions that have not seen the label.

One opinion is the model's, out of fold; the other is that of the most alike pictures, near copies aside. A label is
doubted where their mean holds another concept to be several times as likely, and about as likely as it is for pictures
that do carry that concept, so that concepts which the model knows badly raise no alarm (Northcutt et al. 2021).

Where concepts exclude each other, both are asked once more without the labels that are most in doubt, which had a say
the first time: all four opinions count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.classes import Tier
from lensmith_vision.curation.neighbours import Neighbours
from lensmith_vision.curation.second_look import scores_without
from lensmith_vision.curation.suggestion import Bools, Curated, Floats, Ints, Suggestion

__all__ = ["LEAST_SCORE", "SURE_SCORE", "Doubt", "doubted_labels", "wrong_labels", "wrong_numbers"]

LEAST_SCORE = 0.8
"""A label is doubted when the other answer is four times as likely."""

SURE_SCORE = 0.9
"""Below, following suggestions without a look may cost more accuracy than it wins: what is doubted without reason are
the very pictures that a model should learn from."""

_OF_USUAL = 0.5
"""Part of a concept's usual likelihood among its own pictures that the other answer must reach."""

_MOST = 5000
_BLOCK = 4096
_PRIOR = 0.01
_FEW_TO_JUDGE = 10
_SPREADS = 4.0
_NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


@dataclass(frozen=True, eq=False)
class Doubt:
    """Doubts about the labels of a classification.

    Attributes:
        rows: [m] pictures, the surest doubts first.
        columns: [m] concepts that should change: the one to carry (multi_class), or the one to turn over.
        scores: [m] how likely the other answer is against the given one, 0.8 to 1.
    """

    rows: Ints
    columns: Ints
    scores: Floats

    def of(self, rows: int) -> Bools:
        """Mark the doubted pictures in a mask [n]."""
        mask = np.zeros(rows, dtype=np.bool_)
        mask[self.rows] = True
        return mask


def doubted_labels(data: Curated, near: Neighbours, tier: Tier = "linear", seed: int = 0) -> Doubt:
    """Find the labels of a classification that are likely wrong.

    Args:
        data: What the model was trained on, with its scores out of fold.
        near: The most alike pictures of each.
        tier: Of the head that is asked a second time.
        seed: Of its folds.
    """
    chances = _chances(data, near)
    if data.type == "multi_class":
        classes = data.truth.argmax(axis=1)
        again = _chances_again(data, near, chances, tier, seed)
        if again is not None:
            chances = ((chances + again) / 2).astype(np.float32)
        rows, columns, scores = _doubted_classes(chances, classes)
    else:
        parts = [_doubted_sides(chances[:, column], data.truth[:, column]) for column in range(len(data.concepts))]
        rows = np.concatenate([rows for rows, _ in parts])
        columns = np.repeat(np.arange(len(parts)), [len(rows) for rows, _ in parts])
        scores = np.concatenate([scores for _, scores in parts])
    order = np.lexsort((rows, -scores))[:_MOST]
    return Doubt(rows[order], columns[order], scores[order])


def wrong_labels(data: Curated, doubt: Doubt) -> list[Suggestion]:
    """Say what the doubted labels should become."""
    found = []
    classes = data.truth.argmax(axis=1) if data.type == "multi_class" else None
    for row, column, score in zip(doubt.rows.tolist(), doubt.columns.tolist(), doubt.scores.tolist(), strict=True):
        other = data.concepts[column]
        if classes is not None:
            concept = data.concepts[int(classes[row])]
            current = data.current(row)
            kept = {name: value for name, value in current.items() if value is False and name != other}
            desired: dict[str, bool | float] = {**kept, other: True}
            message = f"labelled {concept}, but looks like {other}"
        elif data.truth[row, column] == 1:
            concept, current, desired = other, data.current(row, other), {other: False}
            message = f"labelled {other}, but does not look like it"
        else:
            # What shows one of the concepts is no longer "none of these".
            concept, current, desired = other, data.current(row, other, data.negative), {other: True}
            message = f"not labelled {other}, but looks like it"
        found.append(Suggestion("WRONG_LABEL", message, score, concept, other, data.ids[row], (), current, desired))
    return found


def wrong_numbers(data: Curated) -> list[Suggestion]:
    """Find the numbers of a regression that lie far from what the model says, against how far it usually is off."""
    concept = data.concepts[0]
    data = data.rows(data.held_out)
    targets = data.targets
    if targets is None or len(targets) < _FEW_TO_JUDGE:
        return []
    residuals = np.abs(data.scores[:, 0].astype(np.float64) - targets)
    spread = _NORMAL * float(np.median(residuals))
    far = np.flatnonzero(residuals > _SPREADS * max(spread, 1e-9 * float(np.abs(targets).max())))
    order = far[np.argsort(-residuals[far], kind="stable")][:_MOST]
    found = []
    for row in order.tolist():
        told, expected = float(targets[row]), float(data.scores[row, 0])
        score = 1 - spread / float(residuals[row])
        message = f"{concept} is given as {told:g}, but looks like {expected:.4g}"
        current, desired = data.current(row, concept), {concept: expected}
        found.append(Suggestion("WRONG_LABEL", message, score, concept, concept, data.ids[row], (), current, desired))
    return found


def _chances_again(data: Curated, near: Neighbours, chances: Floats, tier: Tier, seed: int) -> Floats | None:
    """Ask both once more, without the labels that are most in doubt; None where that cannot be done."""
    rows, _, scores = _doubted_classes(chances, data.truth.argmax(axis=1))
    doubted = np.zeros(len(chances), dtype=np.bool_)
    doubted[rows[scores >= SURE_SCORE]] = True
    scored = scores_without(data, doubted, tier, seed)
    if scored is None:
        return None
    return _chances(replace(data, scores=scored), Neighbours(near.rows, near.weights * ~doubted[near.rows]))


def _chances(data: Curated, near: Neighbours) -> Floats:
    """Mean [n, c] of the two opinions; where a picture was never held out, the second alone."""
    truth = data.truth
    known = np.isfinite(truth)
    labels = np.where(known, truth, 0).astype(np.float32)
    everywhere = bool(known.all())
    usual = labels.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    chances = np.empty_like(data.scores)
    for start in range(0, len(chances), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows, weights = near.rows[block], near.weights[block]
        votes = np.zeros((len(rows), labels.shape[1]), np.float32)
        asked = np.zeros_like(votes) if not everywhere else weights.sum(axis=1)[:, None]
        for turn in range(rows.shape[1]):
            weight = weights[:, turn, None]
            votes += weight * labels[rows[:, turn]]
            if not everywhere:
                asked += weight * known[rows[:, turn]]
        # Where no neighbour has a say, the concept is as likely as anywhere.
        prior = np.float32(_PRIOR) * np.maximum(asked, np.float32(_PRIOR))
        chances[block] = (votes + prior * usual) / (asked + prior)
    held_out = data.held_out
    chances[held_out] = (chances[held_out] + data.scores[held_out]) / 2
    return chances


def _doubted_classes(chances: Floats, classes: Ints) -> tuple[Ints, Ints, Floats]:
    every = np.arange(len(classes))
    own = chances[every, classes]
    counts = np.bincount(classes, minlength=chances.shape[1])
    usual = np.bincount(classes, weights=own, minlength=chances.shape[1]) / np.maximum(counts, 1)
    rest = chances.copy()
    rest[every, classes] = -1
    best = rest.argmax(axis=1)
    other = rest[every, best]
    scores = other / np.maximum(other + own, np.float32(1e-12))
    rows = np.flatnonzero((scores >= LEAST_SCORE) & (other >= _OF_USUAL * usual[best]))
    return rows, best[rows], scores[rows].astype(np.float32)


def _doubted_sides(chances: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> tuple[Ints, Floats]:
    """Doubts about one concept of a multi_label set: pictures that are on the wrong side of it."""
    positive, negative = labels == 1, labels == 0
    if not positive.any() or not negative.any():
        return np.empty(0, np.int64), np.empty(0, np.float32)
    usual = float(chances[positive].mean()), float((1 - chances[negative]).mean())
    doubtful = np.where(positive, 1 - chances, chances)
    bar = np.where(positive, usual[1], usual[0]) * _OF_USUAL
    rows = np.flatnonzero((positive | negative) & (doubtful >= np.maximum(bar, LEAST_SCORE)))
    return rows, doubtful[rows].astype(np.float32)
