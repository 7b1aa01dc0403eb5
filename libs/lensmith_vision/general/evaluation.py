"""How good General is on pictures that nobody labelled: held against what a stronger network sees in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import PackError
from lensmith_vision.general.concepts import LEAVES, Hierarchy, hierarchy

__all__ = ["DEEP", "TEACHER_TOP", "USUAL", "DepthPrecision", "GeneralEvaluation", "evaluate", "true_concepts"]

TEACHER_TOP = 5
"""How many of the teacher's classes count as true: one picture often shows several things."""

USUAL = 0.2
"""Concepts true of a larger share of the pictures are left out: whoever says "entity" of everything wins nothing."""

DEEP = 8
"""Concepts of this depth or more say something special."""


@dataclass(frozen=True)
class DepthPrecision:
    """Concepts of one depth.

    Attributes:
        given: How often one was said.
        right: How often it was true.
    """

    given: int
    right: int

    @property
    def precision(self) -> float:
        """Share that was right; 0 where none was given."""
        return self.right / self.given if self.given else 0.0


@dataclass(frozen=True)
class GeneralEvaluation:
    """What General says above its thresholds, without the usual concepts.

    Attributes:
        pictures: Number of pictures.
        left_out: Number of usual concepts that count neither way.
        precision: Share of all given concepts that are true.
        recall: Share of all true concepts that are given.
        concepts_per_picture: Given concepts, on average.
        deep_per_picture: Those of a depth of `DEEP` or more.
        pictures_with_deep: Share of the pictures with at least one of these.
        by_depth: Precision by depth.
        top1_agreement: Share of the pictures where both networks' best class is the same.
        top5_agreement: Share of the pictures where the network's best class is one of the teacher's best five.
    """

    pictures: int
    left_out: int
    precision: float
    recall: float
    concepts_per_picture: float
    deep_per_picture: float
    pictures_with_deep: float
    by_depth: Mapping[int, DepthPrecision]
    top1_agreement: float
    top5_agreement: float


def true_concepts(teacher_logits: npt.NDArray[np.floating], *, top: int = TEACHER_TOP) -> npt.NDArray[np.bool_]:
    """Tell which concepts are true: the closure of the classes that the teacher finds most probable.

    Args:
        teacher_logits: [n, 1000], of the leaves only.
        top: How many classes.

    Returns:
        [n, c].

    Raises:
        PackError: The logits are those of another taxonomy.
    """
    if teacher_logits.ndim != 2 or teacher_logits.shape[1] != LEAVES:
        raise PackError("GENERAL_LOGITS_INVALID", f"logits must be [n, {LEAVES}], not {list(teacher_logits.shape)}")
    seen = np.zeros(teacher_logits.shape, np.intp)
    np.put_along_axis(seen, _best(teacher_logits, top), 1, axis=1)
    sums = hierarchy().sums
    return np.asarray(np.add.reduceat(seen[:, sums.leaves], sums.starts, axis=1) > 0)


def evaluate(
    logits: npt.NDArray[np.floating],
    teacher_logits: npt.NDArray[np.floating],
    *,
    temperature: float,
    thresholds: npt.NDArray[np.floating],
) -> GeneralEvaluation:
    """Hold General against a teacher on pictures that neither training nor calibration saw.

    Args:
        logits: [n, 1000], of the network that General runs on.
        teacher_logits: [n, 1000], of the teacher, for the same pictures.
        temperature: Of the network's calibration.
        thresholds: [c], of all concepts in the order of the hierarchy.

    Raises:
        PackError: The logits are those of another taxonomy.
    """
    concepts: Hierarchy = hierarchy()
    truth = true_concepts(teacher_logits)
    counted = truth.mean(axis=0) <= USUAL
    given = (concepts.sums.probabilities(logits, temperature) >= thresholds) & counted
    right = given & truth
    deep = given[:, concepts.depths >= DEEP].sum(axis=1)
    best = _best(logits, 1)
    teacher_best = _best(teacher_logits, TEACHER_TOP)
    by_depth = {
        int(depth): DepthPrecision(
            int(given[:, concepts.depths == depth].sum()), int(right[:, concepts.depths == depth].sum())
        )
        for depth in np.unique(concepts.depths[counted])
    }
    return GeneralEvaluation(
        pictures=len(logits),
        left_out=int((~counted).sum()),
        precision=float(right.sum() / max(1, given.sum())),
        recall=float(right.sum() / max(1, (truth & counted).sum())),
        concepts_per_picture=float(given.sum(axis=1).mean()),
        deep_per_picture=float(deep.mean()),
        pictures_with_deep=float((deep > 0).mean()),
        by_depth={depth: count for depth, count in by_depth.items() if count.given},
        top1_agreement=float((best[:, 0] == teacher_best[:, 0]).mean()),
        top5_agreement=float((best == teacher_best).any(axis=1).mean()),
    )


def _best(logits: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.intp]:
    """[n, count], the most probable classes, the best first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :count]
