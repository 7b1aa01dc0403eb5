"""What can be said about a training set before a second is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from lensmith_vision.heads import HeadType

__all__ = ["ConceptCount", "Finding", "Severity", "check_counts", "has_errors"]

MIN_POSITIVES = 2
FEW_POSITIVES = 10
ENOUGH_POSITIVES = 25
MAX_IMBALANCE = 5.0
MIN_NUMBERS = 2


class Severity(Enum):
    """How grave a finding is; an ERROR refuses the training."""

    HINT = "HINT"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Finding:
    """Something worth knowing about the data.

    Attributes:
        reason: UPPER_SNAKE, such as ``FEW_IMAGES``.
        severity: Whether training is refused, will suffer, or could be better.
        message: One sentence for people.
        concept: Id of the concept it is about; None for the whole set.
    """

    reason: str
    severity: Severity
    message: str
    concept: str | None = None


@dataclass(frozen=True)
class ConceptCount:
    """How many pictures carry a concept as positive, as negative, and with a number."""

    concept: str
    positives: int = 0
    negatives: int = 0
    numbers: int = 0


def has_errors(findings: Sequence[Finding]) -> bool:
    """Tell whether training is refused."""
    return any(finding.severity is Severity.ERROR for finding in findings)


def check_counts(
    type: HeadType, counts: Sequence[ConceptCount], *, closed_environment: bool = False, images: int | None = None
) -> list[Finding]:
    """Judge a training set by its counts alone.

    Args:
        type: What is to be trained.
        counts: One for each concept of the model.
        closed_environment: Pictures without a label for a concept count as its negatives (multi_label only).
        images: Pictures with any label of these concepts, needed to know the negatives of a closed environment.
    """
    if type == "regression":
        return _check_numbers(counts)
    findings = [finding for count in counts for finding in _check_positives(count)]
    if type == "multi_class":
        if len(counts) < 2:
            findings.append(_error("ONE_CONCEPT", "a multi_class model needs at least two concepts to tell apart"))
        findings += _check_balance({count.concept: count.positives for count in counts})
        return findings
    if not counts:
        findings.append(_error("NO_CONCEPTS", "the model has no concepts"))
    for count in counts:
        negatives = max(count.negatives, (images or 0) - count.positives) if closed_environment else count.negatives
        findings += _check_negatives(count, negatives, closed_environment)
    return findings


def _check_positives(count: ConceptCount) -> list[Finding]:
    name, positives = count.concept, count.positives
    if positives == 0:
        return [_error("NO_POSITIVES", f"no image is labelled with {name}", name)]
    if positives < MIN_POSITIVES:
        return [_error("TOO_FEW_IMAGES", f"{name} has one image; at least {MIN_POSITIVES} are needed to train", name)]
    if positives < FEW_POSITIVES:
        text = f"{name} has only {positives} images; expect little below {FEW_POSITIVES}"
        return [Finding("FEW_IMAGES", Severity.WARNING, text, name)]
    if positives < ENOUGH_POSITIVES:
        text = f"{name} has {positives} images; {ENOUGH_POSITIVES} or more make a model dependable"
        return [Finding("MORE_IMAGES", Severity.HINT, text, name)]
    return []


def _check_negatives(count: ConceptCount, negatives: int, closed_environment: bool) -> list[Finding]:
    name = count.concept
    if count.positives == 0:
        return []
    if negatives == 0:
        advice = (
            "every image shows it"
            if closed_environment
            else "label some images as not showing it, or train in a closed environment"
        )
        return [_error("NO_NEGATIVES", f"{name} has no negative images: {advice}", name)]
    more, fewer = max(count.positives, negatives), min(count.positives, negatives)
    # A closed environment of many concepts is unbalanced by nature; only too few negatives are worth a word there.
    if more > MAX_IMBALANCE * fewer and not (closed_environment and negatives > count.positives):
        text = f"{name} has {count.positives} positive and {negatives} negative images, over {MAX_IMBALANCE:g} to 1"
        return [Finding("IMBALANCED", Severity.WARNING, text, name)]
    return []


def _check_balance(positives: dict[str, int]) -> list[Finding]:
    present = {name: number for name, number in positives.items() if number > 0}
    if len(present) < 2:
        return [_error("ONE_CLASS", "only one concept has images; there is nothing to tell apart")] if present else []
    most, least = max(present, key=lambda name: present[name]), min(present, key=lambda name: present[name])
    if present[most] <= MAX_IMBALANCE * present[least]:
        return []
    text = (
        f"{most} has {present[most]} images and {least} has {present[least]}, over {MAX_IMBALANCE:g} to 1; "
        f"the model will lean towards {most}"
    )
    return [Finding("IMBALANCED", Severity.WARNING, text, least)]


def _check_numbers(counts: Sequence[ConceptCount]) -> list[Finding]:
    if len(counts) != 1:
        return [_error("ONE_CONCEPT_NEEDED", f"a regression model measures exactly one concept, not {len(counts)}")]
    name, numbers = counts[0].concept, counts[0].numbers
    if numbers < MIN_NUMBERS:
        carried = ("no image carries", "only one image carries")[numbers]
        return [_error("TOO_FEW_IMAGES", f"{carried} a number for {name}; at least 2 are needed", name)]
    if numbers < FEW_POSITIVES:
        text = f"only {numbers} images carry a number for {name}; expect little below {FEW_POSITIVES}"
        return [Finding("FEW_IMAGES", Severity.WARNING, text, name)]
    if numbers < ENOUGH_POSITIVES:
        text = f"{numbers} images carry a number for {name}; {ENOUGH_POSITIVES} or more make a model dependable"
        return [Finding("MORE_IMAGES", Severity.HINT, text, name)]
    return []


def _error(reason: str, message: str, concept: str | None = None) -> Finding:
    return Finding(reason, Severity.ERROR, message, concept)
