"""What pictures look like to a fit that believes no label more than the others bear it out.

A fit to labels of which some are wrong learns the wrong ones too, and then says of the pictures most like theirs what
it should not. So labels and fit are found in turns: what a picture likely shows follows from the given label, which is
wrong as often as labels of this set are, and from what the fit to all others' likely labels holds of it; the next fit
is to that (expectation maximisation; Lawrence and Schölkopf 2001, "Estimating a kernel Fisher discriminant in the
presence of label noise"). The fit is a ridge on Gaussian similarities (`kernel.py`), of which all that is held out
follows exactly from one inverse, so a turn costs one product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from lensmith_vision.curation.harm import harm_of_labels
from lensmith_vision.curation.suggestion import Curated, Floats, Ints
from lensmith_vision.halves import Features
from lensmith_vision.kernel import CONSTANT, held_out_similarity, squared_distances, unit_of_width
from lensmith_vision.positive import inverse_of
from lensmith_vision.transforms import transformed

__all__ = ["LikelyLooks", "likely_looks"]

Doubles = npt.NDArray[np.float64]

_MOST_ROWS = 10_000
"""Larger sets are not asked: there are enough right labels in them to outvote the wrong ones."""
_AT_ONCE = 4096
"""Pictures that are compared with each other; an inverse of so many takes some seconds."""
_WIDTH, _PENALTY = 0.35, 0.05
"""Of the similarities, in units of the median squared distance, and of the ridge."""
_MEDIAN_ROWS = 256
_TURNS, _SCALED_TURNS = 6, 4
_STEP = 0.5
"""How far likely labels move in a turn; all the way, a few wrong ones convince each other."""
_USUAL_RATE = 0.1
_RATES = (0.005, 0.4)
_SCALES = (0.0, 5.0)
"""Logarithms between which the factor is sought that makes logits of held-out values."""


@dataclass(frozen=True, eq=False)
class LikelyLooks:
    """What such a fit says.

    Attributes:
        chances: [n, c] how likely each concept is by what a picture looks like without it and its near copies.
        harm: [n] how much each label harms what is said of the others (`harm.py`).
    """

    chances: Floats
    harm: Floats


def likely_looks(data: Curated, seed: int = 0) -> LikelyLooks | None:
    """Say what pictures look like to a fit that believes no label more than the others bear it out.

    Args:
        data: Pictures that each show one concept.
        seed: Of the parts in which larger sets are looked at.

    Returns:
        None for sets that are too large.
    """
    rows = len(data.ids)
    if rows > _MOST_ROWS:
        return None
    classes, width = data.truth.argmax(axis=1), len(data.concepts)
    looks = LikelyLooks(np.empty((rows, width), np.float32), np.empty(rows, np.float32))
    order = np.random.default_rng(seed).permutation(rows)
    for part in np.array_split(order, max(1, -(-rows // _AT_ONCE))):
        some = np.sort(part)
        looks.chances[some], looks.harm[some] = _looks(data.features[some], classes[some], width, data.groups[some])
    return looks


def _looks(features: Features, classes: Ints, width: int, groups: Ints) -> tuple[Doubles, Doubles]:
    inverse = _inverse(features)
    given = np.eye(width)[classes]
    likely, rate, scale = given, _USUAL_RATE, 1.0
    values, looks = given, given
    for turn in range(_TURNS):
        values = held_out_similarity(inverse, likely, groups)
        if turn < _SCALED_TURNS:
            scale = _scale(values, classes, rate)
        looks = np.exp(_log_chances(values * scale))
        believed = looks * np.where(given > 0, 1 - rate, rate / max(width - 1, 1))
        believed /= believed.sum(axis=1, keepdims=True)
        wrong = 1 - float(believed[given > 0].mean())
        rate = (rate + min(max(wrong, _RATES[0]), _RATES[1])) / 2
        likely = likely + _STEP * (believed - likely)
    return looks, harm_of_labels(inverse, values, looks, classes, groups, scale, rate)


def _inverse(features: Features) -> Doubles:
    roots = transformed(features, "root")
    roots = roots - roots.mean(axis=0)
    distances = squared_distances((roots @ roots.T).astype(np.float64))
    unit = unit_of_width(distances, float(np.median(distances[:: max(1, len(distances) // _MEDIAN_ROWS)])))
    # In place: of as many pictures as are looked at together, each matrix is 134 MB.
    distances /= -_WIDTH * unit
    np.exp(distances, out=distances)
    distances += CONSTANT
    return inverse_of(distances, _PENALTY)


def _scale(values: Doubles, classes: Ints, rate: float) -> float:
    """The factor under which the given labels are likeliest, of which some are wrong and then any of the others."""
    others = max(values.shape[1] - 1, 1)
    # The largest is 0 whatever the factor is, so that nothing overflows.
    below = values - values.max(axis=1, keepdims=True)
    given = below[np.arange(len(classes)), classes]

    def loss(logarithm: float) -> float:
        factor = np.exp(logarithm)
        own = np.exp(given * factor) / np.exp(below * factor).sum(axis=1)
        return -float(np.log((1 - rate) * own + rate / others * (1 - own)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=_SCALES, method="bounded", options={"maxiter": 25}).x))


def _log_chances(logits: Doubles) -> Doubles:
    chances: Doubles = logits - logsumexp(logits, axis=1, keepdims=True)
    return chances
