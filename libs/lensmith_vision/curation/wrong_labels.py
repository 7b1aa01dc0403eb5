"""Which labels are likely wrong: confident learning on opinions that have not seen the label.

One opinion is the model's, out of fold; the other is that of the most alike pictures, near copies aside. Where concepts
exclude each other, both are asked once more without the labels that are most in doubt, which had a say the first time;
the second time, models of both tiers are asked: they err on different pictures. A last opinion is that of a fit which
believes no label more than the others bear it out (`likely_labels.py`). All count, and what comes of them is a chance
that the label is wrong (`noise.py`), the higher the more the label harms what is said of the others (`harm.py`).

Where concepts overlap, a label is doubted where the mean of the opinions holds the other side of it to be four times as
likely, and about as likely as it is for pictures that do carry that side, so that concepts which the model knows badly
raise no alarm (Northcutt et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from lensmith_vision.classes import Tier
from lensmith_vision.curation.harm import more_where_harmful
from lensmith_vision.curation.likely_labels import likely_looks
from lensmith_vision.curation.neighbours import Neighbours
from lensmith_vision.curation.noise import SHARPER_POOL, chances_of_wrong
from lensmith_vision.curation.second_look import scores_without
from lensmith_vision.curation.suggestion import Bools, Curated, Floats, Ints, Suggestion
from lensmith_vision.heads import HeadType

__all__ = [
    "LEAST_CLEAR_SCORE",
    "LEAST_SCORE",
    "LEAST_SIDE_SCORE",
    "REMOVED_SCORES",
    "REPLACED_SCORES",
    "Doubt",
    "doubted_labels",
    "wrong_labels",
    "wrong_numbers",
]

LEAST_SCORE = 0.3
"""Labels are doubted that are wrong with this chance."""

LEAST_CLEAR_SCORE = 0.1
"""Or with this one where another concept is four times as likely: how many are wrong of a small set is a guess."""

LEAST_SIDE_SCORE = 0.8
"""Where concepts overlap: the other side is four times as likely."""

REMOVED_SCORES: Mapping[HeadType, float] = MappingProxyType({"multi_class": 0.5, "multi_label": 0.9, "regression": 0.9})
"""From here on a label is taken away without a look: what is likelier wrong than right teaches less than nothing."""

REPLACED_SCORES: Mapping[HeadType, float] = MappingProxyType(dict.fromkeys(REMOVED_SCORES, 0.9))
"""From here on the suggested label is put in its place. Below, that is wrong too often, of the very pictures that are
hard to tell and that a model should learn from."""

_FOUR_TIMES, _NINE_TIMES = 0.8, 0.9

_TIERS: tuple[Tier, ...] = ("linear", "kernel")
_SHARE, _LEAST = 0.6, np.float32(1e-9)
"""Power of each of two opinions: they agree more often than if they knew nothing of each other, which would make it 1,
and less often than if they were the same, 0.5. And the chance that is left to what an opinion rules out."""
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
        scores: [m] how likely the given answer is wrong, 0.1 to 1 (multi_class), or how likely the other one is.
    """

    rows: Ints
    columns: Ints
    scores: Floats

    def of(self, rows: int, least: float = 0.0) -> Bools:
        """Mark the pictures that are doubted with at least this score in a mask [n]."""
        mask = np.zeros(rows, dtype=np.bool_)
        mask[self.rows[self.scores >= least]] = True
        return mask


def doubted_labels(data: Curated, near: Neighbours, seed: int = 0) -> Doubt:
    """Find the labels of a classification that are likely wrong.

    Args:
        data: What the model was trained on, with its scores out of fold.
        near: The most alike pictures of each.
        seed: Of the folds of what is asked a second time.
    """
    chances = _chances(data, near)
    if data.type == "multi_class":
        classes = data.truth.argmax(axis=1)
        again = _chances_again(data, near, chances, seed)
        for opinion in again:
            chances += opinion
        chances /= np.float32(1 + len(again))
        clear = _outweighed(chances, classes, _FOUR_TIMES)
        looks = likely_looks(data, seed)
        if looks is None:
            wrong = chances_of_wrong(chances, classes)
        else:
            chances = _pooled(chances, looks.chances)
            wrong = more_where_harmful(chances_of_wrong(chances, classes, SHARPER_POOL), looks.harm)
        clear &= wrong >= LEAST_CLEAR_SCORE
        rows = np.flatnonzero((wrong >= LEAST_SCORE) | clear)
        columns, scores = _best_others(chances, classes)[rows], wrong[rows]
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


def _chances_again(data: Curated, near: Neighbours, chances: Floats, seed: int) -> list[Floats]:
    """Ask both once more, without the labels that are most in doubt: once for each tier that can be asked."""
    doubted = _outweighed(chances, data.truth.argmax(axis=1), _NINE_TIMES)
    others = Neighbours(near.rows, near.weights * ~doubted[near.rows])
    looks = [scores_without(data, doubted, tier, seed) for tier in _TIERS]
    return [_chances(replace(data, scores=scored), others) for scored in looks if scored is not None]


def _chances(data: Curated, near: Neighbours) -> Floats:
    """Mean [n, c] of the two opinions; where a picture was never held out, the second alone."""
    truth = data.truth
    known = np.isfinite(truth)
    everywhere = bool(known.all())
    # Of many pictures and concepts, a copy is a hundred megabytes.
    labels = truth if everywhere else np.where(known, truth, 0).astype(np.float32)
    usual = labels.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    chances, held_out = np.empty_like(data.scores), data.held_out
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
        own, both = (votes + prior * usual) / (asked + prior), held_out[block]
        own[both] = (own[both] + data.scores[block][both]) / 2
        chances[block] = own
    return chances


def _pooled(chances: Floats, looks: Floats) -> Floats:
    """Chances [n, c] by both: a concept is likely where neither rules it out (a logarithmic pool, Genest 1986)."""
    product = np.maximum(chances, _LEAST) * np.maximum(looks, _LEAST)
    product **= np.float32(_SHARE)
    product /= product.sum(axis=1, keepdims=True)
    return product


def _best_others(chances: Floats, classes: Ints) -> Ints:
    """The likeliest concepts [n] but for the given ones."""
    rest = chances.copy()
    rest[np.arange(len(classes)), classes] = -1
    best: Ints = rest.argmax(axis=1)
    return best


def _outweighed(chances: Floats, classes: Ints, least: float) -> Bools:
    """Mark the pictures [n] of which another concept is many times as likely, and about as likely as it usually is."""
    every = np.arange(len(classes))
    own = chances[every, classes]
    counts = np.bincount(classes, minlength=chances.shape[1])
    usual = np.bincount(classes, weights=own, minlength=chances.shape[1]) / np.maximum(counts, 1)
    best = _best_others(chances, classes)
    other = chances[every, best]
    sure = other / np.maximum(other + own, np.float32(1e-12)) >= least
    return np.asarray(sure & (other >= _OF_USUAL * usual[best]), dtype=np.bool_)


def _doubted_sides(chances: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> tuple[Ints, Floats]:
    """Doubts about one concept of a multi_label set: pictures that are on the wrong side of it."""
    positive, negative = labels == 1, labels == 0
    if not positive.any() or not negative.any():
        return np.empty(0, np.int64), np.empty(0, np.float32)
    usual = float(chances[positive].mean()), float((1 - chances[negative]).mean())
    doubtful = np.where(positive, 1 - chances, chances)
    bar = np.where(positive, usual[1], usual[0]) * _OF_USUAL
    rows = np.flatnonzero((positive | negative) & (doubtful >= np.maximum(bar, LEAST_SIDE_SCORE)))
    return rows, doubtful[rows].astype(np.float32)
