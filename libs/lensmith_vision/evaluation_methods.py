"""On which pictures a version is evaluated: out of fold, on the user's own test pictures, or on a fifth of all.

Whichever it is, no picture that the evaluated head was fitted on takes part, nor a copy or near copy of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lensmith_vision.errors import TrainingError
from lensmith_vision.held_out_groups import deal_folds, group_copies
from lensmith_vision.out_of_fold import EvaluationMethod
from lensmith_vision.preflight import Finding, Severity
from lensmith_vision.refit import ClassMemory
from lensmith_vision.report import Decisions, evaluate
from lensmith_vision.set_findings import allowed_findings, judged
from lensmith_vision.training import Fitted, Progress, fit, predictions_of
from lensmith_vision.training_set import TrainingSet, TrainOptions, take_part

__all__ = ["fit_and_evaluate"]

Bools = npt.NDArray[np.bool_]

_SPLIT_FOLDS = 5
_HALF = 0.5


def fit_and_evaluate(
    data: TrainingSet,
    test: Bools,
    options: TrainOptions,
    method: EvaluationMethod,
    progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    memory: ClassMemory | None = None,
) -> Fitted:
    """Train a head and evaluate it as asked.

    Args:
        data: The labelled features.
        test: [n], which pictures are marked as test; nothing is ever fitted on them.
        options: Type and seed.
        method: On which pictures to evaluate.
        progress: Told how far it has come, from the calling thread.
        cancelled: Asked between steps; True ends the training.
        memory: What an earlier fit of the same, evaluated out of fold, left.

    Raises:
        TrainingError: As for `fit`, or ``NO_TEST_IMAGES``.
    """
    taught = data.rows(~test)
    tests_left_out = {data.ids[row]: "TEST" for row in np.flatnonzero(test)}
    if method == "test_set":
        fitted = _on_tests(data, test, options, progress, cancelled)
    elif method == "split":
        fitted = _on_a_fifth(taught, options, progress, cancelled)
    else:
        fitted = fit(taught, options, progress, cancelled, memory)
    return replace(fitted, left_out={**tests_left_out, **fitted.left_out})


def _on_tests(
    data: TrainingSet,
    test: Bools,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Fitted:
    tests, unusable = take_part(data.rows(test), options)
    if not len(tests.ids):
        raise TrainingError(
            "NO_TEST_IMAGES",
            f"no image marked as test has labels to evaluate on ({len(unusable)} marked and unusable): "
            "mark some, or choose another evaluation",
        )
    # Copies count whatever their labels are, so all of them are grouped together.
    groups = group_copies(replace(data, labels=None, targets=None, shown=None), split=test)
    copies = np.isin(groups, groups[test]) & ~test
    fitted = fit(data.rows(~test & ~copies), options, progress, cancelled)
    decisions = Decisions(
        scores=fitted.head.scores(tests.features),
        folds=np.zeros(len(tests.ids), np.int64),
        labels=tests.labels,
        targets=tests.targets,
        classes=tests.shown,
        groups=group_copies(tests),
        thresholds=fitted.head.thresholds,
        method="test_set",
    )
    findings = list(fitted.findings)
    if copies.any():
        count = int(copies.sum())
        images = (
            "1 image that is a copy or near copy" if count == 1 else f"{count} images that are copies or near copies"
        )
        text = f"left out: {images} of test images, which would flatter the evaluation"
        findings.append(Finding("LEFT_OUT_COPY_OF_TEST", Severity.WARNING, text))
    return replace(
        _evaluated(fitted, tests, decisions, options),
        findings=tuple(findings),
        left_out={**{data.ids[row]: "COPY_OF_TEST" for row in np.flatnonzero(copies)}, **fitted.left_out},
    )


def _on_a_fifth(
    data: TrainingSet,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Fitted:
    taken, left_out = take_part(data, options)
    if not len(taken.ids):
        # Says what is missing.
        return fit(data, options, progress, cancelled)
    groups = group_copies(taken)
    folds = deal_folds(taken, groups, replace(options, folds=_SPLIT_FOLDS))
    held_out = folds == 0
    trial = _trial(taken, left_out, held_out, options, _part(progress, 0.0), cancelled)
    tests = taken.rows(held_out)
    decisions = Decisions(
        scores=trial.head.scores(tests.features),
        folds=np.zeros(len(tests.ids), np.int64),
        labels=tests.labels,
        targets=tests.targets,
        classes=tests.shown,
        groups=groups[held_out],
        thresholds=trial.head.thresholds,
        method="split",
    )
    evaluated = _evaluated(trial, tests, decisions, options)
    fitted = fit(data, options, _part(progress, _HALF), cancelled)
    # Figures are those of the trial; thresholds, as out of fold, those that the head carries.
    concepts = tuple(
        replace(concept, threshold=float(threshold))
        for concept, threshold in zip(evaluated.evaluation.concepts, fitted.head.thresholds, strict=False)
    )
    evaluation = replace(evaluated.evaluation, concepts=concepts)
    return replace(fitted, evaluation=evaluation, out_of_fold=evaluated.out_of_fold)


def _trial(
    taken: TrainingSet,
    left_out: dict[str, str],
    held_out: Bools,
    options: TrainOptions,
    progress: Callable[[Progress], None] | None,
    cancelled: Callable[[], bool] | None,
) -> Fitted:
    """Fit what is not held out; where only that is too little to learn from, the reason says so."""
    try:
        return fit(taken.rows(~held_out), options, progress, cancelled)
    except TrainingError as error:
        if error.reason == "TRAINING_CANCELLED":
            raise
        allowed_findings(judged(taken, left_out, options))
        text = f"without the fifth that is held out, {error}: label some more, or choose the out-of-fold evaluation"
        raise TrainingError(error.reason, text, error.metadata) from error


def _evaluated(fitted: Fitted, tests: TrainingSet, decisions: Decisions, options: TrainOptions) -> Fitted:
    evaluation = evaluate(fitted.head, decisions, fitted.evaluation.penalty, options.thresholds)
    return replace(fitted, evaluation=evaluation, out_of_fold=predictions_of(tests, fitted.head, decisions))


def _part(progress: Callable[[Progress], None] | None, start: float) -> Callable[[Progress], None] | None:
    """Tell of one of two halves."""
    if progress is None:
        return None
    tell = progress
    return lambda made: tell(replace(made, fraction=start + _HALF * made.fraction))
