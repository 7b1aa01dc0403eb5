"""What can be said about a training set before a second is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from lensmith_vision.heads import HeadType

__all__ = ["ConceptCount", "Finding", "Severity", "check_counts", "error_about", "has_errors"]

MIN_POSITIVES = 2
FEW_POSITIVES = 10
ENOUGH_POSITIVES = 25
MAX_IMBALANCE = 5.0
MIN_NUMBERS = 2
MOST_NAMED = 5


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
        concept: Id of the concept it is about; None for the whole set, or for several.
        concepts: Ids of all concepts it is about.
    """

    reason: str
    severity: Severity
    message: str
    concept: str | None = None
    concepts: tuple[str, ...] = ()


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


def error_about(reason: str, names: Sequence[str], one: str, several: str) -> list[Finding]:
    """Say in one sentence what is wrong with some concepts, the same with each; nothing where there are none.

    Args:
        reason: UPPER_SNAKE.
        names: Ids of the concepts.
        one: The sentence about a single one, in which ``{}`` stands for it.
        several: The sentence about more than one.
    """
    if not names:
        return []
    more = len(names) - MOST_NAMED
    if len(names) == 1:
        told = names[0]
    elif more > 1:
        told = f"{', '.join(names[:MOST_NAMED])} and {more} others"
    else:
        told = f"{', '.join(names[:-1])} and {names[-1]}"
    single = names[0] if len(names) == 1 else None
    message = (one if single else several).format(told)
    return [Finding(reason, Severity.ERROR, message, single, tuple(names))]


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
    findings = _check_positives(counts)
    if type == "multi_class":
        if len(counts) < 2:
            findings.append(_error("ONE_CONCEPT", "a multi-class model needs at least two concepts to tell apart"))
            return findings
        findings += _check_balance({count.concept: count.positives for count in counts})
        return findings
    if not counts:
        findings.append(_error("NO_CONCEPTS", "the model has no concepts"))
    shown = [count for count in counts if count.positives]
    negatives = {
        count.concept: max(count.negatives, (images or 0) - count.positives) if closed_environment else count.negatives
        for count in shown
    }
    findings += _check_negatives([name for name, number in negatives.items() if not number], closed_environment)
    for count in shown:
        findings += _check_imbalance(count, negatives[count.concept], closed_environment)
    return findings


def _check_positives(counts: Sequence[ConceptCount]) -> list[Finding]:
    none = [count.concept for count in counts if count.positives == 0]
    single = [count.concept for count in counts if 0 < count.positives < MIN_POSITIVES]
    needed = f"at least {MIN_POSITIVES} are needed to train"
    return [
        *error_about("NO_POSITIVES", none, "no image is labelled with {}", "no image is labelled with any of {}"),
        *error_about("TOO_FEW_IMAGES", single, f"{{}} has one image; {needed}", f"{{}} have one image each; {needed}"),
        *(finding for count in counts for finding in _check_few(count)),
    ]


def _check_few(count: ConceptCount) -> list[Finding]:
    name, positives = count.concept, count.positives
    if MIN_POSITIVES <= positives < FEW_POSITIVES:
        text = f"{name} has only {positives} images; expect little below {FEW_POSITIVES}"
        return [Finding("FEW_IMAGES", Severity.WARNING, text, name)]
    if FEW_POSITIVES <= positives < ENOUGH_POSITIVES:
        text = f"{name} has {positives} images; {ENOUGH_POSITIVES} or more make a model dependable"
        return [Finding("MORE_IMAGES", Severity.HINT, text, name)]
    return []


def _check_negatives(lacking: Sequence[str], closed_environment: bool) -> list[Finding]:
    one, several = "{} has no negative images: ", "{} have no negative images: "
    if closed_environment:
        return error_about("NO_NEGATIVES", lacking, f"{one}every image shows it", f"{several}every image shows them")
    advice = "label some images as not showing {}, or train in a closed environment"
    return error_about("NO_NEGATIVES", lacking, one + advice.format("it"), several + advice.format("them"))


def _check_imbalance(count: ConceptCount, negatives: int, closed_environment: bool) -> list[Finding]:
    name = count.concept
    if negatives == 0:
        return []
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
    return Finding(reason, Severity.ERROR, message, concept, (concept,) if concept else ())
