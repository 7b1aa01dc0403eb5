"""Looking at the data before a version is queued: refuse what cannot succeed, say what will suffer.

The judgement itself is the vision library's, which the trainer asks again over the very inputs that it trains on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from lensmith_api.internal.v1.training_data_service_pb2 import ConceptCount, CountTrainingDataResponse, TestInputCount
from lensmith_platform.errors import PreconditionError
from lensmith_registry.store import ModelDefinition
from lensmith_vision import preflight as vision
from lensmith_vision.heads import HeadType
from lensmith_vision.preflight import Finding, Severity, check_counts, error_about

__all__ = ["Preflight", "concepts_to_count", "look", "look_at_tests", "refuse"]

MOST_CONCEPTS = 20


@dataclass(frozen=True)
class Preflight:
    """What preflight made of the data.

    Attributes:
        concepts: Own ids of the concepts to learn, in the order of the head's outputs.
        display_names: Their names for people.
        findings: Everything noticed.
    """

    concepts: tuple[str, ...]
    display_names: tuple[str, ...]
    findings: tuple[Finding, ...]


def concepts_to_count(definition: ModelDefinition) -> list[str]:
    """Own ids to ask dataset about; empty: all of the app."""
    if not definition.concepts:
        return []
    negative = [definition.negative_concept] if definition.negative_concept else []
    return [*definition.concepts, *negative]


def look(
    definition: ModelDefinition, counted: CountTrainingDataResponse, negative_concepts: Collection[str]
) -> Preflight:
    """Judge what an app has to train a model on.

    Args:
        definition: The model.
        counted: What dataset counted.
        negative_concepts: Of all models of the app; a model of all concepts leaves them out.
    """
    rows = {row.concept: row for row in counted.concepts}
    chosen = definition.concepts or tuple(
        sorted(name for name, row in rows.items() if name not in negative_concepts and _is_class(row))
    )
    # An input that shows the negative concept is a negative of every other one.
    negative_row = rows.get(definition.negative_concept)
    none_of_them = negative_row.positives if negative_row is not None else 0
    unknown = [name for name in chosen if name not in rows]
    findings = error_about("CONCEPT_NOT_FOUND", unknown, "the app has no concept {}", "the app has no concepts {}")
    counts = [
        vision.ConceptCount(name, rows[name].positives, rows[name].negatives + none_of_them, rows[name].numbers)
        for name in chosen
        if name in rows
    ]
    if not unknown:
        # Else that concepts are missing would be told once more, as too few of them.
        findings += check_counts(
            cast(HeadType, definition.type),
            counts,
            closed_environment=definition.closed_environment,
            images=counted.annotated_inputs,
        )
    if counted.pending_inputs:
        text = f"{counted.pending_inputs} images still wait for their vector and take no part"
        findings.append(Finding("PENDING_INPUTS", Severity.HINT, text))
    names = tuple((rows[name].display_name if name in rows else "") or name for name in chosen)
    return Preflight(tuple(chosen), names, tuple(findings))


def _is_class(row: ConceptCount) -> bool:
    """Whether a concept is one to tell apart, for a model of all concepts."""
    if row.positives or row.negatives:
        return True
    # Numbers alone are there for a regression; an unused `not-…` is left of a model that was deleted.
    return not row.numbers and not row.concept.startswith("not-")


def look_at_tests(definition: ModelDefinition, tests: TestInputCount) -> list[Finding]:
    """Judge what there is to evaluate a model on, where it is to be evaluated on the pictures marked as test."""
    usable = {"multi_class": tests.positives, "regression": tests.numbers}.get(definition.type, tests.annotated)
    if usable:
        return []
    wanted = "a number" if definition.type == "regression" else "a label"
    images = {0: "no image is marked as test", 1: "1 image is marked as test"}.get(
        tests.inputs, f"{tests.inputs} images are marked as test"
    )
    seen = f", none of which has {wanted} of the model's concepts and its vector" if tests.inputs else ""
    message = f"{images}{seen}: mark and label some, or choose another evaluation"
    return [Finding("NO_TEST_IMAGES", Severity.ERROR, message)]


def refuse(name: str, findings: Sequence[Finding]) -> None:
    """Refuse the training when a finding is an error.

    Raises:
        PreconditionError: Its reason is `TRAINING_` and that of the first error; its message holds all of them, its
            metadata the first concepts they are about, for the headers of an answer hold but so much.
    """
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if not errors:
        return
    reason = f"TRAINING_{errors[0].reason}"
    concepts = ",".join([name for finding in errors for name in finding.concepts][:MOST_CONCEPTS])
    message = "; ".join(finding.message for finding in errors)
    raise PreconditionError(
        reason,
        f"{name} cannot be trained: {message}",
        metadata={"model": name, "concepts": concepts, "reasons": ",".join(finding.reason for finding in errors)},
    )
