"""Annotations of inputs whose rows the caller has locked or just inserted."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class Label:
    """What is said about one concept in one input: exactly one of the two is set.

    Attributes:
        concept: own id of the concept.
        positive: whether the input shows it.
        number: how much of it, for regression; finite.
    """

    concept: str
    positive: bool | None = None
    number: float | None = None


async def hold_concepts(connection: Connection, app_id: int, own_ids: Collection[str]) -> dict[str, int]:
    """Find concepts by own id, and keep them until the transaction ends; unknown ones are left out."""
    if not own_ids:
        return {}
    rows = await connection.fetch(
        """
        SELECT id, own_id FROM concepts WHERE app_id = $1 AND own_id = ANY($2::text[]) ORDER BY id FOR KEY SHARE
        """,
        app_id,
        list(own_ids),
    )
    return {row["own_id"]: row["id"] for row in rows}


async def put(connection: Connection, app_id: int, labels: Mapping[tuple[int, int], Label], actor: str) -> set[int]:
    """Add labels by (input id, concept id), replacing others; return the ids of inputs that changed.

    What was said before with the same value stays as it is, with its actor and time: repeating changes nothing.
    """
    if not labels:
        return set()
    ordered = sorted(labels.items())
    rows = await connection.fetch(
        """
        INSERT INTO annotations AS old (app_id, input_id, concept_id, positive, number, actor)
        SELECT $1, input_id, concept_id, positive, number, $6
        FROM unnest($2::bigint[], $3::bigint[], $4::boolean[], $5::double precision[])
            AS new (input_id, concept_id, positive, number)
        ON CONFLICT (app_id, input_id, concept_id) DO UPDATE
            SET positive = EXCLUDED.positive, number = EXCLUDED.number, actor = EXCLUDED.actor, updated_at = now(),
                xid = pg_current_xact_id()
            WHERE (old.positive, old.number) IS DISTINCT FROM (EXCLUDED.positive, EXCLUDED.number)
        RETURNING input_id
        """,
        app_id,
        [input_id for (input_id, _), _ in ordered],
        [concept_id for (_, concept_id), _ in ordered],
        [label.positive for _, label in ordered],
        [label.number for _, label in ordered],
        actor,
    )
    return {row["input_id"] for row in rows}


async def remove(connection: Connection, app_id: int, labels: Collection[tuple[int, int]]) -> set[int]:
    """Remove labels by (input id, concept id), where they are; return the ids of inputs that changed."""
    if not labels:
        return set()
    rows = await connection.fetch(
        """
        DELETE FROM annotations USING unnest($2::bigint[], $3::bigint[]) AS old (input_id, concept_id)
        WHERE app_id = $1 AND annotations.input_id = old.input_id AND annotations.concept_id = old.concept_id
        RETURNING annotations.input_id
        """,
        app_id,
        [input_id for input_id, _ in labels],
        [concept_id for _, concept_id in labels],
    )
    return {row["input_id"] for row in rows}


async def present(connection: Connection, app_id: int, input_ids: Collection[int]) -> set[tuple[int, int]]:
    """Return which labels inputs have, as (input id, concept id)."""
    rows = await connection.fetch(
        "SELECT input_id, concept_id FROM annotations WHERE app_id = $1 AND input_id = ANY($2::bigint[])",
        app_id,
        list(input_ids),
    )
    return {(row["input_id"], row["concept_id"]) for row in rows}
