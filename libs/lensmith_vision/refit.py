"""Fitting again after a few pictures changed: ten rows added to sums and one small solve, instead of a new pass.

The head is the one that a fit on all pictures gives with the choices of the last whole fit. Pictures are scored by the
fits of then without their fold, which have seen neither them nor their near copies; where few scores are few megabytes,
they are kept. What this leaves as it was, the choices and the fits that hold out, grows old, so a whole
fit follows after so many changes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.discriminant import Discriminant, log_prior, solve, within_variance
from lensmith_vision.familiarity import Familiarity
from lensmith_vision.folds import NEAR_DUPLICATE_COSINE, blocks_of_folds
from lensmith_vision.halves import Features, floats
from lensmith_vision.statistics import Moments
from lensmith_vision.threads import in_threads
from lensmith_vision.transforms import Transform, gathered, transformed

__all__ = [
    "ClassMemory",
    "ClassSums",
    "Pictures",
    "Refitted",
    "added",
    "is_large",
    "kept_scores",
    "may_stand",
    "refit_classes",
    "softmax",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MOST_CHANGED = 0.05
"""Part of the pictures that may have changed since the last whole fit."""
_LARGE = 4_000_000
_MOST_UNEVALUATED = 0.002
"""Part of the pictures that an evaluation may lack."""
_SHORTEST = 1e-6
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class ClassSums:
    """What a linear fit of classes that exclude each other worked with.

    Attributes:
        transform: Of the features.
        origin: [d], where transformed features are measured from.
        total: Moments of all pictures about it.
        without: The fit without each fold.
        shrinkage: In units of the within-class variance.
        factor: Of calibration.
    """

    transform: Transform
    origin: Floats
    total: Moments
    without: Sequence[Discriminant]
    shrinkage: float
    factor: float

    def final(self) -> tuple[Floats, Floats]:
        """Fit on all pictures: weights [d, c] and bias [c] on transformed features, calibrated."""
        fitted = solve(self.total, self.shrinkage * within_variance(self.total))
        weights = np.float32(self.factor) * fitted.weights
        bias = self.factor * fitted.bias + log_prior(self.total.counts[0]) - self.origin @ weights
        return weights, bias.astype(np.float32)

    def held_out(self, features: Features, folds: Ints) -> Floats:
        """Scores [n, c] of features [n, d], each row by the fit without its fold."""
        scores = np.empty((len(features), len(self.total.counts[0])), np.float32)
        prior = log_prior(self.total.counts[0]).astype(np.float32)

        def score(rows: Ints) -> None:
            fitted = self.without[int(folds[rows[0]])]
            logits = gathered(features, rows, self.transform, self.origin) @ fitted.weights
            logits += fitted.bias.astype(np.float32)
            logits *= np.float32(self.factor)
            logits += prior
            fitted.forget_unseen(logits)
            scores[rows] = softmax(logits)

        in_threads(score, blocks_of_folds(folds))
        return scores


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a fit, in the order in which they came.

    Attributes:
        ids: Of each.
        group_ids: Equal for pictures of equal bytes.
        classes: [n].
        groups: [n], near duplicates share a number.
        folds: [n]; a group is never in two.
        scores: [n, c], out of fold; None: so many that they are made anew where they are needed.
    """

    ids: Sequence[str]
    group_ids: Sequence[str]
    classes: Ints
    groups: Ints
    folds: Ints
    scores: Floats | None


@dataclass(frozen=True, eq=False)
class ClassMemory:
    """What a fit leaves behind for the next one; one fit at most may go on from it.

    Attributes:
        sums: It worked with.
        pictures: It was about.
        familiarity: Of its training pictures.
        thresholds: [c], of its concepts.
        changed: Pictures that changed since the last whole fit.
        unevaluated: Pictures that are not in its evaluation yet.
    """

    sums: ClassSums
    pictures: Pictures
    familiarity: Familiarity
    thresholds: Floats
    changed: int = 0
    unevaluated: int = 0

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        total = self.sums.total
        fits = sum(fitted.weights.nbytes for fitted in self.sums.without)
        scores = 0 if self.pictures.scores is None else self.pictures.scores.nbytes
        return int(total.gram.nbytes + total.sums.nbytes + fits + scores)


@dataclass(frozen=True, eq=False)
class Refitted:
    """A head's numbers, and what they leave behind.

    Attributes:
        weights: [d, c].
        bias: [c].
        places: [n], where each picture of the fit stands among those of the memory.
        memory: For the next fit, whose evaluation is still the one before.
        carries: Whether that evaluation may stand for this head: so few pictures are new, and of so many, that its
            figures cannot differ, while computing them again would take most of the time.
    """

    weights: Floats
    bias: Floats
    places: Ints
    memory: ClassMemory
    carries: bool


def refit_classes(
    memory: ClassMemory, ids: Sequence[str], group_ids: Sequence[str], features: Features, classes: Ints
) -> Refitted | None:
    """Fit to pictures that are nearly those of an earlier fit; None: they differ too much, a whole fit is due.

    Args:
        memory: Of the earlier fit.
        ids: Of the pictures.
        group_ids: Equal for pictures of equal bytes.
        features: [n, d].
        classes: [n], with the meaning that they had.
    """
    before = memory.pictures
    known = {picture: row for row, picture in enumerate(before.ids)}
    places = np.fromiter((known.get(picture, -1) for picture in ids), np.int64, len(ids))
    stayed = places >= 0
    # The features of what is gone would be needed to take it out of the sums.
    if int(stayed.sum()) < len(before.ids) or not _same_bytes(before, group_ids, places):
        return None
    new = np.flatnonzero(~stayed)
    relabelled = np.flatnonzero(stayed & (before.classes[places] != classes))
    changed = memory.changed + len(new) + len(relabelled)
    if changed > _MOST_CHANGED * len(ids):
        return None
    groups, folds = before.groups[places], before.folds[places]
    if not _place(new, group_ids, features, classes, groups, folds, len(memory.sums.without)):
        return None
    sums = replace(memory.sums, total=added(memory.sums, features, classes, before.classes[places], new, relabelled))
    places[new] = len(before.ids) + np.arange(len(new))
    own = before.classes.copy()
    own[places[relabelled]] = classes[relabelled]
    pictures = Pictures(
        [*before.ids, *(ids[row] for row in new.tolist())],
        [*before.group_ids, *(group_ids[row] for row in new.tolist())],
        np.append(own, classes[new]),
        np.append(before.groups, groups[new]),
        np.append(before.folds, folds[new]),
        _with_more(before.scores, memory.sums, features[new], folds[new]),
    )
    unevaluated = memory.unevaluated + len(new)
    large = is_large(len(ids), len(memory.thresholds))
    after = replace(memory, sums=sums, pictures=pictures, changed=changed, unevaluated=unevaluated)
    carries = large and not len(relabelled) and may_stand(len(ids), unevaluated, changed)
    return Refitted(*sums.final(), places, after, carries)


def is_large(pictures: int, concepts: int) -> bool:
    """Whether the evaluation takes longer than all else."""
    return pictures * concepts >= _LARGE


def may_stand(pictures: int, unevaluated: int, changed: int) -> bool:
    """Whether the evaluation of nearly as many pictures, and the choices of the last whole fit, may stand."""
    return unevaluated <= _MOST_UNEVALUATED * pictures and changed <= _MOST_CHANGED * pictures


def kept_scores(scores: Floats) -> Floats | None:
    """Of so many that they take longer to evaluate than to make, none: a hundred megabytes would wait for a retrain."""
    return None if is_large(*scores.shape) else scores


def _with_more(scores: Floats | None, sums: ClassSums, features: Features, folds: Ints) -> Floats | None:
    if scores is None or not len(features):
        return scores
    return np.concatenate([scores, sums.held_out(features, folds)])


def _same_bytes(before: Pictures, group_ids: Sequence[str], places: Ints) -> bool:
    return all(
        place < 0 or group == before.group_ids[place] for group, place in zip(group_ids, places.tolist(), strict=True)
    )


def added(
    sums: ClassSums, features: Features, classes: Ints, classes_before: Ints, new: Ints, relabelled: Ints
) -> Moments:
    """The moments with new pictures in them, and relabelled ones where they belong now."""
    width = len(sums.total.counts[0])
    # Nothing of it is shared with the earlier fit, to which another training may still return.
    total = sums.total + Moments.zero(len(sums.origin), 1, width)
    for rows, labels, sign in ((relabelled, classes_before, -1), (relabelled, classes, 1), (new, classes, 1)):
        if len(rows):
            inputs = transformed(features[rows], sums.transform) - sums.origin
            total.absorb(inputs, np.eye(width, dtype=np.float32)[labels[rows]], 1, sign, threading.Lock())
    return total


def _place(
    new: Ints, group_ids: Sequence[str], features: Features, classes: Ints, groups: Ints, folds: Ints, count: int
) -> bool:
    """Give new rows their group and fold, with their copies and near copies; False: those are in several folds."""
    if not len(new):
        return True
    wanted = {group_ids[row] for row in new.tolist()}
    copies: dict[str, list[int]] = {group: [] for group in wanted}
    for row, group in enumerate(group_ids):
        if group in wanted:
            copies[group].append(row)
    likeness = _likeness(features, new)
    placed = np.ones(len(group_ids), np.bool_)
    placed[new] = False
    newest = int(groups[placed].max()) + 1
    for position, row in enumerate(new.tolist()):
        alike = placed & (likeness[position] >= NEAR_DUPLICATE_COSINE)
        own = np.asarray(copies[group_ids[row]])
        alike[own] = placed[own]
        found = np.unique(folds[alike])
        if len(found) > 1:
            return False
        if len(found):
            groups[row], folds[row] = groups[alike].min(), found[0]
        else:
            same = placed & (classes == classes[row])
            groups[row], folds[row] = newest, np.bincount(folds[same], minlength=count).argmin()
            newest += 1
        placed[row] = True
    return True


def _likeness(features: Features, rows: Ints) -> Floats:
    """Cosines [m, n] of the centred features of some rows and of all, block by block."""
    starts = range(0, len(features), _BLOCK)
    totals = [floats(features[start : start + _BLOCK]).sum(axis=0, dtype=np.float64) for start in starts]
    centre = (np.sum(totals, axis=0) / len(features)).astype(np.float32)
    some = floats(features[rows]) - centre
    some /= np.maximum(np.linalg.norm(some, axis=1, keepdims=True), _SHORTEST)
    found = np.empty((len(rows), len(features)), np.float32)
    for start in starts:
        block = floats(features[start : start + _BLOCK]) - centre
        lengths = np.maximum(np.sqrt(np.einsum("nd,nd->n", block, block)), _SHORTEST)
        found[:, start : start + _BLOCK] = (some @ block.T) / lengths
    return found


def softmax(logits: Floats) -> Floats:
    """Turn logits [n, c] into probabilities, where they stand."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits
