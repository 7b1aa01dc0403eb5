"""From raw out-of-fold logits to probabilities that mean what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize

__all__ = ["Calibration", "calibrate", "class_loss"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

_BOUNDS = (-8.0, 8.0)


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        factor: To multiply logits by.
        loss: Mean log loss of the true class with it.
    """

    factor: float
    loss: float


def class_loss(logits: Floats, classes: Ints) -> float:
    """Mean log loss of the true class."""
    return _loss_in_place(logits.copy(), classes)


def _loss_in_place(logits: Floats, classes: Ints) -> float:
    logits -= logits.max(axis=1, keepdims=True)
    true = logits[np.arange(len(classes)), classes]
    np.exp(logits, out=logits)
    return float((np.log(logits.sum(axis=1)) - true).mean())


def calibrate(
    logits: Floats, classes: Ints, usual: float, certainty: float, prior: Floats | float = 0.0
) -> Calibration:
    """Find the factor with the least loss, drawn towards the usual one as strongly as pictures are few.

    A handful of pictures may all be right by chance, and then no factor would be large enough.

    Args:
        logits: [n, c], out of fold.
        classes: [n].
        usual: The factor that is right for most sets.
        certainty: How many nats one unit of the factor's logarithm away from it costs.
        prior: Added to the scaled logits, such as log shares of the classes.
    """
    # In the precision of the logits.
    added = np.asarray(prior, logits.dtype)
    scaled = np.empty_like(logits)

    def cost(exponent: float) -> float:
        np.multiply(logits, logits.dtype.type(math.exp(exponent)), out=scaled)
        np.add(scaled, added, out=scaled)
        loss = _loss_in_place(scaled, classes)
        return loss + certainty * (exponent - math.log(usual)) ** 2 / len(classes)

    centre = math.log(usual)
    bounds = (centre + _BOUNDS[0], centre + _BOUNDS[1])
    found = scipy.optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-3})
    factor = math.exp(float(found.x))
    return Calibration(factor, class_loss(logits * logits.dtype.type(factor) + added, classes))
