"""SuggestionService: what to fix in the data of a model and what to label next, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.training_data_service_pb2 import NameInputsRequest
from lensmith_api.v1 import suggestion_service_pb2_grpc
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionAction, SuggestionKind, SuggestionState
from lensmith_api.v1.suggestion_service_pb2 import (
    AcceptedSuggestion,
    AcceptSuggestionsRequest,
    AcceptSuggestionsResponse,
    ListSuggestionsRequest,
    ListSuggestionsResponse,
    SuggestionCount,
)
from lensmith_platform import timestamps
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import OK, ForbiddenError, InvalidInputError, PreconditionError, to_status
from lensmith_platform.principal import Principal, addressed_app, current_call
from lensmith_platform.resource_names import parse
from lensmith_registry import suggestion_store, version_store
from lensmith_registry.converters import message_from_json
from lensmith_registry.suggestion_decisions import Action, Decision, Decisions, actions_of, missing
from lensmith_registry.suggestion_store import Filter, SuggestionRow
from lensmith_registry.version_store import VersionRow
from lensmith_vision.curation.wrong_labels import REMOVED_SCORES, REPLACED_SCORES
from lensmith_vision.heads import HeadType

if TYPE_CHECKING:  # the generated stubs name these classes for type checkers only
    from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceAsyncStub
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["SuggestionServicer"]

_VERSION = "apps/{app}/models/{model}/versions/{version}"
_MOST_AT_ONCE = 10_000
_MERGE_SCOPE = "Models:Add"
_TYPES: dict[int, HeadType] = {
    ModelType.MODEL_TYPE_MULTI_CLASS: "multi_class",
    ModelType.MODEL_TYPE_MULTI_LABEL: "multi_label",
    ModelType.MODEL_TYPE_REGRESSION: "regression",
}
_ACTIONS: dict[int, Action] = {
    SuggestionAction.SUGGESTION_ACTION_UNSPECIFIED: "APPLY",
    SuggestionAction.SUGGESTION_ACTION_APPLY: "APPLY",
    SuggestionAction.SUGGESTION_ACTION_REMOVE_LABELS: "REMOVE_LABELS",
    SuggestionAction.SUGGESTION_ACTION_DISMISS: "DISMISS",
    SuggestionAction.SUGGESTION_ACTION_MERGE_CONCEPTS: "MERGE_CONCEPTS",
}


class SuggestionServicer(suggestion_service_pb2_grpc.SuggestionServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        pager: Makes and reads page tokens.
        curation: dataset, which changes labels.
        training_data: dataset, which knows how inputs are called.
    """

    def __init__(
        self,
        database: Database,
        pager: Pager,
        curation: CurationServiceAsyncStub,
        training_data: TrainingDataServiceAsyncStub,
    ) -> None:
        self._database = database
        self._pager = pager
        self._decisions = Decisions(database, curation)
        self._training_data = training_data

    async def ListSuggestions(self, request: ListSuggestionsRequest, context: object) -> ListSuggestionsResponse:
        """List what a version suggests, the most useful first."""
        wanted = Filter(_kind(request.kind), request.concept, _state(request.state))
        size = self._pager.size(request.page_size)
        async with self._database.transaction(addressed_app().app_id) as connection:
            version = await _version(connection, request.parent)
            fingerprint = f"suggestions/{version.uid}/{wanted.kind}/{wanted.state}/{wanted.concept}"
            position = self._pager.decode(request.page_token, fingerprint)
            after = int(str(position[0])) if position else 0
            if not await suggestion_store.exists(connection, version):
                return await _pending(connection, version)
            rows = await suggestion_store.list_page(connection, version, wanted, after, size + 1)
            counts = await suggestion_store.count(connection, version)
        token = self._pager.encode((rows[size - 1].number,), fingerprint) if len(rows) > size else ""
        return ListSuggestionsResponse(
            suggestions=await self._shown(version, rows[:size]),
            next_page_token=token,
            counts=[
                SuggestionCount(kind=SuggestionKind.Value(f"SUGGESTION_KIND_{kind}"), open=left, total=total)
                for kind, left, total in counts
            ],
        )

    async def AcceptSuggestions(self, request: AcceptSuggestionsRequest, context: object) -> AcceptSuggestionsResponse:
        """Decide on suggestions, each with a status of its own."""
        call = current_call()
        if bool(request.suggestions) == request.HasField("all"):
            raise InvalidInputError("SUGGESTIONS_REQUIRED", "name suggestions, or give `all` of a kind, not both")
        if request.action not in _ACTIONS:
            raise InvalidInputError("SUGGESTION_ACTION_UNKNOWN", f"there is no action number {request.action}")
        _check_merge(request, call.principal)
        async with self._database.transaction(addressed_app().app_id) as connection:
            version = await _version(connection, request.parent)
            if request.HasField("all"):
                rows = await _all_open(connection, version, request)
                numbers = list(rows)
            else:
                numbers = [_number(version, name) for name in request.suggestions]
                rows = await suggestion_store.by_numbers(connection, version, numbers)
        chosen = [rows[number] for number in dict.fromkeys(numbers) if number in rows]
        made: dict[int, Decision] = {}
        actions: dict[int, Action] = {}
        for action, some in _by_action(version, request, chosen):
            actions |= {row.number: action for row in some}
            decisions = await self._decisions.decide(version, some, action, call.principal.actor, request.merge_into)
            made |= {one.row.number: one for one in decisions}
        asked = _ACTIONS[request.action]
        results = [_result(version, number, made.get(number), actions.get(number, asked)) for number in numbers]
        accepted = sum(1 for result in results if not result.status.code)
        return AcceptSuggestionsResponse(
            results=results, accepted_count=accepted, skipped_count=len(results) - accepted
        )

    async def _shown(self, version: VersionRow, rows: Sequence[SuggestionRow]) -> list[Suggestion]:
        """Rows as callers see them: inputs by the names that they have now."""
        # A thousand take a fifth of a second.
        shown = await asyncio.to_thread(lambda: [message_from_json(row.body, Suggestion()) for row in rows])
        uids = list(dict.fromkeys(uid for one in shown for uid in _uids(one)))
        named = await self._training_data.NameInputs(NameInputsRequest(app_id=version.app_id, input_uids=uids))
        names = {uid: f"apps/{version.app_name}/inputs/{name}" for uid, name in zip(uids, named.input_ids, strict=True)}
        await asyncio.to_thread(_complete, version, shown, rows, names)
        return shown


def _complete(
    version: VersionRow, shown: Sequence[Suggestion], rows: Sequence[SuggestionRow], names: Mapping[str, str]
) -> None:
    """Add to suggestions what their rows know of them, and put names in the place of uids."""
    for one, row in zip(shown, rows, strict=True):
        one.actions.extend(actions_of(one))
        one.name = _name(version, row.number)
        one.input = names.get(one.input, "")
        related = [names[uid] for uid in one.related_inputs]
        del one.related_inputs[:]
        one.related_inputs.extend(related)
        for asked in one.inputs_to_label:
            asked.input = names[asked.input]
        one.state = SuggestionState.Value(f"SUGGESTION_STATE_{row.state}")
        one.actor = row.actor
        decided = timestamps.to_proto(row.decided_at)
        if decided is not None:
            one.decide_time.CopyFrom(decided)


def _uids(suggestion: Suggestion) -> list[str]:
    asked = [one.input for one in suggestion.inputs_to_label]
    return [uid for uid in (suggestion.input, *suggestion.related_inputs, *asked) if uid]


def _check_merge(request: AcceptSuggestionsRequest, principal: Principal) -> None:
    """Check that two concepts are merged by name, by somebody who may change models."""
    if request.action != SuggestionAction.SUGGESTION_ACTION_MERGE_CONCEPTS:
        if request.merge_into:
            why = "is for MERGE_CONCEPTS only"
            raise InvalidInputError("MERGE_INTO_INVALID", f"merge_into {why}", field_violations=[("merge_into", why)])
        return
    if len(request.suggestions) != 1 or not request.merge_into:
        raise InvalidInputError(
            "MERGE_INTO_INVALID",
            "concepts are merged by naming one suggestion and, in merge_into, the concept that stays",
            field_violations=[("merge_into", "must name the concept that stays")],
        )
    if not principal.has(_MERGE_SCOPE):
        raise ForbiddenError(
            "SCOPE_MISSING",
            f"this key lacks the scope {_MERGE_SCOPE}, which merging concepts needs",
            metadata={"scope": _MERGE_SCOPE, "method": "AcceptSuggestions"},
        )


async def _version(connection: Connection, name: str) -> VersionRow:
    parts = parse(_VERSION, name, field="parent")
    text = parts["version"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(
            "RESOURCE_NAME_INVALID",
            f"parent ends in a version number such as 3, not {text[:50]!r}",
            field_violations=[("parent", "must end in a version number")],
        )
    row = await version_store.get_version(connection, addressed_app().app_id, parts["model"], int(text))
    if row.state != "READY":
        raise PreconditionError(
            "VERSION_NOT_READY", f"{row.name} is {row.state}, not READY", metadata={"state": row.state}
        )
    return row


async def _pending(connection: Connection, version: VersionRow) -> ListSuggestionsResponse:
    """Say that the data is being looked through, or why it never will be."""
    if not version.out_of_fold:
        raise PreconditionError(
            "SUGGESTIONS_NOT_MADE", f"{version.name} was not evaluated here out of fold: train the model again"
        )
    if await suggestion_store.is_superseded(connection, version):
        raise PreconditionError(
            "SUGGESTIONS_NOT_MADE", f"{version.name} was followed by a newer version at once: ask that one"
        )
    if await suggestion_store.is_given_up(connection, version):
        raise PreconditionError(
            "SUGGESTIONS_NOT_MADE", f"{version.name} could not be looked through for a week: train the model again"
        )
    return ListSuggestionsResponse(pending=True)


async def _all_open(
    connection: Connection, version: VersionRow, request: AcceptSuggestionsRequest
) -> dict[int, SuggestionRow]:
    kind = _kind(request.all.kind)
    # A wrong label changed without a look must be one indeed; to say that all are right takes no certainty.
    blind = kind == "WRONG_LABEL" and _ACTIONS[request.action] != "DISMISS"
    usual = REMOVED_SCORES[_type(version)] if blind else 0.0
    least = request.all.min_score if request.all.HasField("min_score") else usual
    wanted = Filter(kind, request.all.concept, "OPEN", least)
    rows = await suggestion_store.list_page(connection, version, wanted, 0, _MOST_AT_ONCE)
    return {row.number: row for row in rows}


def _by_action(
    version: VersionRow, request: AcceptSuggestionsRequest, rows: Sequence[SuggestionRow]
) -> list[tuple[Action, list[SuggestionRow]]]:
    """Say what to do about each: without a look, a label that is wrong is not replaced by one that may be wrong too."""
    action = _ACTIONS[request.action]
    if not request.HasField("all") or request.all.HasField("min_score") or action != "APPLY":
        return [(action, list(rows))]
    least = REPLACED_SCORES[_type(version)]
    unsure = [row for row in rows if row.kind == "WRONG_LABEL" and row.score < least]
    taken = {row.number for row in unsure}
    return [("APPLY", [row for row in rows if row.number not in taken]), ("REMOVE_LABELS", unsure)]


def _type(version: VersionRow) -> HeadType:
    return _TYPES[message_from_json(version.model_snapshot, Model()).type]


def _result(version: VersionRow, number: int, decision: Decision | None, action: Action) -> AcceptedSuggestion:
    name, done = _name(version, number), SuggestionAction.Value(f"SUGGESTION_ACTION_{action}")
    if decision is None:
        return AcceptedSuggestion(suggestion=name, status=to_status(missing(name)), action=done)
    return AcceptedSuggestion(
        suggestion=name,
        status=OK if decision.error is None else to_status(decision.error),
        state=SuggestionState.Value(f"SUGGESTION_STATE_{decision.state}"),
        label_next_suggestions=[_name(version, other) for other in decision.label_next],
        action=done,
    )


def _name(version: VersionRow, number: int) -> str:
    return f"{version.name}/suggestions/{number}"


def _number(version: VersionRow, name: str) -> int:
    text = name.removeprefix(f"{version.name}/suggestions/")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(
            "RESOURCE_NAME_INVALID",
            f"{name[:100]!r} is no suggestion of {version.name}",
            field_violations=[("suggestions", "must be names of suggestions of the parent, or their numbers")],
        )
    return int(text)


def _kind(kind: int) -> str:
    if kind not in SuggestionKind.values():
        raise InvalidInputError("SUGGESTION_KIND_UNKNOWN", f"there is no kind of suggestions number {kind}")
    name = SuggestionKind.Name(SuggestionKind.ValueType(kind)).removeprefix("SUGGESTION_KIND_")
    return "" if name == "UNSPECIFIED" else name


def _state(state: int) -> str:
    if state not in SuggestionState.values():
        raise InvalidInputError("SUGGESTION_STATE_UNKNOWN", f"there is no state of suggestions number {state}")
    name = SuggestionState.Name(SuggestionState.ValueType(state)).removeprefix("SUGGESTION_STATE_")
    return "" if name == "UNSPECIFIED" else name
