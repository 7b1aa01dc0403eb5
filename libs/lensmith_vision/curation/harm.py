"""How much a label harms what is said of the other pictures.

Opinions about a picture say whether it looks like its label. What the label does to the others says more: whether it is
wrong, and whether it matters. It is an influence function (Koh and Liang 2017, "Understanding black-box predictions via
influence functions"): how likely all labels are by what is held out, differentiated by one target, times how far that
target moves when its label is taken away. What a ridge says of held-out pictures is linear in the targets, so one
product of matrices tells it of all labels at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lensmith_vision.curation.suggestion import Floats, Ints
from lensmith_vision.discriminant import blocks_of

__all__ = ["harm_of_labels", "more_where_harmful"]

Doubles = npt.NDArray[np.float64]

_WEIGHT, _MOST = 1.6, 3.0
"""What a unit of harm counts in logarithms of odds, and how much there can be: measured with turned labels."""
_TINY = 1e-9


def harm_of_labels(
    inverse: Doubles, values: Doubles, looks: Doubles, classes: Ints, groups: Ints, scale: float, rate: float
) -> Doubles:
    """Say how much likelier the labels of all others would be without each label, as logarithms [n].

    Args:
        inverse: [n, n], of the ridge.
        values: [n, c], what it says of each picture without its group (`kernel.held_out_similarity`).
        looks: [n, c], the chances that follow from these.
        classes: [n] the given concepts.
        groups: [n], pictures of one group are held out together: their labels do each other no harm.
        scale: What made logits of values.
        rate: How many labels are wrong.
    """
    rows, width = values.shape
    given = np.eye(width)[classes]
    own, turned = looks[np.arange(rows), classes], rate / max(width - 1, 1)
    steep = scale * (1 - rate - turned) * own / ((1 - rate) * own + turned * (1 - own))
    slopes = steep[:, None] * (given - looks)
    shares = np.empty_like(slopes)
    for block in blocks_of(groups):
        shares[block] = np.linalg.solve(inverse[block[:, :, None], block[:, None, :]], slopes[block])
    slopes -= inverse @ shares
    # Without its label a picture counts like one whose target is what is said of it anyway.
    harm: Doubles = (slopes * (values - given)).sum(axis=1)
    return harm


def more_where_harmful(wrong: Floats, harm: Floats) -> Floats:
    """Chances [n] that labels are wrong, from those by opinions about the pictures themselves and from the harm."""
    odds = np.maximum(wrong, _TINY) * np.exp(_WEIGHT * _MOST * np.tanh(harm / _MOST))
    result: Floats = (odds / (odds + np.maximum(1 - wrong, _TINY))).astype(np.float32)
    return result
