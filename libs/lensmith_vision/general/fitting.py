"""Fitting a calibration: what a network's numbers are worth, learnt on pictures that it was not trained on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.optimize

from lensmith_vision.errors import PackError
from lensmith_vision.general.calibration import Calibration
from lensmith_vision.general.concepts import hierarchy
from lensmith_vision.general.evaluation import USUAL, true_concepts

__all__ = ["calibrate"]

_STEPS = 100
_LEAST_THRESHOLD = 0.02
_NEVER = 1.0


def calibrate(
    logits: npt.NDArray[np.floating],
    teacher_logits: npt.NDArray[np.floating],
    *,
    target_precision: float = 0.85,
    prior_pictures: float = 20.0,
) -> Calibration:
    """Fit a calibration on pictures that the network was not trained on.

    The temperature makes the network's probabilities agree best with the teacher's (least cross-entropy). The threshold
    of a concept is the lowest from which on at least `target_precision` of what is said is true. Few pictures show any
    one concept, so its own counts are joined with those of all concepts of its depth, which weigh as much as
    `prior_pictures` pictures, and these likewise with those of all concepts: a concept that no picture shows gets the
    threshold of its depth.

    Args:
        logits: [n, 1000], of the network, leaves only.
        teacher_logits: [n, 1000], of the teacher, for the same pictures.
        target_precision: Share that shall be right, 0 to 1.
        prior_pictures: Weight of other concepts.

    Raises:
        PackError: The logits are those of another taxonomy, differ in number, or are none.
    """
    if len(logits) != len(teacher_logits) or not len(logits):
        raise PackError("GENERAL_LOGITS_INVALID", f"{len(logits)} and {len(teacher_logits)} pictures must be as many")
    temperature = _fit_temperature(logits, teacher_logits)
    scores = hierarchy().sums.probabilities(logits, temperature)
    thresholds = _fit_thresholds(scores, true_concepts(teacher_logits), target_precision, prior_pictures)
    return Calibration(
        temperature=temperature,
        default_threshold=float(np.median(thresholds)),
        thresholds={one.id: float(value) for one, value in zip(hierarchy().concepts, thresholds, strict=True)},
    )


def _fit_temperature(logits: npt.NDArray[np.floating], teacher_logits: npt.NDArray[np.floating]) -> float:
    values = logits.astype(np.float64)
    truth = _softmax(teacher_logits.astype(np.float64))
    agreement = float((truth * values).sum(axis=1).mean())
    highest = values.max(axis=1, keepdims=True)

    def cross_entropy(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        partition = np.log(np.exp((values - highest) * scale).sum(axis=1)) + highest[:, 0] * scale
        return float(partition.mean()) - agreement * scale

    fitted = scipy.optimize.minimize_scalar(
        cross_entropy, bounds=(math.log(0.05), math.log(20.0)), method="bounded", options={"xatol": 1e-4}
    )
    return round(math.exp(float(fitted.x)), 4)


def _fit_thresholds(
    scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_], target: float, prior: float
) -> npt.NDArray[np.float64]:
    """[c], for scores and truth [n, c]."""
    concepts = hierarchy()
    given, right = _counts(scores, truth)
    # What is true of nearly everything says nothing about how far special concepts can be trusted.
    telling = truth.mean(axis=0) <= USUAL
    overall = _share(right[telling].sum(axis=0), given[telling].sum(axis=0), np.zeros(_STEPS + 1), 1.0)
    of_depth = np.empty_like(given)
    for depth in np.unique(concepts.depths):
        alike = concepts.depths == depth
        counted = alike & telling
        of_depth[alike] = _share(right[counted].sum(axis=0), given[counted].sum(axis=0), overall, prior)
    enough = _share(right, given, of_depth, prior) >= target
    enough[:, : round(_LEAST_THRESHOLD * _STEPS)] = False
    lowest = np.where(enough.any(axis=1), enough.argmax(axis=1) / _STEPS, _NEVER)
    return np.asarray(lowest, np.float64)


def _counts(
    scores: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """[c, steps + 1] each: how often a concept reached a threshold, and how often it was true then."""
    count = scores.shape[1]
    steps = np.minimum(np.floor(scores.astype(np.float64) * _STEPS), _STEPS).astype(np.intp)
    cells = (steps + np.arange(count) * (_STEPS + 1)).ravel()
    shape = (count, _STEPS + 1)

    def reached(weights: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float64]:
        chosen = cells if weights is None else cells[weights.ravel()]
        histogram = np.bincount(chosen, minlength=count * (_STEPS + 1)).reshape(shape)
        return np.asarray(histogram[:, ::-1].cumsum(axis=1)[:, ::-1], np.float64)

    return reached(None), reached(truth)


def _share(
    right: npt.NDArray[np.float64], given: npt.NDArray[np.float64], prior: npt.NDArray[np.float64], weight: float
) -> npt.NDArray[np.float64]:
    return np.asarray((right + weight * prior) / (given + weight), np.float64)


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)
