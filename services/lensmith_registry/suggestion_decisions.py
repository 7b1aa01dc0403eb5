"""What is done about suggestions: labels changed at dataset if they still are as they were seen, then noted here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lensmith_api.internal.v1.curation_service_pb2 import LabelSwap, SwapLabelsRequest
from lensmith_api.internal.v1.training_data_service_pb2 import TrainingLabel
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionAction, SuggestionKind, SuggestionLabel
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import LensmithError, NotFoundError, PreconditionError, from_status
from lensmith_registry import standing_suggestion_store, suggestion_store
from lensmith_registry.concept_merging import ConceptMerging
from lensmith_registry.converters import message_from_json
from lensmith_registry.label_requests import ASKING_KINDS, ask_for_labels
from lensmith_registry.suggestion_store import SuggestionRow, SuggestionStateName
from lensmith_registry.version_store import VersionRow

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceAsyncStub

__all__ = ["Action", "Decision", "Decisions", "actions_of"]

Action = Literal["APPLY", "REMOVE_LABELS", "DISMISS", "MERGE_CONCEPTS"]
_BATCH = 200
"""Swaps of one call, at most."""
_NAMES = 200_000
"""Concepts that those of one call name, about: each names all of its model where concepts exclude each other."""

_STALE = ("LABELS_CHANGED", "INPUT_NOT_FOUND")
_OUTCOMES: dict[Action, SuggestionStateName] = {
    "APPLY": "ACCEPTED",
    "REMOVE_LABELS": "ACCEPTED",
    "DISMISS": "DISMISSED",
    "MERGE_CONCEPTS": "ACCEPTED",
}


@dataclass
class Decision:
    """What became of one suggestion.

    Attributes:
        row: The suggestion as it stood before.
        state: Its state now.
        error: Why nothing was done about it.
        label_next: Numbers of suggestions of what to label next about the pictures that it asks for.
    """

    row: SuggestionRow
    state: SuggestionStateName
    error: LensmithError | None = None
    label_next: list[int] = field(default_factory=list)


def actions_of(suggestion: Suggestion) -> list[SuggestionAction.ValueType]:
    """What may be done about a suggestion."""
    actions = [SuggestionAction.SUGGESTION_ACTION_APPLY]
    if suggestion.input and suggestion.current:
        actions.append(SuggestionAction.SUGGESTION_ACTION_REMOVE_LABELS)
    if suggestion.kind == SuggestionKind.SUGGESTION_KIND_CONFUSED_CONCEPTS:
        actions.append(SuggestionAction.SUGGESTION_ACTION_MERGE_CONCEPTS)
    return [*actions, SuggestionAction.SUGGESTION_ACTION_DISMISS]


class Decisions:
    """Decides on suggestions. Idempotent: what is decided already as asked is fine, and labels are changed once.

    Args:
        database: Of the service's role.
        curation: dataset, which changes labels.
    """

    def __init__(self, database: Database, curation: CurationServiceAsyncStub) -> None:
        self._database = database
        self._curation = curation
        self._merging = ConceptMerging(database, curation)

    async def decide(
        self, version: VersionRow, rows: Sequence[SuggestionRow], action: Action, actor: str, merge_into: str = ""
    ) -> list[Decision]:
        """Do what is asked about each suggestion, and say what became of it.

        Args:
            version: Whose suggestions they are.
            rows: The suggestions; one to merge the concepts of.
            action: What to do.
            actor: Who decides.
            merge_into: The concept that stays of those that are merged.

        Raises:
            LensmithError: dataset is away; what was done is found done by the next call. Or concepts cannot be merged.
        """
        # Thousands take half a second.
        decisions = await asyncio.to_thread(lambda: [_judged(row, action) for row in rows])
        # What is followed is followed again, which changes nothing: it may have been followed in another way.
        merge, again = action == "MERGE_CONCEPTS", action != "DISMISS"
        todo = [one for one in decisions if one.error is None and (again or one.row.state != one.state)]
        model = message_from_json(version.model_snapshot, Model())
        size = max(1, min(_BATCH, _NAMES // max(1, len(model.concepts))))
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            if merge:
                for one in batch:
                    await self._merging.merge(version, (one.row.concept, one.row.other_concept), merge_into, actor)
            elif action != "DISMISS":
                swapped = [one for one in batch if one.row.kind not in ASKING_KINDS]
                await self._swap(version.app_id, model, swapped, action, actor)
            await self._note(version, batch, action, actor)
        return decisions

    async def _swap(self, app_id: int, model: Model, batch: Sequence[Decision], action: Action, actor: str) -> None:
        if not batch:
            return
        swaps = await asyncio.to_thread(
            lambda: [_swap_of(model, message_from_json(one.row.body, Suggestion()), action) for one in batch]
        )
        answer = await self._curation.SwapLabels(SwapLabelsRequest(app_id=app_id, actor=actor, swaps=swaps))
        for one, status in zip(batch, answer.statuses, strict=True):
            if status.code and one.row.state == "ACCEPTED":
                one.error = _otherwise(one.row)
            elif status.code:
                one.error = from_status(status)
                one.state = "STALE" if one.error.reason in _STALE else "OPEN"

    async def _note(self, version: VersionRow, batch: Sequence[Decision], action: Action, actor: str) -> None:
        async with self._database.transaction(version.app_id) as connection:
            numbers = [one.row.number for one in batch]
            rows = await suggestion_store.by_numbers(connection, version, numbers, lock=True)
            decided: dict[SuggestionStateName, list[int]] = {}
            for one in batch:
                if _holds(one, rows[one.row.number], action):
                    decided.setdefault(one.state, []).append(one.row.number)
            dismissed = [one.row.fingerprint for one in batch if one.state == "DISMISSED" and one.error is None]
            await suggestion_store.decide(connection, version, decided, actor)
            await suggestion_store.dismiss(connection, version, dismissed, actor)
            await standing_suggestion_store.forget_standing(connection, version, dismissed)
            standing = [one for one in batch if action == "APPLY" and one.error is None and _asks(one)]
            await standing_suggestion_store.put_standing(
                connection, version, [one.row.fingerprint for one in standing], actor
            )
            for one in standing:
                one.label_next = await ask_for_labels(connection, version, one.row)


def _asks(decision: Decision) -> bool:
    """Whether it is followed by asking for labels."""
    return decision.state == "ACCEPTED" and decision.row.kind in ASKING_KINDS


def _holds(decision: Decision, row: SuggestionRow, action: Action) -> bool:
    """Hold a decision against what is stored, for others decide meanwhile; tell whether it is to be noted.

    Who changed labels is right, whatever was noted by then: the others found them changed, or looked at none.
    """
    if decision.state in ("OPEN", row.state):
        return False
    followed = decision.error is None and decision.state == "ACCEPTED" and not (action == "APPLY" and _asks(decision))
    if row.state == "OPEN" or followed or _ends(row, decision.state):
        return True
    decision.state, decision.error = row.state, _decided(row)
    return False


def _ends(row: SuggestionRow, outcome: SuggestionStateName) -> bool:
    """Whether it would end what is followed for good."""
    return row.kind in ASKING_KINDS and (row.state, outcome) == ("ACCEPTED", "DISMISSED")


def _decided(row: SuggestionRow) -> PreconditionError:
    why = f"it is {row.state} already"
    return PreconditionError("SUGGESTION_DECIDED", why, metadata={"state": row.state, "actor": row.actor})


def _otherwise(row: SuggestionRow) -> PreconditionError:
    why = "it was ACCEPTED otherwise, or its labels changed since"
    return PreconditionError("SUGGESTION_DECIDED", why, metadata={"state": row.state, "actor": row.actor})


def _judged(row: SuggestionRow, action: Action) -> Decision:
    outcome = _OUTCOMES[action]
    wanted = SuggestionAction.Value(f"SUGGESTION_ACTION_{action}")
    possible = actions_of(message_from_json(row.body, Suggestion()))
    if wanted not in possible:
        names = [SuggestionAction.Name(one).removeprefix("SUGGESTION_ACTION_") for one in possible]
        why = f"{action} cannot be done about this suggestion, only {' or '.join(names)}"
        return Decision(row, row.state, PreconditionError("SUGGESTION_ACTION_NOT_POSSIBLE", why))
    if row.state in ("OPEN", outcome) or _ends(row, outcome):
        return Decision(row, outcome)
    return Decision(row, row.state, _decided(row))


def _swap_of(model: Model, suggestion: Suggestion, action: Action) -> LabelSwap:
    """Say which labels must be there and which come instead; all of the model's where concepts exclude each other."""
    current = list(suggestion.current)
    desired: Iterable[SuggestionLabel] = suggestion.desired
    if action == "REMOVE_LABELS":
        desired = [label for label in current if label.concept != suggestion.concept]
    concepts = {label.concept for label in (*current, *suggestion.desired)} | {suggestion.concept}
    if model.type == ModelType.MODEL_TYPE_MULTI_CLASS:
        concepts |= set(model.concepts)
    return LabelSwap(
        input_uid=suggestion.input,
        concepts=sorted(concepts),
        expected=[_label(label) for label in current],
        desired=[_label(label) for label in desired],
    )


def _label(label: SuggestionLabel) -> TrainingLabel:
    if label.WhichOneof("value") == "number":
        return TrainingLabel(concept=label.concept, number=label.number)
    return TrainingLabel(concept=label.concept, positive=label.positive)


def missing(name: str) -> NotFoundError:
    """Say that a suggestion does not exist."""
    return NotFoundError("SUGGESTION_NOT_FOUND", f"there is no suggestion {name}", metadata={"suggestion": name})
