"""Annotations: merged, set, removed, listed."""

import asyncio
import math

import grpc
import pytest

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.annotation_service_pb2 import (
    AnnotateAction,
    AnnotateRequest,
    InputAnnotations,
    ListAnnotationsRequest,
)
from lensmith_api.v1.concept_service_pb2 import DeleteConceptsRequest
from lensmith_api.v1.input_service_pb2 import DeleteInputsRequest
from tests.lensmith_dataset.conftest import Rig, Start, new_input, reason_of
from tests.pictures import picture
from tests.rpc_errors import failing

MERGE = AnnotateAction.ANNOTATE_ACTION_MERGE
SET = AnnotateAction.ANNOTATE_ACTION_SET
REMOVE = AnnotateAction.ANNOTATE_ACTION_REMOVE


@pytest.fixture
async def labelled(rig: Rig) -> Rig:
    """An app with the concepts a, b, c and the inputs x (a), y (nothing)."""
    await rig.create_concepts("a", "b", "c")
    await rig.create(new_input(picture(1), "x", annotations=[Annotation(concept="a")]), new_input(picture(2), "y"))
    return rig


async def _annotate(rig: Rig, *items: tuple[str, int, list[Annotation]]) -> list[str]:
    request = AnnotateRequest(
        parent="apps/a",
        items=[InputAnnotations(input=key, action=action, annotations=given) for key, action, given in items],
    )
    response = await rig.annotations.Annotate(request, metadata=rig.key())
    return [reason_of(status) for status in response.statuses]


async def _labels(rig: Rig, key: str) -> dict[str, object]:
    found = (await rig.get(f"apps/a/inputs/{key}")).annotations
    return {one.concept: getattr(one, one.WhichOneof("value")) for one in found}


async def test_labels_are_merged_set_and_removed(labelled: Rig) -> None:
    assert await _annotate(
        labelled,
        ("x", MERGE, [Annotation(concept="a", positive=False), Annotation(concept="b")]),
        ("y", SET, [Annotation(concept="c", number=1.5)]),
    ) == ["", ""]
    assert await _labels(labelled, "x") == {"a": False, "b": True}
    assert await _labels(labelled, "y") == {"c": 1.5}

    assert await _annotate(
        labelled,
        ("x", SET, [Annotation(concept="c")]),
        ("y", REMOVE, [Annotation(concept="c"), Annotation(concept="a")]),
    ) == ["", ""]
    assert await _labels(labelled, "x") == {"c": True}
    assert await _labels(labelled, "y") == {}
    assert await _annotate(labelled, ("x", SET, [])) == [""]
    assert await _labels(labelled, "x") == {}


async def test_changes_build_on_each_other_when_they_name_one_input(labelled: Rig) -> None:
    uid = (await labelled.get("apps/a/inputs/x")).uid
    await _annotate(
        labelled,
        ("x", MERGE, [Annotation(concept="b")]),
        (uid, SET, [Annotation(concept="c"), Annotation(concept="b", positive=False)]),
        ("x", REMOVE, [Annotation(concept="c")]),
        (uid, 0, [Annotation(concept="a", number=2)]),
    )

    assert await _labels(labelled, "x") == {"a": 2.0, "b": False}


async def test_bad_item_fails_alone_when_others_are_good(labelled: Rig) -> None:
    reasons = await _annotate(
        labelled,
        ("none", MERGE, [Annotation(concept="a")]),
        ("x", MERGE, [Annotation(concept="b"), Annotation(concept="unknown")]),
        ("x", MERGE, [Annotation(concept="b", number=math.nan)]),
        ("x", MERGE, [Annotation(concept="b", number=-1.1e15)]),
        ("x", 99, [Annotation(concept="b")]),
        ("y", MERGE, [Annotation(concept="c")]),
    )

    assert reasons == [
        "INPUT_NOT_FOUND",
        "CONCEPT_NOT_FOUND",
        "NUMBER_NOT_FINITE",
        "NUMBER_OUT_OF_RANGE",
        "ANNOTATE_ACTION_UNKNOWN",
        "",
    ]
    assert await _labels(labelled, "x") == {"a": True}
    assert await _labels(labelled, "y") == {"c": True}


async def test_nothing_changes_when_the_same_is_said_again(labelled: Rig) -> None:
    query = """SELECT updated_at, annotations.xid, input_changes.xid AS change
        FROM annotations JOIN input_changes USING (app_id, input_id)"""
    # That an input is ready is a change of its own.
    await labelled.indexed()
    before = await labelled.sql(query)

    await _annotate(labelled, ("x", SET, [Annotation(concept="a")]))

    assert await labelled.sql(query) == before


async def test_annotations_are_listed_newest_first(labelled: Rig) -> None:
    await _annotate(labelled, ("y", MERGE, [Annotation(concept="b")]))
    await _annotate(labelled, ("x", MERGE, [Annotation(concept="c", positive=False)]))

    async def listed(**query: object) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        token = ""
        while True:
            page = await labelled.annotations.ListAnnotations(
                ListAnnotationsRequest(parent="apps/a", page_size=1, page_token=token, **query),
                metadata=labelled.key(),
            )
            found.extend((one.input.rpartition("/")[2], one.annotation.concept) for one in page.annotations)
            token = page.next_page_token
            if not token:
                return found

    assert await listed() == [("x", "c"), ("y", "b"), ("x", "a")]
    assert await listed(concept="b") == [("y", "b")]
    assert await listed(input="x") == [("x", "c"), ("x", "a")]
    uid = (await labelled.get("apps/a/inputs/x")).uid
    assert await listed(input=uid, concept="a") == [("x", "a")]
    assert await listed(input="none") == []


async def test_call_is_refused_when_it_has_too_many_annotations(start: Start) -> None:
    rig = await start(max_annotations=3)

    with failing(grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_ANNOTATIONS"):
        await _annotate(rig, *(("x", MERGE, [Annotation(concept="a")] * 2) for _ in range(2)))


async def test_nothing_breaks_when_inputs_and_concepts_are_deleted_meanwhile(rig: Rig) -> None:
    inputs = [f"i{number}" for number in range(8)]
    concepts = [f"c{number}" for number in range(4)]
    await rig.create_concepts(*concepts)
    await rig.create(*(new_input(picture(number), key) for number, key in enumerate(inputs)))

    async def annotate(keys: list[str]) -> None:
        for concept in concepts:
            reasons = await _annotate(rig, *((key, MERGE, [Annotation(concept=concept)]) for key in keys))
            assert set(reasons) <= {"", "INPUT_NOT_FOUND", "CONCEPT_NOT_FOUND"}

    async def delete_inputs() -> None:
        for key in inputs[::2]:
            await rig.inputs.DeleteInputs(DeleteInputsRequest(parent="apps/a", input_ids=[key]), metadata=rig.key())

    async def delete_concepts() -> None:
        for concept in concepts[::2]:
            await rig.concepts.DeleteConcepts(
                DeleteConceptsRequest(parent="apps/a", concept_ids=[concept]), metadata=rig.key()
            )

    await asyncio.gather(
        *(annotate(keys) for keys in (inputs, inputs[::-1], inputs[4:] + inputs[:4])),
        delete_inputs(),
        delete_concepts(),
    )

    left = await rig.sql(
        """
        SELECT inputs.own_id AS input, concepts.own_id AS concept FROM annotations
        JOIN inputs ON inputs.id = input_id JOIN concepts ON concepts.id = concept_id
        """
    )
    wanted = {(key, concept) for key in inputs[1::2] for concept in concepts[1::2]}
    assert {(row["input"], row["concept"]) for row in left} == wanted
