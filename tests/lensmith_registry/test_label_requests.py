"""Following what is said about whole concepts: pictures are asked for, or two concepts become one."""

import asyncio
from collections.abc import Sequence

import numpy as np

from lensmith_api.internal.v1.suggestion_job_service_pb2 import PutSuggestionsRequest
from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import SuggestionJobServiceStub
from lensmith_api.v1 import suggestion_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_service_pb2 import DeleteModelRequest
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.suggestion_pb2 import (
    InputToLabel,
    Suggestion,
    SuggestionAction,
    SuggestionKind,
    SuggestionLabel,
    SuggestionState,
)
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from tests.lensmith_registry.peers import labels_of
from tests.lensmith_registry.rig import DIM, MULTI_CLASS, SCOPES, TRASH, Rig, refusal
from tests.polling import until

FEW, CONFUSED = SuggestionKind.SUGGESTION_KIND_FEW_IMAGES, SuggestionKind.SUGGESTION_KIND_CONFUSED_CONCEPTS
NEXT = SuggestionKind.SUGGESTION_KIND_LABEL_NEXT
APPLY, DISMISS = SuggestionAction.SUGGESTION_ACTION_APPLY, SuggestionAction.SUGGESTION_ACTION_DISMISS
MERGE = SuggestionAction.SUGGESTION_ACTION_MERGE_CONCEPTS
ACCEPTED = SuggestionState.SUGGESTION_STATE_ACCEPTED
FIXER, MAKER = "key-of-a-fixer", "key-of-a-maker"


def _few(uids: Sequence[str]) -> Suggestion:
    return Suggestion(
        kind=FEW,
        message="paper has only 10 pictures",
        score=0.6,
        concept="paper",
        inputs_to_label=[
            InputToLabel(input=uid, label=SuggestionLabel(concept="paper", positive=True), score=0.7) for uid in uids
        ],
    )


def _next(uid: str) -> Suggestion:
    desired = [SuggestionLabel(concept="glass", positive=True)]
    return Suggestion(kind=NEXT, message="glass?", score=0.9, concept="glass", input=uid, desired=desired)


def _confused() -> Suggestion:
    return Suggestion(kind=CONFUSED, message="taken for each other", score=0.3, concept="glass", other_concept="metal")


async def _put(rig: Rig, version: ModelVersion, *suggestions: Suggestion) -> None:
    request = PutSuggestionsRequest(app_id=TRASH, version_uid=version.uid, suggestions=suggestions)
    await SuggestionJobServiceStub(rig.channel).PutSuggestions(request, metadata=rig.token("trainer", TRASH))


async def _list(rig: Rig, version: ModelVersion, **wanted: object) -> list[Suggestion]:
    request = pb.ListSuggestionsRequest(parent=version.name, page_size=1000, **wanted)
    answer = await SuggestionServiceStub(rig.channel).ListSuggestions(request, metadata=rig.key(MAKER))
    return list(answer.suggestions)


async def _accept(
    rig: Rig, version: ModelVersion, *, key: str = MAKER, **asked: object
) -> pb.AcceptSuggestionsResponse:
    request = pb.AcceptSuggestionsRequest(parent=version.name, **asked)
    return await SuggestionServiceStub(rig.channel).AcceptSuggestions(request, metadata=rig.key(key))


async def _version(rig: Rig, concepts: Sequence[str] = ()) -> ModelVersion:
    """A trained version of a model of glass, metal and paper."""
    rig.auth.add_key(MAKER, "trash", [*SCOPES, "Inputs:Get", "Annotations:Add"])
    rig.auth.add_key(FIXER, "trash", ["Models:Get", "Inputs:Get", "Annotations:Add"])
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30, "paper": 10})
    await rig.create("sorter", Model(type=MULTI_CLASS, concepts=concepts))
    return await _trained(rig)


async def _trained(rig: Rig) -> ModelVersion:
    version = await rig.train("sorter")
    await rig.complete(await rig.claim(version))
    return await rig.until_state(version.name, "READY")


def _own(uid: str) -> str:
    return f"apps/trash/inputs/own-{uid}"


async def test_pictures_are_asked_for_in_this_and_later_versions_when_few_images_are_accepted(rig: Rig) -> None:
    version = await _version(rig)
    uids = [f"unlabelled-{index}" for index in range(4)]
    for uid in uids:
        rig.dataset.add(TRASH, uid, np.zeros(DIM, np.float16), {})
    await _put(rig, version, _few(uids[:3]), _next(uids[0]))
    [few] = await _list(rig, version, kind=FEW)
    assert [one.input for one in few.inputs_to_label] == [_own(uid) for uid in uids[:3]]
    assert list(few.actions) == [APPLY, DISMISS]

    answer = await _accept(rig, version, all=pb.AllSuggestions(kind=FEW))
    again = await _accept(rig, version, suggestions=[few.name])

    # One is on the list already, and does not come on it twice.
    names = [f"{version.name}/suggestions/{number}" for number in (2, 3, 4)]
    assert list(answer.results[0].label_next_suggestions) == names
    assert again.accepted_count == 1
    assert list(again.results[0].label_next_suggestions) == names
    assert len(await _list(rig, version, kind=NEXT)) == len(names)
    listed = await _list(rig, version, kind=NEXT, concept="paper")
    assert [one.input for one in listed] == [_own(uid) for uid in uids[1:3]]
    done = await _accept(rig, version, suggestions=[listed[0].name])
    assert done.accepted_count == 1
    assert labels_of(rig.dataset.inputs[TRASH][uids[1]][1].labels) == {"paper": True}

    second = await _trained(rig)
    await _put(rig, second, _few(uids[3:]))
    [few] = await _list(rig, second, kind=FEW)
    assert few.state == ACCEPTED
    assert [one.input for one in await _list(rig, second, kind=NEXT)] == [_own(uids[3])]

    # Dismissed after all, it is over.
    assert (await _accept(rig, second, suggestions=[few.name], action=DISMISS)).accepted_count == 1
    third = await _trained(rig)
    await _put(rig, third, _few(uids[2:]))
    assert await _list(rig, third) == []


async def test_negatives_are_asked_for_beside_whatever_else_is_asked_about_a_picture(rig: Rig) -> None:
    version = await _version(rig)
    uids = [f"unjudged-{index}" for index in range(2)]
    for uid in uids:
        rig.dataset.add(TRASH, uid, np.zeros(DIM, np.float16), {})
    label = SuggestionLabel(concept="paper", positive=False)
    asked = [InputToLabel(input=uid, label=label, score=0.7) for uid in uids]
    lacking = Suggestion(kind=FEW, concept="paper", score=0.5, few_negatives=True, inputs_to_label=asked)
    # Both are about paper: to dismiss the one says nothing of the other.
    await _put(rig, version, _few([]), lacking, _next(uids[0]))
    [few, lacking] = await _list(rig, version, kind=FEW)
    assert (few.few_negatives, lacking.few_negatives) == (False, True)
    await _accept(rig, version, suggestions=[few.name], action=DISMISS)

    [done] = (await _accept(rig, version, suggestions=[lacking.name])).results

    assert len(done.label_next_suggestions) == 2
    listed = await _list(rig, version, kind=NEXT)
    assert [(one.input, one.concept) for one in listed] == [
        (_own(uids[0]), "glass"),
        (_own(uids[0]), "paper"),
        (_own(uids[1]), "paper"),
    ]
    assert listed[2].message == "not paper (70 %)?"
    await _accept(rig, version, suggestions=[listed[2].name])
    assert labels_of(rig.dataset.inputs[TRASH][uids[1]][1].labels) == {"paper": False}
    second = await _trained(rig)
    await _put(rig, second, _few([]), Suggestion(kind=FEW, concept="paper", score=0.4, few_negatives=True))
    [left] = await _list(rig, second)
    assert (left.few_negatives, left.state) == (True, ACCEPTED)


async def test_two_concepts_become_one_when_the_call_says_which_stays(rig: Rig) -> None:
    version = await _version(rig)
    await _put(rig, version, _confused())
    asked = {"suggestions": ["1"], "action": MERGE, "merge_into": "metal"}
    for changes, reason in (
        ({"merge_into": ""}, "MERGE_INTO_INVALID"),
        ({"merge_into": "paper"}, "MERGE_INTO_INVALID"),
        ({"action": APPLY}, "MERGE_INTO_INVALID"),
        ({"key": FIXER}, "SCOPE_MISSING"),
    ):
        assert (await refusal(_accept(rig, version, **{**asked, **changes}))).reason == reason
    await rig.create("other", Model(type=MULTI_CLASS, concepts=["metal", "paper"]))
    assert (await refusal(_accept(rig, version, **asked))).reason == "CONCEPT_IN_USE"
    assert rig.dataset.calls["CopyLabels"] == 0

    asked["merge_into"] = "glass"
    # That pictures were asked for is no reason not to merge.
    assert (await _accept(rig, version, suggestions=["1"])).accepted_count == 1
    assert (await _accept(rig, version, **asked)).accepted_count == 1
    # The second step goes on where the first one stopped; the third begins anew, and so does a merge asked for again.
    first, second, third = rig.dataset.copies_after
    assert (first, second > 0, third) == (0, True, 0)
    assert (await _accept(rig, version, **asked)).accepted_count == 1
    assert rig.dataset.copies_after == [first, second, 0, 0]

    labels = [labels_of(item.labels) for _, item in rig.dataset.inputs[TRASH].values()]
    # Nothing is lost, so that it can be undone.
    assert sum(one == {"glass": True, "metal": True} for one in labels) == 30
    assert {"metal": True} not in labels
    assert list((await rig.model("sorter")).concepts) == ["glass", "paper"]
    later = await _trained(rig)
    assert list((await rig.version(later.name)).concepts) == ["glass", "paper"]
    await _put(rig, later, Suggestion(kind=CONFUSED, concept="glass", other_concept="paper", score=0.2))
    asked["merge_into"] = "glass"
    assert (await refusal(_accept(rig, later, **asked))).reason == "MODEL_NEEDS_CONCEPTS"


async def test_labels_that_are_given_while_concepts_are_merged_are_copied_too(rig: Rig) -> None:
    version = await _version(rig)
    await _put(rig, version, _confused())
    data = rig.dataset
    uid, (_, item) = next(iter(data.inputs[TRASH].items()))
    data.copying.clear()
    merge = asyncio.create_task(_accept(rig, version, suggestions=["1"], action=MERGE, merge_into="glass"))

    async def is_at_second_step() -> bool:
        if data.calls["CopyLabels"] == 2:
            return True
        # Only the step that waits is let through.
        data.copying.set()
        data.copying.clear()
        return False

    await until(is_at_second_step)
    data.add(TRASH, uid, np.frombuffer(item.vector, "<f2"), {"metal": True}, sha256=item.sha256)
    data.copying.set()
    await merge

    labels = [labels_of(item.labels) for _, item in data.inputs[TRASH].values()]
    assert sum(one == {"glass": True, "metal": True} for one in labels) == 31
    assert {"metal": True} not in labels


async def test_one_of_two_concepts_stays_when_they_are_merged_both_ways_at_once(rig: Rig) -> None:
    version = await _version(rig)
    await _put(rig, version, _confused())
    merges = [_accept(rig, version, suggestions=["1"], action=MERGE, merge_into=into) for into in ("glass", "metal")]

    answers = await asyncio.gather(*merges, return_exceptions=True)

    assert sum(isinstance(answer, pb.AcceptSuggestionsResponse) for answer in answers) == 1
    assert list((await rig.model("sorter")).concepts) in (["glass", "paper"], ["metal", "paper"])


async def test_a_model_with_the_name_of_a_deleted_one_keeps_its_concepts_when_a_merge_is_under_way(rig: Rig) -> None:
    version = await _version(rig)
    await _put(rig, version, _confused())
    rig.dataset.copying.clear()
    merge = asyncio.create_task(_accept(rig, version, suggestions=["1"], action=MERGE, merge_into="glass"))

    async def is_copying() -> bool:
        return rig.dataset.calls["CopyLabels"] > 0

    await until(is_copying)
    await rig.models.DeleteModel(DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
    await rig.create("sorter", Model(type=MULTI_CLASS, concepts=["glass", "metal"]))
    rig.dataset.copying.set()

    assert (await refusal(merge)).reason == "VERSION_NOT_FOUND"
    assert list((await rig.model("sorter")).concepts) == ["glass", "metal"]
