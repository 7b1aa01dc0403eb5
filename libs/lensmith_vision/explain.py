"""Why a model answers as it does: which parts of a picture speak for a concept.

The features of a base network with a feature map are its mean over space. So what a head says can be shared out among
the cells of the map without loss: every map here has the head's logit as its mean.

- A linear head on features as they are: each cell's value is what the head would say of that cell alone. This is class
  activation mapping (Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016), and exact.
- A head on transformed features: what each feature adds to the logit is shared among the cells in proportion to what
  each of them gave to the feature. The sum is exact; the shares are the rule of layer-wise relevance propagation (Bach
  et al., PLoS ONE 10(7), 2015).
- A head of the kernel tier: what each landmark adds is shared among the features first, in proportion to what each of
  them gave to the similarity. The sum stays exact.
- General: the probability of a concept is a sum over classes, so there is no one logit. The map is the gradient of the
  concept's log odds by the classes' logits, times the class activation maps of these (the idea of Grad-CAM: Selvaraju
  et al., ICCV 2017). Its mean is how much the concept's classes stand out: their mean logit less that of all other
  classes, each counted by its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import VisionError
from lensmith_vision.heads import Head
from lensmith_vision.kernel import KernelPart
from lensmith_vision.transforms import transformed

__all__ = ["Classifier", "ExplainError", "HeatMapMethod", "class_maps", "head_maps", "method_of", "odds_maps"]

Floats = npt.NDArray[np.float32]
HeatMapMethod = Literal["class_activation", "shared_contribution", "gradient"]

_LEAST = 1e-6
"""Features smaller than this cannot be shared in proportion; what they add goes to all cells alike."""

_LEAST_COSINE = 0.05
"""Likewise similarities to landmarks: a quotient by next to nothing would blow up what little they add."""


class ExplainError(VisionError):
    """A feature map does not fit the model."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """The classifier that a base network brings with it, linear in its features.

    Attributes:
        weights: [d, k] float32.
        bias: [k] float32.
    """

    weights: Floats
    bias: Floats


def method_of(head: Head) -> HeatMapMethod:
    """Say what the values of a head's maps are."""
    return "class_activation" if head.kernel is None and head.transform == "none" else "shared_contribution"


def head_maps(head: Head, feature_map: Floats, columns: Sequence[int]) -> Floats:
    """Share out what a head says among the cells of a picture.

    Args:
        head: The head.
        feature_map: [d, h, w], of the head's space.
        columns: Places of the concepts to explain.

    Returns:
        [len(columns), h, w]; the mean of each map is the concept's logit (the number, before it is brought into its
        range, of a regression head), to float32's rounding.

    Raises:
        ExplainError: The map has another number of channels.
    """
    cells = _cells(feature_map, head.dim)
    # float64: the quotients below must undo the mean to the last digit that float32 shows.
    features = cells.mean(axis=1, dtype=np.float64)
    inputs = transformed(features[None].astype(np.float32), head.transform)[0].astype(np.float64)
    weights = head.weights[:, list(columns)].astype(np.float64)
    constant = head.bias[list(columns)].astype(np.float64)
    if head.kernel is not None:
        similar, rest = _landmarks_shared(head.kernel, inputs, columns)
        weights, constant = weights + similar, constant + rest
    large = np.abs(features) > _LEAST
    slopes = np.divide(inputs, features, out=np.zeros_like(inputs), where=large)
    constant = constant + np.where(large, 0.0, inputs) @ weights
    return _spread(cells, slopes[:, None] * weights, constant, feature_map.shape)


def class_maps(classifier: Classifier, feature_map: Floats, columns: Sequence[int]) -> Floats:
    """Share out logits of a base network's own classifier; gives [len(columns), h, w], each map's mean the logit."""
    cells = _cells(feature_map, len(classifier.weights))
    chosen = list(columns)
    weights = classifier.weights[:, chosen].astype(np.float64)
    return _spread(cells, weights, classifier.bias[chosen].astype(np.float64), feature_map.shape)


def odds_maps(
    classifier: Classifier, feature_map: Floats, members: Sequence[npt.NDArray[np.intp]], temperature: float
) -> Floats:
    """Show what makes some classes stand out against all others.

    Args:
        classifier: Of the base network, only the classes that name something.
        feature_map: [d, h, w].
        members: For each concept, its classes.
        temperature: What the logits are divided by before they become probabilities.

    Returns:
        [len(members), h, w]; for the mean of each map see the module.
    """
    cells = _cells(feature_map, len(classifier.weights))
    weights, bias = classifier.weights.astype(np.float64), classifier.bias.astype(np.float64)
    logits = (cells.mean(axis=1, dtype=np.float64) @ weights + bias) / temperature
    shares = np.empty((len(logits), len(members)))
    for column, classes in enumerate(members):
        inside = np.zeros(len(logits), bool)
        inside[classes] = True
        shares[:, column] = (_softmax_of(logits, inside) - _softmax_of(logits, ~inside)) / temperature
    return _spread(cells, weights @ shares, bias @ shares, feature_map.shape)


def _softmax_of(logits: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Probabilities [k] among the chosen only; all zero where none is."""
    if not chosen.any():
        return np.zeros_like(logits)
    powers = np.where(chosen, np.exp(np.minimum(logits - logits[chosen].max(), 0)), 0.0)
    shares: npt.NDArray[np.float64] = powers / powers.sum()
    return shares


def _landmarks_shared(
    kernel: KernelPart, inputs: npt.NDArray[np.float64], columns: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Turn what landmarks add into weights [d, k] of this picture's features, and a constant [k] where that cannot be.

    The features' contributions to the inner product with a landmark are its similarity's shares.
    """
    landmarks = kernel.landmarks.astype(np.float64)
    products, squares = landmarks @ inputs, (landmarks**2).sum(axis=1)
    distances = np.maximum(squares - 2 * products + inputs @ inputs, 0)
    added = np.exp(-kernel.sharpness * distances)[:, None] * kernel.weights[:, list(columns)]
    near = products > _LEAST_COSINE * np.sqrt(squares * (inputs @ inputs)) + _LEAST**2
    shared = np.divide(added, products[:, None], out=np.zeros_like(added), where=near[:, None])
    return landmarks.T @ shared, added[~near].sum(axis=0)


def _cells(feature_map: Floats, dim: int) -> Floats:
    if feature_map.ndim != 3 or feature_map.shape[0] != dim or 0 in feature_map.shape:
        raise ExplainError(
            "FEATURE_MAP_INVALID", f"a feature map of {dim} channels is needed, not {list(feature_map.shape)}"
        )
    return feature_map.reshape(dim, -1)


def _spread(
    cells: Floats, weights: npt.NDArray[np.float64], constant: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> Floats:
    maps = weights.T @ cells.astype(np.float64) + constant[:, None]
    return maps.reshape(-1, *shape[1:]).astype(np.float32)
