"""Following suggestions of a kind in one call, without a trainer: which of them are meant."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

import asyncpg
import grpc
import numpy as np
import pytest

from lensmith_api.internal.v1.suggestion_job_service_pb2 import PutSuggestionsRequest
from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import SuggestionJobServiceStub
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.suggestion_pb2 import (
    Suggestion,
    SuggestionAction,
    SuggestionKind,
    SuggestionLabel,
    SuggestionState,
)
from lensmith_api.v1.suggestion_service_pb2 import (
    AcceptedSuggestion,
    AcceptSuggestionsRequest,
    AcceptSuggestionsResponse,
    AllSuggestions,
    ListSuggestionsRequest,
)
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from tests.lensmith_registry.peers import labels_of
from tests.lensmith_registry.rig import DIM, SCOPES, TRASH, Rig
from tests.polling import until

WRONG = SuggestionKind.SUGGESTION_KIND_WRONG_LABEL
APPLY, REMOVE, DISMISS = (
    SuggestionAction.SUGGESTION_ACTION_APPLY,
    SuggestionAction.SUGGESTION_ACTION_REMOVE_LABELS,
    SuggestionAction.SUGGESTION_ACTION_DISMISS,
)
ACCEPTED = SuggestionState.SUGGESTION_STATE_ACCEPTED
FIXER = "key-of-a-fixer"
SCORES = {"sure": 0.97, "likely": 0.8, "doubtful": 0.4}


class Accept(Protocol):
    """Decides on all."""

    async def __call__(self, action: SuggestionAction.ValueType, **wanted: float) -> AcceptSuggestionsResponse: ...


def _wrong(uid: str, score: float) -> Suggestion:
    return Suggestion(
        kind=WRONG,
        message="labelled metal, but looks like glass",
        score=score,
        concept="metal",
        other_concept="glass",
        input=uid,
        current=[SuggestionLabel(concept="metal", positive=True)],
        desired=[SuggestionLabel(concept="glass", positive=True)],
    )


async def test_only_sure_wrong_labels_are_followed_when_no_score_is_given(rig: Rig) -> None:
    version = await rig.trained()
    accept, labels = await _suggested(rig, version)
    answer = await accept(APPLY)
    assert labels() == {"sure": {"glass": True}, "likely": {}, "doubtful": {"metal": True}}
    assert [(one.status.code, one.action) for one in answer.results] == [(0, APPLY), (0, REMOVE)]
    # Again, nothing of that is left.
    assert not (await accept(APPLY)).results


async def test_labels_are_put_right_or_taken_away_as_asked_when_a_score_is_given(rig: Rig) -> None:
    version = await rig.trained()
    accept, labels = await _suggested(rig, version)
    assert (await accept(APPLY, min_score=0.95)).accepted_count == 1
    assert labels() == {"sure": {"glass": True}, "likely": {"metal": True}, "doubtful": {"metal": True}}
    assert (await accept(REMOVE)).accepted_count == 1
    assert labels() == {"sure": {"glass": True}, "likely": {}, "doubtful": {"metal": True}}
    # To say that what is left is right takes no certainty.
    assert (await accept(DISMISS)).accepted_count == 1
    assert labels()["doubtful"] == {"metal": True}
    assert not (await accept(APPLY, min_score=0)).results


async def test_what_was_done_otherwise_is_not_said_to_be_done_as_asked(rig: Rig) -> None:
    version = await rig.trained()
    accept, labels = await _suggested(rig, version)
    await accept(APPLY)
    assert not (await _decide(rig, version, "sure", APPLY)).status.code
    assert not (await _decide(rig, version, "likely", REMOVE)).status.code
    # One was replaced, the other one only taken away.
    for uid, action in (("sure", REMOVE), ("likely", APPLY)):
        refused = await _decide(rig, version, uid, action)
        assert (refused.state, refused.status.code) == (ACCEPTED, grpc.StatusCode.FAILED_PRECONDITION.value[0])
        assert "otherwise" in refused.status.message
    assert labels() == {"sure": {"glass": True}, "likely": {}, "doubtful": {"metal": True}}


@pytest.mark.parametrize("rival", [REMOVE, DISMISS])
async def test_followed_stays_noted_when_somebody_decides_otherwise_meanwhile(
    rig: Rig, rival: SuggestionAction.ValueType
) -> None:
    version = await rig.trained()
    _, labels = await _suggested(rig, version)
    rig.dataset.swapping.clear()
    following = asyncio.create_task(_decide(rig, version, "sure", APPLY))
    await until(lambda: _true(rig.dataset.calls["SwapLabels"] == 1))
    # The label is changed, and that is not noted yet.
    await _decide(rig, version, "sure", rival)
    rig.dataset.swapping.set()
    followed = await following
    assert (followed.state, followed.status.code) == (ACCEPTED, 0)
    assert await _states(rig, version) == ["ACCEPTED", "OPEN", "OPEN"]
    assert labels()["sure"] == {"glass": True}


async def test_dismissing_is_refused_when_the_label_is_changed_by_the_time_it_is_noted(rig: Rig) -> None:
    version = await rig.trained()
    await _suggested(rig, version)
    decisions = []
    connection = await asyncpg.connect(rig.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM registry.suggestions WHERE number = 1 FOR UPDATE")
            for waiting, action in enumerate((APPLY, DISMISS), 1):
                decisions.append(asyncio.create_task(_decide(rig, version, "sure", action)))
                await until(partial(_waiting, rig, waiting))
    finally:
        await connection.close()
    followed, refused = await asyncio.gather(*decisions)
    assert (followed.state, followed.status.code) == (ACCEPTED, 0)
    assert (refused.state, refused.status.code) == (ACCEPTED, grpc.StatusCode.FAILED_PRECONDITION.value[0])
    assert await _states(rig, version) == ["ACCEPTED", "OPEN", "OPEN"]
    assert not await rig.sql("SELECT FROM registry.dismissed_suggestions")


async def _true(value: bool) -> bool:
    return value


async def _waiting(rig: Rig, count: int) -> bool:
    """Whether so many wait for the lock of a row."""
    rows = await rig.sql("SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    return len(rows) == count


async def _states(rig: Rig, version: ModelVersion) -> list[str]:
    answer = await SuggestionServiceStub(rig.channel).ListSuggestions(
        ListSuggestionsRequest(parent=version.name), metadata=rig.key(FIXER)
    )
    return [SuggestionState.Name(one.state).removeprefix("SUGGESTION_STATE_") for one in answer.suggestions]


async def _decide(rig: Rig, version: ModelVersion, uid: str, action: SuggestionAction.ValueType) -> AcceptedSuggestion:
    """Decide on the doubt about one picture."""
    name = f"{version.name}/suggestions/{list(SCORES).index(uid) + 1}"
    request = AcceptSuggestionsRequest(parent=version.name, suggestions=[name], action=action)
    answer = await SuggestionServiceStub(rig.channel).AcceptSuggestions(request, metadata=rig.key(FIXER))
    return answer.results[0]


async def _suggested(
    rig: Rig, version: ModelVersion
) -> tuple[Accept, Callable[[], dict[str, dict[str, bool | float]]]]:
    """Doubt three labels; gives what decides on all of them, and what tells the labels."""
    rig.auth.add_key(FIXER, "trash", [*SCOPES, "Inputs:Get", "Annotations:Add"])
    for uid in SCORES:
        rig.dataset.add(TRASH, uid, np.zeros(DIM, np.float16), {"metal": True})
    request = PutSuggestionsRequest(app_id=TRASH, version_uid=version.uid)
    request.suggestions.extend(_wrong(uid, score) for uid, score in SCORES.items())
    await SuggestionJobServiceStub(rig.channel).PutSuggestions(request, metadata=rig.token("trainer", TRASH))

    async def accept(action: SuggestionAction.ValueType, **wanted: float) -> AcceptSuggestionsResponse:
        meant = AcceptSuggestionsRequest(parent=version.name, all=AllSuggestions(kind=WRONG, **wanted), action=action)
        return await SuggestionServiceStub(rig.channel).AcceptSuggestions(meant, metadata=rig.key(FIXER))

    def labels() -> dict[str, dict[str, bool | float]]:
        return {uid: labels_of(rig.dataset.inputs[TRASH][uid][1].labels) for uid in SCORES}

    return accept, labels
