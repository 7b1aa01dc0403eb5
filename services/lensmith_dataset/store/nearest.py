"""The training pictures that are most like a vector: exact, over all that a model could be trained on now."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from lensmith_dataset.store.labels import Label
from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class NearInput:
    """An input that is like a vector.

    Attributes:
        uid: its uid.
        own_id: the user's own id of it, where it has one.
        similarity: cosine of the two vectors.
        labels: what is annotated of the concepts in it, in order of own id.
    """

    uid: UUID
    own_id: str | None
    similarity: float
    labels: Sequence[Label]


async def app_name(connection: Connection, app_id: int) -> str:
    """Return the own id of an app; empty where dataset has nothing of it."""
    return await connection.fetchval("SELECT own_id FROM apps WHERE app_id = $1 AND deleted_at IS NULL", app_id) or ""


async def concept_ids(connection: Connection, app_id: int, own_ids: Sequence[str]) -> list[int]:
    """Return the numbers of concepts by own id; unknown ones are left out."""
    rows = await connection.fetch(
        "SELECT id FROM concepts WHERE app_id = $1 AND own_id = ANY($2::text[])", app_id, own_ids
    )
    return [row["id"] for row in rows]


async def nearest(
    connection: Connection, app_id: int, space: str, concepts: Sequence[int], vector: bytes, count: int
) -> list[NearInput]:
    """Return the inputs to train on that are most like a vector, the most alike first.

    Args:
        connection: in a transaction.
        app_id: the app.
        space: the space of the vector.
        concepts: numbers of concepts; only inputs annotated with any of them count.
        vector: halfvec.
        count: how many at most.
    """
    # Ordered by the distance alone: an index on vectors that may come one day can then be used.
    rows = await connection.fetch(
        """
        SELECT input.id, input.uid, input.own_id, vector.vector OPERATOR(public.<=>) $4::public.halfvec AS distance
        FROM embeddings AS vector
        JOIN inputs AS input ON input.app_id = $1 AND input.id = vector.input_id AND NOT input.test
        WHERE vector.app_id = $1 AND vector.space = $2 AND EXISTS (
            SELECT FROM annotations AS label
            WHERE label.app_id = $1 AND label.input_id = vector.input_id AND label.concept_id = ANY($3::bigint[])
        )
        ORDER BY distance LIMIT $5
        """,
        app_id,
        space,
        concepts,
        vector,
        count,
    )
    labels: dict[int, list[Label]] = {}
    for row in await connection.fetch(
        """
        SELECT label.input_id, concept.own_id AS concept, label.positive, label.number
        FROM annotations AS label JOIN concepts AS concept ON concept.app_id = $1 AND concept.id = label.concept_id
        WHERE label.app_id = $1 AND label.input_id = ANY($2::bigint[]) AND label.concept_id = ANY($3::bigint[])
        ORDER BY concept.own_id
        """,
        app_id,
        [row["id"] for row in rows],
        concepts,
    ):
        labels.setdefault(row["input_id"], []).append(Label(row["concept"], row["positive"], row["number"]))
    # A vector of zeros has no direction, and is like nothing.
    return [
        NearInput(row["uid"], row["own_id"], 1 - row["distance"], labels.get(row["id"], []))
        for row in rows
        if math.isfinite(row["distance"])
    ]
