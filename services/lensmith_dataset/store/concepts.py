"""Concepts: created, found, listed, changed, deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection

_COLUMNS = "id, uid, own_id, display_name, description, revision, created_at, updated_at"


@dataclass(frozen=True, slots=True)
class NewConcept:
    """A concept to create."""

    own_id: str
    display_name: str
    description: str


@dataclass(frozen=True, slots=True)
class ConceptRow:
    """A concept."""

    id: int
    uid: UUID
    own_id: str
    display_name: str
    description: str
    revision: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How many inputs are annotated with a concept, and how."""

    positive: int = 0
    negative: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """New values of a concept; None leaves a field as it is."""

    display_name: str | None = None
    description: str | None = None


def search_text(own_id: str, display_name: str) -> str:
    """Return what `contains` looks in; the line break keeps a match from spanning both names."""
    return f"{own_id}\n{display_name}".casefold()


async def create(connection: Connection, app_id: int, concepts: Sequence[NewConcept], actor: str) -> set[str]:
    """Create concepts that do not exist; return the own ids of those. Existing ones stay as they are."""
    new = sorted({concept.own_id: concept for concept in reversed(concepts)}.values(), key=lambda one: one.own_id)
    rows = await connection.fetch(
        """
        INSERT INTO concepts (app_id, own_id, display_name, description, search_text, actor)
        SELECT $1, *, $6 FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
        ON CONFLICT (app_id, own_id) DO NOTHING
        RETURNING own_id
        """,
        app_id,
        [concept.own_id for concept in new],
        [concept.display_name for concept in new],
        [concept.description for concept in new],
        [search_text(concept.own_id, concept.display_name) for concept in new],
        actor,
    )
    return {row["own_id"] for row in rows}


async def get_many(connection: Connection, app_id: int, own_ids: Sequence[str]) -> dict[str, ConceptRow]:
    """Return concepts by own id; unknown ones are left out."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM concepts WHERE app_id = $1 AND own_id = ANY($2::text[])",
        app_id,
        own_ids,
    )
    return {row["own_id"]: ConceptRow(**row) for row in rows}


async def lock(connection: Connection, app_id: int, own_id: str) -> ConceptRow | None:
    """Lock a concept against changes; return it, or None when there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM concepts WHERE app_id = $1 AND own_id = $2 FOR NO KEY UPDATE",
        app_id,
        own_id,
    )
    return None if row is None else ConceptRow(**row)


async def list_page(
    connection: Connection, app_id: int, *, after: str | None, limit: int, contains: str = ""
) -> list[ConceptRow]:
    """Return concepts in order of their own id.

    Args:
        connection: a transaction bound to the app.
        app_id: the app.
        after: own id of the last concept of the page before; None: the first page.
        limit: most concepts to return.
        contains: only those whose own id or display name contains this text, whatever its case.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM concepts
        WHERE app_id = $1 AND ($2::text IS NULL OR own_id > $2) AND ($3 = '' OR strpos(search_text, $3) > 0)
        ORDER BY own_id LIMIT $4
        """,
        app_id,
        after,
        contains.casefold(),
        limit,
    )
    return [ConceptRow(**row) for row in rows]


async def count_labels(connection: Connection, app_id: int, ids: Sequence[int]) -> dict[int, LabelCounts]:
    """Count the annotations of concepts; those without any are left out."""
    rows = await connection.fetch(
        """
        SELECT concept_id, count(*) FILTER (WHERE positive) AS positive,
               count(*) FILTER (WHERE NOT positive) AS negative, count(number) AS number
        FROM annotations WHERE app_id = $1 AND concept_id = ANY($2::bigint[]) GROUP BY concept_id
        """,
        app_id,
        ids,
    )
    return {row["concept_id"]: LabelCounts(row["positive"], row["negative"], row["number"]) for row in rows}


async def update(connection: Connection, app_id: int, concept: ConceptRow, change: Change) -> None:
    """Change a locked concept; what stays the same is not written."""
    display_name = concept.display_name if change.display_name is None else change.display_name
    description = concept.description if change.description is None else change.description
    if (display_name, description) == (concept.display_name, concept.description):
        return
    await connection.execute(
        """
        UPDATE concepts
        SET display_name = $3, description = $4, search_text = $5, revision = revision + 1, updated_at = now()
        WHERE app_id = $1 AND id = $2
        """,
        app_id,
        concept.id,
        display_name,
        description,
        search_text(concept.own_id, display_name),
    )


async def delete_some(connection: Connection, app_id: int, own_id: str, limit: int) -> bool | None:
    """Delete up to `limit` annotations of a concept, and the concept itself when no more are left.

    Returns:
        Whether the concept is gone now; None when there was none.
    """
    concept_id = await connection.fetchval(
        # Nobody annotates with it from here to the end of the transaction.
        "SELECT id FROM concepts WHERE app_id = $1 AND own_id = $2 FOR UPDATE",
        app_id,
        own_id,
    )
    if concept_id is None:
        return None
    rows = await connection.fetch(
        """
        DELETE FROM annotations WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM annotations WHERE app_id = $1 AND concept_id = $2 ORDER BY input_id LIMIT $3
        )) AND app_id = $1 AND concept_id = $2
        RETURNING input_id
        """,
        app_id,
        concept_id,
        limit,
    )
    await change_feed.record(connection, app_id, sorted(row["input_id"] for row in rows))
    if len(rows) == limit:
        return False
    await connection.execute("DELETE FROM concepts WHERE app_id = $1 AND id = $2", app_id, concept_id)
    return True
