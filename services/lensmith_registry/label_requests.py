"""What becomes of a suggestion about whole concepts once it is followed: pictures on the list of what to label next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from lensmith_api.v1.suggestion_pb2 import InputToLabel, Suggestion, SuggestionKind, SuggestionLabel
from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry import suggestion_store
from lensmith_registry.converters import json_from_message, message_from_json
from lensmith_registry.suggestion_store import NewSuggestion, SuggestionRow
from lensmith_registry.version_store import VersionRow

__all__ = ["ASKING_KINDS", "ask_for_labels", "fingerprint_of"]

ASKING_KINDS = ("FEW_IMAGES", "CONFUSED_CONCEPTS")
"""What is followed by asking people for labels."""


async def ask_for_labels(connection: Connection, version: VersionRow, row: SuggestionRow) -> list[int]:
    """Put the pictures of a suggestion on the list of a version, but those that are there, or were dismissed.

    Returns:
        Numbers of the new suggestions, and of open ones about the other pictures.
    """
    suggestion = message_from_json(row.body, Suggestion())
    # Negatives are asked for of each concept: whatever else is asked about a picture says nothing of this one.
    return await suggestion_store.add(
        connection, version, _label_next(suggestion), of_each_concept=suggestion.few_negatives
    )


def fingerprint_of(suggestion: Suggestion) -> bytes:
    """Hash what a suggestion says, without how sure it is."""

    def said(labels: Sequence[SuggestionLabel]) -> list[tuple[str, float]]:
        return sorted(
            (one.concept, one.number if one.WhichOneof("value") == "number" else one.positive) for one in labels
        )

    parts = [
        suggestion.kind,
        suggestion.concept,
        suggestion.other_concept,
        suggestion.input,
        said(list(suggestion.current)),
    ]
    if suggestion.few_negatives:
        parts.append("few_negatives")
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _label_next(suggestion: Suggestion) -> list[NewSuggestion]:
    concepts = [one for one in (suggestion.concept, suggestion.other_concept) if one]
    return [_asked(one, concepts) for one in suggestion.inputs_to_label]


def _asked(one: InputToLabel, concepts: Sequence[str]) -> NewSuggestion:
    first = one.label.concept
    second = next((concept for concept in concepts if concept != first), "")
    if one.label.WhichOneof("value") == "number":
        message = f"say how much {first} it has, {one.label.number:.4g} as it seems now"
    elif not one.label.positive:
        message = f"not {first} ({100 * one.score:.0f} %)?"
    else:
        message = f"{first} ({100 * one.score:.0f} %)" + (f" or {second}?" if second else "?")
    body = Suggestion(
        kind=SuggestionKind.SUGGESTION_KIND_LABEL_NEXT,
        message=message,
        score=one.score,
        concept=first,
        other_concept=second,
        input=one.input,
        desired=[one.label],
    )
    return NewSuggestion(
        input=one.input,
        kind="LABEL_NEXT",
        concept=first,
        other_concept=second,
        score=one.score,
        body=json_from_message(body),
        fingerprint=fingerprint_of(body),
    )
