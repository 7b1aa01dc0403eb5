"""Concepts: the app's own words."""

import asyncio

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.concept_service_pb2 import (
    CreateConceptsRequest,
    DeleteConceptsRequest,
    GetConceptRequest,
    ListConceptsRequest,
    NewConcept,
    UpdateConceptRequest,
)
from lensmith_dataset import concept_service
from tests.lensmith_dataset.conftest import Rig, new_input, reason_of
from tests.pictures import picture
from tests.rpc_errors import failing


async def _names(rig: Rig, **query: object) -> list[str]:
    names: list[str] = []
    token = ""
    while True:
        page = await rig.concepts.ListConcepts(
            ListConceptsRequest(parent="apps/a", page_token=token, **query), metadata=rig.key()
        )
        names.extend(concept.name.rpartition("/")[2] for concept in page.concepts)
        token = page.next_page_token
        if not token:
            return names


async def test_concept_exists_when_it_is_created_again(rig: Rig) -> None:
    request = CreateConceptsRequest(
        parent="apps/a",
        concepts=[
            NewConcept(concept_id="glass", display_name="Glass"),
            NewConcept(concept_id="metal"),
            NewConcept(concept_id="glass", display_name="Other"),
        ],
    )
    first = await rig.concepts.CreateConcepts(request, metadata=rig.key())
    second = await rig.concepts.CreateConcepts(request, metadata=rig.key())

    assert [one.existed for one in first.results] == [False, False, True]
    assert [one.existed for one in second.results] == [True, True, True]
    assert [one.concept.display_name for one in second.results] == ["Glass", "metal", "Glass"]
    assert [one.concept.uid for one in first.results] == [one.concept.uid for one in second.results]


async def test_one_concept_is_made_when_many_create_it_at_once(rig: Rig) -> None:
    words = [f"w{number}" for number in range(20)]
    orders = [words, words[::-1], words[10:] + words[:10]] * 3
    answers = await asyncio.gather(
        *(
            rig.concepts.CreateConcepts(
                CreateConceptsRequest(parent="apps/a", concepts=[NewConcept(concept_id=word) for word in order]),
                metadata=rig.key(),
            )
            for order in orders
        )
    )

    assert sum(not one.existed for answer in answers for one in answer.results) == 20
    assert await _names(rig, page_size=7) == sorted(words)


async def test_concepts_are_found_by_part_when_case_and_wildcards_differ(rig: Rig) -> None:
    await rig.concepts.CreateConcepts(
        CreateConceptsRequest(
            parent="apps/a",
            concepts=[
                NewConcept(concept_id="Straße"),
                NewConcept(concept_id="100%"),
                NewConcept(concept_id="a_b"),
                NewConcept(concept_id="axb", display_name="ÄPFEL"),
            ],
        ),
        metadata=rig.key(),
    )

    assert await _names(rig, contains="STRASSE") == ["Straße"]
    assert await _names(rig, contains="%") == ["100%"]
    assert await _names(rig, contains="A_B") == ["a_b"]
    assert await _names(rig, contains="äpf") == ["axb"]
    assert await _names(rig, contains="bä") == []
    assert len(await _names(rig)) == 4


async def test_concept_counts_its_annotations(rig: Rig) -> None:
    await rig.create_concepts("glass")
    annotations = [
        Annotation(concept="glass"),
        Annotation(concept="glass", positive=True),
        Annotation(concept="glass", positive=False),
        Annotation(concept="glass", number=-3.5),
    ]
    await rig.create(*(new_input(picture(seed), annotations=[one]) for seed, one in enumerate(annotations)))

    concept = await rig.concepts.GetConcept(GetConceptRequest(name="apps/a/concepts/glass"), metadata=rig.key())

    assert (concept.positive_count, concept.negative_count, concept.number_count) == (2, 1, 1)


async def test_concept_changes_when_the_mask_names_its_fields(rig: Rig) -> None:
    await rig.create_concepts("glass")
    name = "apps/a/concepts/glass"
    old = await rig.concepts.GetConcept(GetConceptRequest(name=name), metadata=rig.key())
    new = Concept(name=name, display_name="Glas", description="bottles", etag=old.etag)

    changed = await rig.concepts.UpdateConcept(
        UpdateConceptRequest(concept=new, update_mask=FieldMask(paths=["display_name"])), metadata=rig.key()
    )

    assert (changed.display_name, changed.description) == ("Glas", "")
    assert await _names(rig, contains="glas") == ["glass"]
    with failing(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await rig.concepts.UpdateConcept(
            UpdateConceptRequest(concept=new, update_mask=FieldMask(paths=["description"])), metadata=rig.key()
        )
    with failing(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"):
        await rig.concepts.UpdateConcept(
            UpdateConceptRequest(
                concept=Concept(name=name, description="\x00"), update_mask=FieldMask(paths=["description"])
            ),
            metadata=rig.key(),
        )
    with failing(grpc.StatusCode.NOT_FOUND, "CONCEPT_NOT_FOUND"):
        await rig.concepts.UpdateConcept(
            UpdateConceptRequest(
                concept=Concept(name="apps/a/concepts/none"), update_mask=FieldMask(paths=["description"])
            ),
            metadata=rig.key(),
        )


async def test_annotations_go_when_their_concept_is_deleted(rig: Rig) -> None:
    await rig.create_concepts("glass", "metal")
    [result] = await rig.create(
        new_input(picture(1), "x", annotations=[Annotation(concept="glass"), Annotation(concept="metal")])
    )
    before = await rig.sql("SELECT xid FROM input_changes")

    response = await rig.concepts.DeleteConcepts(
        DeleteConceptsRequest(parent="apps/a", concept_ids=["glass", "none"]), metadata=rig.key()
    )

    reasons = ["", "CONCEPT_NOT_FOUND"]
    assert [reason_of(status) for status in response.statuses] == reasons
    assert [one.concept for one in (await rig.get(result.input.name)).annotations] == ["metal"]
    assert await rig.sql("SELECT xid FROM input_changes") != before
    with failing(grpc.StatusCode.NOT_FOUND, "CONCEPT_NOT_FOUND"):
        await rig.concepts.GetConcept(GetConceptRequest(name="apps/a/concepts/glass"), metadata=rig.key())


async def test_concept_goes_when_it_has_more_annotations_than_one_transaction_deletes(rig: Rig) -> None:
    count = concept_service._DELETED_AT_ONCE * 2 + 1
    await rig.create_concepts("glass")
    [result] = await rig.create(new_input(picture(1)))
    await rig.sql(
        """
        WITH more AS (
            INSERT INTO inputs (app_id, uid, sha256, test, source_url, actor)
            SELECT app_id, gen_random_uuid(), sha256, false, '', '' FROM inputs, generate_series(1, $1)
            RETURNING app_id, id
        )
        INSERT INTO annotations (app_id, input_id, concept_id, positive, actor)
        SELECT more.app_id, more.id, concepts.id, true, '' FROM more, concepts
        """,
        count,
    )

    await rig.concepts.DeleteConcepts(DeleteConceptsRequest(parent="apps/a", concept_ids=["glass"]), metadata=rig.key())

    assert await rig.sql("SELECT FROM annotations") == []
    assert len(await rig.sql("SELECT FROM input_changes")) == count + 1
    assert (await rig.get(result.input.name)).annotations == []
