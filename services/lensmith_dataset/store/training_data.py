"""What there is to train on: counted for preflight, and streamed as it changes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from lensmith_dataset.store.labels import Label
from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class TrainingCount:
    """What an app has of one concept, among inputs with a vector that are not kept for testing."""

    concept: str
    display_name: str
    positives: int
    negatives: int
    numbers: int


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of one input now.

    Attributes:
        uid: uid of the input.
        deleted: whether it is gone; the rest is empty then.
        vector: halfvec of the space; empty: none yet, or nothing to learn from it.
    """

    uid: UUID
    deleted: bool
    sha256: bytes
    test: bool
    vector: bytes
    labels: Sequence[Label]


_CONCEPTS = "app_id = $1 AND ($3::text[] IS NULL OR own_id = ANY($3))"

WAITING = """SELECT id FROM inputs WHERE app_id = $1 AND status = 1
    UNION ALL SELECT input_id FROM missing_embeddings WHERE app_id = $1 AND space = $2 AND error IS NULL"""
"""Ids of the inputs of app $1 that wait for a vector of space $2."""

# Inputs that nothing is learnt from, marked as test or without a vector of the space, are few as a rule: found first,
# they spare a look at each input and its vector for every annotation.
_APART = """apart AS MATERIALIZED (
    SELECT id FROM inputs AS input
    WHERE app_id = $1 AND (test OR NOT EXISTS (
        SELECT FROM embeddings AS vector
        WHERE vector.app_id = $1 AND vector.space = $2 AND vector.input_id = input.id))
)"""
_COUNTED = f"""label.app_id = $1
    AND ($3::text[] IS NULL OR label.concept_id IN (SELECT id FROM concepts WHERE {_CONCEPTS}))
    AND NOT EXISTS (SELECT FROM apart WHERE apart.id = label.input_id)"""


async def count_by_concept(
    connection: Connection, app_id: int, space: str, concepts: Sequence[str] | None
) -> list[TrainingCount]:
    """Count what there is of concepts (None: of all), in order of own id; unknown ones are left out."""
    rows = await connection.fetch(
        f"""
        WITH {_APART}
        SELECT concept.own_id AS concept, concept.display_name, coalesce(positives, 0) AS positives,
               coalesce(negatives, 0) AS negatives, coalesce(numbers, 0) AS numbers
        FROM (SELECT * FROM concepts WHERE {_CONCEPTS}) AS concept
        LEFT JOIN (
            SELECT label.concept_id, count(*) FILTER (WHERE positive) AS positives,
                   count(*) FILTER (WHERE NOT positive) AS negatives, count(number) AS numbers
            FROM annotations AS label
            WHERE {_COUNTED}
            GROUP BY label.concept_id
        ) AS counted ON counted.concept_id = concept.id
        ORDER BY concept.own_id
        """,
        app_id,
        space,
        concepts,
    )
    return [TrainingCount(**row) for row in rows]


async def count_annotated(connection: Connection, app_id: int, space: str, concepts: Sequence[str] | None) -> int:
    """Count the inputs to train on that carry any annotation of the concepts (None: of all)."""
    count: int = await connection.fetchval(
        f"WITH {_APART} SELECT count(DISTINCT label.input_id) FROM annotations AS label WHERE {_COUNTED}",
        app_id,
        space,
        concepts,
    )
    return count


async def count_pending(connection: Connection, app_id: int, space: str) -> int:
    """Count the inputs that wait for a vector of the space."""
    count: int = await connection.fetchval(f"SELECT count(*) FROM ({WAITING}) AS waiting", app_id, space)
    return count


async def states(connection: Connection, app_id: int, space: str, ids: Sequence[int]) -> list[TrainingState]:
    """Return the states of inputs of the change feed, of those that are gone too; vectors only of what has labels.

    Each table is asked by itself, in a transaction with one snapshot: a join of lists as long as these is planned as if
    few rows were found, and looks at each list again for each row.
    """
    labels = await _labels(connection, app_id, ids)
    # Nothing is learnt from what nobody has labelled, and it comes again with its first label.
    vectors: dict[int, bytes] = dict(
        await connection.fetch(
            "SELECT input_id, vector FROM embeddings WHERE app_id = $1 AND space = $2 AND input_id = ANY($3::bigint[])",
            app_id,
            space,
            list(labels),
        )
    )
    rows = await connection.fetch(
        "SELECT id, uid, sha256, test FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) ORDER BY id", app_id, ids
    )
    found = [
        TrainingState(uid, False, sha256, test, vectors.get(number, b""), labels.get(number, ()))
        for number, uid, sha256, test in rows
    ]
    if len(found) < len(ids):
        found += await _gone(connection, app_id, set(ids).difference(row["id"] for row in rows))
    return found


async def _labels(connection: Connection, app_id: int, ids: Sequence[int]) -> dict[int, list[Label]]:
    labels: dict[int, list[Label]] = {}
    for number, concept, positive, value in await connection.fetch(
        """
        SELECT label.input_id, concept.own_id, label.positive, label.number
        FROM annotations AS label
        JOIN concepts AS concept ON concept.app_id = label.app_id AND concept.id = label.concept_id
        WHERE label.app_id = $1 AND label.input_id = ANY($2::bigint[]) ORDER BY concept.own_id
        """,
        app_id,
        ids,
    ):
        labels.setdefault(number, []).append(Label(concept, positive, value))
    return labels


async def _gone(connection: Connection, app_id: int, ids: Collection[int]) -> list[TrainingState]:
    rows = await connection.fetch(
        """
        SELECT deleted_uid FROM input_changes
        WHERE app_id = $1 AND input_id = ANY($2::bigint[]) AND deleted_uid IS NOT NULL ORDER BY input_id
        """,
        app_id,
        list(ids),
    )
    return [TrainingState(row["deleted_uid"], True, b"", False, b"", ()) for row in rows]


async def file_hashes(connection: Connection, app_id: int, uids: Sequence[UUID]) -> dict[UUID, bytes]:
    """Return the SHA-256 of the files of inputs; those that are gone are left out."""
    rows = await connection.fetch(
        "SELECT uid, sha256 FROM inputs WHERE app_id = $1 AND uid = ANY($2::uuid[])", app_id, uids
    )
    return {row["uid"]: row["sha256"] for row in rows}
