"""Suggestions to messages and back."""

from collections.abc import Iterable, Mapping
from datetime import UTC

from lensmith import suggestion_types as types
from lensmith.errors import from_status
from lensmith_api.v1 import suggestion_pb2 as pb
from lensmith_api.v1 import suggestion_service_pb2 as service_pb

KIND = {
    pb.SUGGESTION_KIND_WRONG_LABEL: types.SuggestionKind.WRONG_LABEL,
    pb.SUGGESTION_KIND_CONFUSED_CONCEPTS: types.SuggestionKind.CONFUSED_CONCEPTS,
    pb.SUGGESTION_KIND_FEW_IMAGES: types.SuggestionKind.FEW_IMAGES,
    pb.SUGGESTION_KIND_DUPLICATE: types.SuggestionKind.DUPLICATE,
    pb.SUGGESTION_KIND_OUTLIER: types.SuggestionKind.OUTLIER,
    pb.SUGGESTION_KIND_LABEL_NEXT: types.SuggestionKind.LABEL_NEXT,
}
KIND_TO_PROTO = {kind: number for number, kind in KIND.items()}
STATE = {
    pb.SUGGESTION_STATE_OPEN: types.SuggestionState.OPEN,
    pb.SUGGESTION_STATE_ACCEPTED: types.SuggestionState.ACCEPTED,
    pb.SUGGESTION_STATE_DISMISSED: types.SuggestionState.DISMISSED,
    pb.SUGGESTION_STATE_STALE: types.SuggestionState.STALE,
}
STATE_TO_PROTO = {state: number for number, state in STATE.items()}
ACTION = {
    pb.SUGGESTION_ACTION_APPLY: types.SuggestionAction.APPLY,
    pb.SUGGESTION_ACTION_REMOVE_LABELS: types.SuggestionAction.REMOVE_LABELS,
    pb.SUGGESTION_ACTION_DISMISS: types.SuggestionAction.DISMISS,
    pb.SUGGESTION_ACTION_MERGE_CONCEPTS: types.SuggestionAction.MERGE_CONCEPTS,
}
ACTION_TO_PROTO = {action: number for number, action in ACTION.items()}


def from_proto(message: pb.Suggestion) -> types.Suggestion | None:
    """A suggestion; None where it is of a kind that a later version of the platform knows."""
    if message.kind not in KIND or message.state not in STATE:
        return None
    decided = message.decide_time
    return types.Suggestion(
        name=message.name,
        number=_number(message.name),
        kind=KIND[message.kind],
        message=message.message,
        score=message.score,
        concept=message.concept,
        other_concept=message.other_concept,
        input=message.input.rsplit("/", 1)[-1],
        related_inputs=tuple(name.rsplit("/", 1)[-1] for name in message.related_inputs),
        current=_labels(message.current),
        desired=_labels(message.desired),
        actions=tuple(ACTION[action] for action in message.actions if action in ACTION),
        state=STATE[message.state],
        actor=message.actor,
        decided_at=decided.ToDatetime(tzinfo=UTC) if message.HasField("decide_time") else None,
        inputs_to_label=tuple(_to_label(one) for one in message.inputs_to_label),
        few_negatives=message.few_negatives,
    )


def overview(message: service_pb.ListSuggestionsResponse) -> types.SuggestionOverview:
    """How many of each kind there are."""
    return types.SuggestionOverview(
        pending=message.pending,
        counts=tuple(
            types.SuggestionCount(KIND[count.kind], count.open, count.total)
            for count in message.counts
            if count.kind in KIND
        ),
    )


def decided(message: service_pb.AcceptedSuggestion) -> types.DecidedSuggestion:
    """What became of one suggestion."""
    return types.DecidedSuggestion(
        name=message.suggestion,
        state=STATE.get(message.state),
        error=from_status(message.status) if message.status.code else None,
        label_next=tuple(_number(name) for name in message.label_next_suggestions),
        action=ACTION.get(message.action),
    )


def _number(name: str) -> int:
    return int(name.rsplit("/", 1)[-1])


def _to_label(message: pb.InputToLabel) -> types.InputToLabel:
    return types.InputToLabel(
        input=message.input.rsplit("/", 1)[-1],
        concept=message.label.concept,
        value=_value(message.label),
        score=message.score,
    )


def _labels(messages: Iterable[pb.SuggestionLabel]) -> Mapping[str, bool | float]:
    return {message.concept: _value(message) for message in messages}


def _value(message: pb.SuggestionLabel) -> bool | float:
    return message.number if message.WhichOneof("value") == "number" else message.positive
