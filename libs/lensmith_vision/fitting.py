"""The search for the right strength of regularisation, out of fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lensmith_vision.heads import HeadType
from lensmith_vision.solvers import Basis, fit_logistic, fit_ridge

__all__ = ["OutOfFold", "Problem", "search_penalty"]

# From strong to weak; each starts where the one before ended.
_CLASS_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
_RIDGE_PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_PATIENCE = 1
_MAX_LOGITS = 32_000_000


@dataclass(frozen=True)
class OutOfFold:
    """What the search found.

    Attributes:
        penalty: The one with the least loss.
        loss: Mean log loss, or mean squared error.
        logits: [n, c] float32, each row given by a fit that has not seen it.
    """

    penalty: float
    loss: float
    logits: npt.NDArray[np.float32]


@dataclass(eq=False)
class Problem:
    """A training set in its basis.

    Attributes:
        type: Type of the head.
        basis: Coordinates of the rows.
        given_labels: [n, c] with NaN unknown, 0, 1; None for regression.
        targets: [n] for regression; None otherwise.
        labels: The given ones, or none at all as [n, 0].
    """

    type: HeadType
    basis: Basis
    given_labels: npt.NDArray[np.float32] | None
    targets: npt.NDArray[np.float32] | None
    labels: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        empty = np.empty((len(self.basis.coordinates), 0), np.float32)
        self.labels = empty if self.given_labels is None else self.given_labels

    @property
    def penalties(self) -> tuple[float, ...]:
        """The strengths worth trying, from strong to weak."""
        return _RIDGE_PENALTIES if self.type == "regression" else _CLASS_PENALTIES

    def solve(self, penalty: float) -> npt.NDArray[np.float32]:
        """Fit all rows; gives [r + 1, c], the bias last."""
        if self.targets is not None:
            return fit_ridge(self.basis.coordinates, self.targets.astype(np.float64), [penalty])[0]
        everything = np.ones((len(self.labels), 1), dtype=np.bool_)
        return self._solve_classes(everything, penalty, None)[:, 0]

    def path(self, taught: npt.NDArray[np.bool_]) -> Callable[[float], npt.NDArray[np.float32]]:
        """Prepare fits with one penalty after the other, each starting from the one before.

        Args:
            taught: [n, k], which rows each of k fits may see.

        Returns:
            A function from a penalty to weights [r + 1, k, c].
        """
        if self.targets is not None:
            targets = self.targets.astype(np.float64)
            fits = [fit_ridge(self.basis.coordinates[rows], targets[rows], list(self.penalties)) for rows in taught.T]
            solved = {
                penalty: np.stack(together, axis=1)
                for penalty, together in zip(self.penalties, zip(*fits, strict=True), strict=True)
            }
            return solved.__getitem__
        last: npt.NDArray[np.float32] | None = None

        def next_fit(penalty: float) -> npt.NDArray[np.float32]:
            nonlocal last
            last = self._solve_classes(taught, penalty, last)
            return last

        return next_fit

    def _solve_classes(
        self, taught: npt.NDArray[np.bool_], penalty: float, start: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        targets = np.nan_to_num(self.labels)
        if self.type == "multi_class":
            kind: Literal["softmax", "sigmoid"] = "softmax"
            seen = taught[:, :, None]
        else:
            kind = "sigmoid"
            seen = taught[:, :, None] & np.isfinite(self.labels)[:, None, :]
        known = (seen / np.maximum(seen.sum(axis=0), 1)).astype(np.float32)
        basis = self.basis
        return fit_logistic(kind, basis.coordinates, targets, known, basis.variances, penalty, start)

    def loss(self, logits: npt.NDArray[np.float32]) -> float:
        """Mean log loss of all concepts, or mean squared error."""
        if self.targets is not None:
            return float(((logits[:, 0] - self.targets) ** 2).mean())
        return log_loss(self.type, logits, self.labels)


def log_loss(type: HeadType, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> float:
    """Mean log loss: of the true class (multi_class), or of each known label, averaged over concepts."""
    if type == "multi_class":
        shifted = logits - logits.max(axis=1, keepdims=True)
        true = (shifted * labels).sum(axis=1)
        return float((np.log(np.exp(shifted).sum(axis=1)) - true).mean())
    known = np.isfinite(labels)
    softplus = np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))
    losses = np.where(known, softplus - logits * np.nan_to_num(labels), 0)
    return float((losses.sum(axis=0) / np.maximum(known.sum(axis=0), 1)).mean())


def search_penalty(problem: Problem, folds: npt.NDArray[np.int64], step: Callable[[float], None]) -> OutOfFold:
    """Try penalties from strong to weak and stop soon after the loss out of fold begins to rise.

    Args:
        problem: The training set.
        folds: Fold of each row.
        step: Told the part done, 0 to 1; may raise to stop.
    """
    count = int(folds.max()) + 1
    width = 1 if problem.targets is not None else problem.labels.shape[1]
    taught = folds[:, None] != np.arange(count)
    # Many folds at once are fastest, but their logits must fit into memory.
    together = max(1, min(count, _MAX_LOGITS // max(1, len(folds) * width)))
    starts = range(0, count, together)
    paths = [problem.path(taught[:, start : start + together]) for start in starts]
    best: OutOfFold | None = None
    worse = 0
    for index, penalty in enumerate(problem.penalties):
        logits = np.empty((len(folds), width), dtype=np.float32)
        for start, path in zip(starts, paths, strict=True):
            weights = path(penalty)
            for fold in range(start, start + weights.shape[1]):
                held_out = folds == fold
                own = weights[:, fold - start]
                logits[held_out] = problem.basis.coordinates[held_out] @ own[:-1] + own[-1]
            step((index * count + min(start + together, count)) / (count * len(problem.penalties)))
        loss = problem.loss(logits)
        if best is None or loss < best.loss:
            best, worse = OutOfFold(penalty, loss, logits), 0
        else:
            worse += 1
            if worse > _PATIENCE:
                break
    if best is None:
        raise ValueError("there is no penalty to try")
    return best
