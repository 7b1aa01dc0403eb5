"""What is wrong with a training set as a whole: too few pictures, pictures that cannot take part, copies."""

from __future__ import annotations

import numpy as np

from lensmith_vision.errors import TrainingError
from lensmith_vision.heads import HeadType
from lensmith_vision.preflight import ConceptCount, Finding, Severity, check_counts, has_errors
from lensmith_vision.training_set import TrainingSet, TrainOptions, take_part

__all__ = ["allowed_findings", "judged", "preflight"]


def preflight(data: TrainingSet, type: HeadType, *, closed_environment: bool = False) -> list[Finding]:
    """Judge a training set: what refuses the training, what will make it suffer, what would help.

    Raises:
        TrainingError: The set has no labels of the kind that the type needs.
    """
    options = TrainOptions(type, closed_environment)
    return judged(*take_part(data, options), options)


def judged(taken: TrainingSet, left_out: dict[str, str], options: TrainOptions) -> list[Finding]:
    """Judge what `take_part` took, and what it left out."""
    environment, images = options.closed_environment, len(taken.ids)
    findings = check_counts(options.type, _counts(taken), closed_environment=environment, images=images)
    return findings + _left_out_findings(left_out) + _duplicate_findings(taken)


def allowed_findings(findings: list[Finding]) -> list[Finding]:
    """Return findings without errors.

    Raises:
        TrainingError: There is one.
    """
    if has_errors(findings):
        first = next(finding for finding in findings if finding.severity is Severity.ERROR)
        # Pictures may well be there, and show too much to be learnt from.
        why = [first.message, *(finding.message for finding in findings if finding.reason.startswith("LEFT_OUT_"))]
        raise TrainingError(first.reason, "; ".join(why), {"concept": first.concept} if first.concept else None)
    return findings


def _counts(data: TrainingSet) -> list[ConceptCount]:
    if data.targets is not None and data.labels is None:
        return [ConceptCount(concept, numbers=len(data.ids)) for concept in data.concepts]
    labels = data.labels if data.labels is not None else np.empty((0, len(data.concepts)), np.float32)
    if data.classes is not None and data.complete:
        positives = np.bincount(data.classes, minlength=len(data.concepts))
        negatives = len(data.ids) - positives
    else:
        positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    rows = zip(data.concepts, positives.tolist(), negatives.tolist(), strict=True)
    return [ConceptCount(concept, positive, negative) for concept, positive, negative in rows]


_LEFT_OUT_TEXTS = {
    "SEVERAL_CONCEPTS": "left out: {} of several of the model's concepts at once",
    "NO_CONCEPT": "left out: {} of none of the model's concepts",
    "NO_LABEL": "left out: {} without a label for any of the model's concepts",
    "NO_NUMBER": "left out: {} without a number",
}


def _left_out_findings(left_out: dict[str, str]) -> list[Finding]:
    findings = []
    for reason, text in _LEFT_OUT_TEXTS.items():
        count = sum(1 for value in left_out.values() if value == reason)
        if count:
            severity = Severity.WARNING if reason == "SEVERAL_CONCEPTS" else Severity.HINT
            findings.append(
                Finding(f"LEFT_OUT_{reason}", severity, text.format("1 image" if count == 1 else f"{count} images"))
            )
    return findings


def _duplicate_findings(data: TrainingSet) -> list[Finding]:
    if len(set(data.group_ids)) == len(data.group_ids):
        return []
    first: dict[str, int] = {}
    copies = conflicts = 0
    for row, group in enumerate(data.group_ids):
        original = first.setdefault(group, row)
        if original != row:
            copies += 1
            conflicts += _conflict(data, original, row)
    findings = []
    if copies:
        text = f"{copies} images have the same bytes as another one; they count once in the evaluation's split"
        findings.append(Finding("DUPLICATE_IMAGES", Severity.HINT, text))
    if conflicts:
        text = f"{conflicts} images have the same bytes as another one but another label"
        findings.append(Finding("CONFLICTING_LABELS", Severity.WARNING, text))
    return findings


def _conflict(data: TrainingSet, left: int, right: int) -> bool:
    if data.shown is not None:
        return bool(data.shown[left] != data.shown[right])
    values = data.labels if data.labels is not None else data.targets
    if values is None:
        return False
    one, other = np.atleast_1d(values[left]), np.atleast_1d(values[right])
    return bool(((one != other) & np.isfinite(one) & np.isfinite(other)).any())
