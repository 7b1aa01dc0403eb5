"""What is done about suggestions: labels changed at dataset if they still are as they were seen, then noted here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lensmith_api.internal.v1.curation_service_pb2 import LabelSwap, SwapLabelsRequest
from lensmith_api.internal.v1.training_data_service_pb2 import TrainingLabel
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionAction, SuggestionLabel
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import LensmithError, NotFoundError, PreconditionError, from_status
from lensmith_registry import suggestion_store
from lensmith_registry.converters import message_from_json
from lensmith_registry.suggestion_store import SuggestionRow, SuggestionStateName
from lensmith_registry.version_store import VersionRow

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceAsyncStub

__all__ = ["Action", "Decision", "Decisions", "actions_of"]

Action = Literal["APPLY", "REMOVE_LABELS", "DISMISS"]
_BATCH = 200
"""Swaps of one call: each names all concepts of its model, of which there may be thousands."""

_STALE = ("LABELS_CHANGED", "INPUT_NOT_FOUND")
_OUTCOMES: dict[Action, SuggestionStateName] = {
    "APPLY": "ACCEPTED",
    "REMOVE_LABELS": "ACCEPTED",
    "DISMISS": "DISMISSED",
}


@dataclass
class Decision:
    """What became of one suggestion.

    Attributes:
        row: The suggestion as it stood before.
        state: Its state now.
        error: Why nothing was done about it.
    """

    row: SuggestionRow
    state: SuggestionStateName
    error: LensmithError | None = None


def actions_of(suggestion: Suggestion) -> list[SuggestionAction.ValueType]:
    """What may be done about a suggestion: only dismiss it, where it names no picture."""
    actions = []
    if suggestion.input:
        actions.append(SuggestionAction.SUGGESTION_ACTION_APPLY)
    if suggestion.input and suggestion.current:
        actions.append(SuggestionAction.SUGGESTION_ACTION_REMOVE_LABELS)
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

    async def decide(
        self, version: VersionRow, rows: Sequence[SuggestionRow], action: Action, actor: str
    ) -> list[Decision]:
        """Do what is asked about each suggestion, and say what became of it.

        Raises:
            LensmithError: dataset is away; what was done is found done by the next call.
        """
        decisions = [_judged(row, action) for row in rows]
        todo = [one for one in decisions if one.error is None and one.row.state == "OPEN"]
        for start in range(0, len(todo), _BATCH):
            batch = todo[start : start + _BATCH]
            if action != "DISMISS":
                await self._swap(version, batch, action, actor)
            await self._note(version, batch, actor)
        return decisions

    async def _swap(self, version: VersionRow, batch: Sequence[Decision], action: Action, actor: str) -> None:
        model = message_from_json(version.model_snapshot, Model())
        swaps = [_swap_of(model, message_from_json(one.row.body, Suggestion()), action) for one in batch]
        answer = await self._curation.SwapLabels(SwapLabelsRequest(app_id=version.app_id, actor=actor, swaps=swaps))
        for one, status in zip(batch, answer.statuses, strict=True):
            if status.code:
                one.error = from_status(status)
                one.state = "STALE" if one.error.reason in _STALE else "OPEN"

    async def _note(self, version: VersionRow, batch: Sequence[Decision], actor: str) -> None:
        decided: dict[SuggestionStateName, list[int]] = {}
        for one in batch:
            if one.state != "OPEN":
                decided.setdefault(one.state, []).append(one.row.number)
        dismissed = [one.row.fingerprint for one in batch if one.state == "DISMISSED"]
        async with self._database.transaction(version.app_id) as connection:
            await suggestion_store.decide(connection, version, decided, actor)
            await suggestion_store.dismiss(connection, version, dismissed, actor)


def _judged(row: SuggestionRow, action: Action) -> Decision:
    outcome = _OUTCOMES[action]
    if row.state != "OPEN":
        if row.state == outcome:
            return Decision(row, row.state)
        return Decision(
            row,
            row.state,
            PreconditionError(
                "SUGGESTION_DECIDED", f"it is {row.state} already", metadata={"state": row.state, "actor": row.actor}
            ),
        )
    wanted = SuggestionAction.Value(f"SUGGESTION_ACTION_{action}")
    if wanted not in actions_of(message_from_json(row.body, Suggestion())):
        why = "there is no label to change; do what it says, or dismiss it"
        return Decision(row, row.state, PreconditionError("SUGGESTION_ACTION_NOT_POSSIBLE", why))
    return Decision(row, outcome)


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
