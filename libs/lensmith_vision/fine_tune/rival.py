"""The head that a network has to beat, and the pictures on which the two are compared. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.fine_tune.job import TESTED
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.training import Fitted, Progress, TrainingSet, TrainOptions, fit

__all__ = ["Rival", "rival_of"]


@dataclass(frozen=True, eq=False)
class Rival:
    """A head that was trained and evaluated, as a network meets it.

    Attributes:
        fitted: The head.
        known: What fits that had not seen them said about pictures. Those in a fold were learnt from, and on them the
            better of head and network is chosen. Those in none (`TESTED`) are test pictures, or the fifth of a split:
            the version is evaluated on them, and they have no say in what it becomes.
    """

    fitted: Fitted
    known: OutOfFoldPredictions


def rival_of(
    data: TrainingSet,
    fitted: Fitted,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Rival:
    """Make a rival of a head, however that was evaluated.

    A head that was evaluated on pictures of their own is fitted once more on the others, out of fold: those scores are
    not kept with it, and make the same folds every time.

    Args:
        data: What the head was trained on, and evaluated.
        fitted: The head.
        options: As it was trained with.
        progress: Told how far it has come, from the calling thread.
        cancelled: Asked between steps; True ends it.

    Raises:
        TrainingError: ``TRAINING_CANCELLED``.
    """
    tests = fitted.out_of_fold
    if tests.method == "out_of_fold":
        return Rival(fitted, tests)
    apart = {*tests.ids, *fitted.left_out}
    others = np.fromiter((uid not in apart for uid in data.ids), np.bool_, len(data.ids))
    chosen = fit(data.rows(others), options, progress, cancelled).out_of_fold
    return Rival(fitted, _together(chosen, tests))


def _together(chosen: OutOfFoldPredictions, tests: OutOfFoldPredictions) -> OutOfFoldPredictions:
    """Put pictures in folds and pictures in none into one."""

    def both(
        one: npt.NDArray[np.float32] | None, other: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32] | None:
        return None if one is None or other is None else np.concatenate([one, other])

    classes = None
    if chosen.classes is not None and tests.classes is not None:
        classes = np.concatenate([chosen.classes, tests.classes])
    return replace(
        tests,
        ids=(*chosen.ids, *tests.ids),
        scores=np.concatenate([chosen.scores, tests.scores]),
        folds=np.concatenate([chosen.folds, np.full(len(tests.ids), TESTED)]),
        groups=np.concatenate([chosen.groups, tests.groups + chosen.groups.max(initial=-1) + 1]),
        labels=both(chosen.labels, tests.labels) if classes is None else None,
        targets=both(chosen.targets, tests.targets),
        classes=classes,
    )
