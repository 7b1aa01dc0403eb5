"""The three fits: softmax, independent sigmoids and ridge, all with an L2 penalty.

Features are centred, brought to one scale and rotated to their principal axes once. Rotation changes no penalised
solution, but there the curvature of the loss is nearly diagonal, so that L-BFGS needs tens of steps, not hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg

from lensmith_vision.lbfgs import minimise

__all__ = ["Basis", "fit_logistic", "fit_ridge"]

Floats = npt.NDArray[np.float32]

_BIAS_PENALTY = 1e-4
_NEGLIGIBLE = 1e-6
_LEAST_DEVIATION = 0.1


@dataclass(frozen=True, eq=False)
class Basis:
    """Where features are fitted: ``z = ((x - mean) / scale) @ axes``.

    Attributes:
        mean: [d].
        scale: [d].
        axes: [d, r], orthonormal.
        variances: [r], mean square of each coordinate.
        coordinates: [n, r], the training rows.
    """

    mean: Floats
    scale: Floats
    axes: Floats
    variances: npt.NDArray[np.float64]
    coordinates: Floats

    @classmethod
    def of(cls, features: Floats) -> Basis:
        """Find the basis of a training set."""
        rows, dim = features.shape
        mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        scaled = features - mean
        deviation = np.sqrt(np.einsum("ij,ij->j", scaled, scaled, dtype=np.float64) / max(rows, 1))
        typical = float(np.sqrt((deviation**2).mean())) or 1.0
        # Each feature to one scale, but those that hardly vary are not blown up into noise.
        scale = np.maximum(deviation, _LEAST_DEVIATION * typical).astype(np.float32)
        scaled /= scale
        if rows >= dim:
            squares, axes = scipy.linalg.eigh((scaled.T @ scaled).astype(np.float64) / rows)
        else:
            squares, sides = scipy.linalg.eigh((scaled @ scaled.T).astype(np.float64) / rows)
            axes = scaled.T @ sides / np.sqrt(np.maximum(squares, 1e-12) * rows)
        kept = squares > _NEGLIGIBLE * max(float(squares.max(initial=0.0)), 1e-12)
        if not kept.any():
            kept[-1:] = True
        directions = np.ascontiguousarray(axes[:, kept], dtype=np.float32)
        coordinates = scaled @ directions
        return cls(mean, scale, directions, np.maximum(squares[kept], 0.0), coordinates)

    def unfold(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Turn weights [r, c] and bias [c] on coordinates into weights [d, c] and bias [c] on raw features."""
        raw = (self.axes.astype(np.float64) @ weights.astype(np.float64)) / self.scale[:, None]
        shifted = bias - self.mean.astype(np.float64) @ raw
        return raw.astype(np.float32), shifted.astype(np.float32)


def fit_logistic(
    kind: Literal["softmax", "sigmoid"],
    coordinates: Floats,
    targets: Floats,
    known: Floats,
    variances: npt.NDArray[np.float64],
    penalty: float,
    start: Floats | None = None,
) -> Floats:
    """Minimise mean log loss + penalty / 2 * |W|² for several choices of rows (folds) at once.

    The folds are independent problems that share each product with the coordinates, which is what costs.

    Args:
        kind: One softmax over the concepts, or a sigmoid for each.
        coordinates: [n, r] in a :class:`Basis`.
        targets: [n, c] of 0 and 1, whatever where unknown.
        known: Weights of the rows in each fold, [n, k, c] (sigmoid) or [n, k, 1] (softmax), adding up to 1 over the
            rows; 0 leaves a row out.
        variances: Of the coordinates, to scale the steps.
        penalty: Of the weights; the bias is all but free.
        start: Weights to begin from, as returned.

    Returns:
        [r + 1, k, c], the bias in the last row.
    """
    rank, folds, concepts = coordinates.shape[1], known.shape[1], targets.shape[1]
    curvature = 0.5 if kind == "softmax" else 0.25
    scales = 1 / np.sqrt(np.append(curvature * variances + penalty, curvature + _BIAS_PENALTY))
    steps = scales.astype(np.float32)[:, None, None]
    penalties = np.append(np.full(rank, penalty), _BIAS_PENALTY).astype(np.float32)[:, None, None]
    pointwise = _softmax_loss if kind == "softmax" else _sigmoid_loss
    truth = targets[:, None, :]

    def loss(point: Floats) -> tuple[npt.NDArray[np.float64], Floats]:
        weights = point * steps
        logits = (coordinates @ weights[:-1].reshape(rank, -1)).reshape(-1, folds, concepts)
        logits += weights[-1]
        values, slope = pointwise(logits, truth, known)
        gradient = np.empty_like(weights)
        gradient[:-1] = (coordinates.T @ slope.reshape(len(slope), -1)).reshape(rank, folds, concepts)
        gradient[-1] = slope.sum(axis=0, dtype=np.float64)
        pull = penalties * weights
        gradient += pull
        values = values + 0.5 * np.einsum("rkc,rkc->k", pull, weights, dtype=np.float64)
        return values, gradient * steps

    begin = np.zeros((rank + 1, folds, concepts), np.float32) if start is None else start / steps
    result: Floats = minimise(loss, begin) * steps
    return result


def _softmax_loss(logits: Floats, targets: Floats, known: Floats) -> tuple[npt.NDArray[np.float64], Floats]:
    logits -= logits.max(axis=2, keepdims=True)
    hits = (logits * targets).sum(axis=2, keepdims=True)
    scores = np.exp(logits, out=logits)
    sums = scores.sum(axis=2, keepdims=True)
    values = ((np.log(sums) - hits) * known).sum(axis=(0, 2), dtype=np.float64)
    scores /= sums
    scores -= targets
    scores *= known
    return values, scores


def _sigmoid_loss(logits: Floats, targets: Floats, known: Floats) -> tuple[npt.NDArray[np.float64], Floats]:
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    values = ((softplus - logits * targets) * known).sum(axis=(0, 2), dtype=np.float64)
    # exp(logit - softplus) is the sigmoid, without a second overflow to guard against.
    slope: Floats = (np.exp(logits - softplus) - targets) * known
    return values, slope


def fit_ridge(coordinates: Floats, targets: npt.NDArray[np.float64], penalties: list[float]) -> list[Floats]:
    """Minimise mean squared error + penalty · |w|² for several penalties at once.

    Args:
        coordinates: [n, r].
        targets: [n].
        penalties: Greater than 0.

    Returns:
        For each penalty [r + 1, 1], the bias in the last row.
    """
    mean = coordinates.mean(axis=0, dtype=np.float64)
    middle = float(targets.mean())
    centred = coordinates - mean.astype(np.float32)
    rows, rank = centred.shape
    wide = rank > rows
    gram = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64) / rows
    pull = targets - middle if wide else centred.T.astype(np.float64) @ (targets - middle) / rows
    results = []
    for penalty in penalties:
        factor = scipy.linalg.cho_factor(gram + penalty * np.eye(len(gram)), lower=True, check_finite=False)
        solved = scipy.linalg.cho_solve(factor, pull, check_finite=False)
        weights = centred.T.astype(np.float64) @ solved / rows if wide else solved
        results.append(np.append(weights, middle - float(mean @ weights))[:, None].astype(np.float32))
    return results
