"""SQL of suggestions: what to fix in the data of a version, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from asyncpg import Record

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry.version_store import Json, VersionRow

__all__ = [
    "Filter",
    "NewSuggestion",
    "SuggestionRow",
    "SuggestionStateName",
    "add",
    "announce_waiting",
    "by_numbers",
    "count",
    "decide",
    "dismiss",
    "exists",
    "insert",
    "is_given_up",
    "is_superseded",
    "list_page",
    "suggestion_row",
]

SuggestionStateName = Literal["OPEN", "ACCEPTED", "DISMISSED", "STALE"]

_TRIED_FOR = "interval '7 days'"
_SUPERSEDED = """EXISTS (SELECT FROM model_versions newer
    WHERE newer.app_id = v.app_id AND newer.model_id = v.model_id AND newer.number > v.number
      AND newer.completed_at IS NOT NULL AND newer.deleted_at IS NULL AND newer.out_of_fold <> '')"""
_COLUMNS = "number, kind, concept, other_concept, score, body, fingerprint, state, actor, decided_at"


@dataclass(frozen=True)
class NewSuggestion:
    """A suggestion to store; `input` is the uid of the picture whose labels would change, empty: none would."""

    input: str
    kind: str
    concept: str
    other_concept: str
    score: float
    body: Json
    fingerprint: bytes


@dataclass(frozen=True)
class SuggestionRow:
    """A stored suggestion.

    Attributes:
        number: 1, 2, 3 … within its version, in the order in which they are listed.
        body: lensmith.v1.Suggestion as JSON, inputs by uid.
        fingerprint: Equal for the same doubt about the same labels, in any version.
    """

    number: int
    kind: str
    concept: str
    other_concept: str
    score: float
    body: Json
    fingerprint: bytes
    state: SuggestionStateName
    actor: str
    decided_at: datetime | None


@dataclass(frozen=True)
class Filter:
    """Which suggestions are meant; empty fields mean all."""

    kind: str = ""
    concept: str = ""
    state: str = ""
    min_score: float = 0.0


async def exists(connection: Connection, version: VersionRow) -> bool:
    """Tell whether a version was looked through."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM suggestion_sets WHERE app_id = $1 AND version_id = $2)",
            version.app_id,
            version.id,
        )
    )


async def is_superseded(connection: Connection, version: VersionRow) -> bool:
    """Tell whether a newer version of the model is trained."""
    return bool(
        await connection.fetchval(
            f"SELECT {_SUPERSEDED} FROM model_versions v WHERE v.app_id = $1 AND v.id = $2", version.app_id, version.id
        )
    )


async def is_given_up(connection: Connection, version: VersionRow) -> bool:
    """Tell whether so much time has gone by that nobody will look through a version any more."""
    return bool(
        await connection.fetchval(
            f"SELECT completed_at < now() - {_TRIED_FOR} FROM model_versions WHERE app_id = $1 AND id = $2",
            version.app_id,
            version.id,
        )
    )


async def announce_waiting(connection: Connection, silent_seconds: float, limit: int) -> list[tuple[int, UUID]]:
    """Take app and uid of versions, of all apps, that nobody has looked through for too long; they count as told."""
    rows = await connection.fetch(
        f"""UPDATE model_versions SET announced_at = now()
            WHERE (app_id, id) IN (
              SELECT v.app_id, v.id FROM model_versions v
              WHERE v.state = 'READY' AND v.head <> '' AND v.out_of_fold <> '' AND v.deleted_at IS NULL
                AND v.completed_at > now() - {_TRIED_FOR} AND v.announced_at < now() - make_interval(secs => $1)
                -- What fails each time is tried less and less often.
                AND v.announced_at < now() - (now() - v.completed_at) / 2
                AND NOT EXISTS (SELECT FROM suggestion_sets s WHERE s.app_id = v.app_id AND s.version_id = v.id)
                AND NOT {_SUPERSEDED}
              ORDER BY v.announced_at LIMIT $2 FOR UPDATE OF v SKIP LOCKED)
            RETURNING app_id, uid""",
        silent_seconds,
        limit,
    )
    return [(row["app_id"], row["uid"]) for row in rows]


async def insert(connection: Connection, version: VersionRow, suggestions: Sequence[NewSuggestion]) -> bool:
    """Store the suggestions of a version, dismissed ones aside; False: they are there already."""
    status: str = await connection.execute(
        "INSERT INTO suggestion_sets (app_id, version_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        version.app_id,
        version.id,
    )
    if status.split()[-1] == "0":
        return False
    await _insert_after(connection, version, 0, await _not_dismissed(connection, version, suggestions))
    return True


async def add(
    connection: Connection, version: VersionRow, suggestions: Sequence[NewSuggestion], *, of_each_concept: bool = False
) -> list[int]:
    """Put pictures on the list of what to label next of a version, but those that are on it, or were dismissed.

    Args:
        connection: Of an open transaction.
        version: Whose list it is.
        suggestions: Of kind LABEL_NEXT.
        of_each_concept: A picture that is on the list for another concept comes on it for this one too.

    Returns:
        Numbers of the new suggestions, and of open ones about the other pictures.
    """
    await connection.execute(
        "SELECT FROM suggestion_sets WHERE app_id = $1 AND version_id = $2 FOR UPDATE", version.app_id, version.id
    )
    listed = await connection.fetch(
        """SELECT number, state, body->>'input' AS input FROM suggestions
           WHERE app_id = $1 AND version_id = $2 AND kind = 'LABEL_NEXT' AND body->>'input' = ANY($3::text[])
             AND (concept = ANY($4::text[]) OR NOT $5)
           ORDER BY number""",
        version.app_id,
        version.id,
        [one.input for one in suggestions],
        [one.concept for one in suggestions],
        of_each_concept,
    )
    last = await connection.fetchval(
        "SELECT coalesce(max(number), 0) FROM suggestions WHERE app_id = $1 AND version_id = $2",
        version.app_id,
        version.id,
    )
    there = {row["input"] for row in listed}
    fresh = await _not_dismissed(connection, version, [one for one in suggestions if one.input not in there])
    await _insert_after(connection, version, last, fresh)
    return [row["number"] for row in listed if row["state"] == "OPEN"] + [
        last + 1 + place for place in range(len(fresh))
    ]


async def _not_dismissed(
    connection: Connection, version: VersionRow, suggestions: Sequence[NewSuggestion]
) -> list[NewSuggestion]:
    rows = await connection.fetch(
        "SELECT fingerprint FROM dismissed_suggestions WHERE app_id = $1 AND model_id = $2",
        version.app_id,
        version.model_id,
    )
    dismissed = {row["fingerprint"] for row in rows}
    return [one for one in suggestions if one.fingerprint not in dismissed]


async def _insert_after(connection: Connection, version: VersionRow, last: int, fresh: Sequence[NewSuggestion]) -> None:
    await connection.execute(
        """INSERT INTO suggestions (app_id, version_id, number, kind, concept, other_concept, score, body, fingerprint)
           SELECT $1, $2, number, kind, concept, other_concept, score, body, fingerprint
           FROM unnest($3::int[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::jsonb[], $9::bytea[])
             AS new (number, kind, concept, other_concept, score, body, fingerprint)""",
        version.app_id,
        version.id,
        list(range(last + 1, last + 1 + len(fresh))),
        [one.kind for one in fresh],
        [one.concept for one in fresh],
        [one.other_concept for one in fresh],
        [one.score for one in fresh],
        [one.body for one in fresh],
        [one.fingerprint for one in fresh],
    )


async def list_page(
    connection: Connection, version: VersionRow, wanted: Filter, after: int, limit: int
) -> list[SuggestionRow]:
    """Return the suggestions after number `after`, in the order of their numbers."""
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM suggestions WHERE app_id = $1 AND version_id = $2 AND number > $3
            AND ($4 = '' OR kind = $4) AND ($5 = '' OR concept = $5 OR other_concept = $5)
            AND ($6 = '' OR state = $6) AND score >= $7 ORDER BY number LIMIT $8""",
        version.app_id,
        version.id,
        after,
        wanted.kind,
        wanted.concept,
        wanted.state,
        wanted.min_score,
        limit,
    )
    return [suggestion_row(row) for row in rows]


async def by_numbers(
    connection: Connection, version: VersionRow, numbers: Sequence[int], *, lock: bool = False
) -> dict[int, SuggestionRow]:
    """Return some suggestions by their numbers, locked if asked; those that do not exist are left out."""
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM suggestions WHERE app_id = $1 AND version_id = $2 AND number = ANY($3::int[])
            {"ORDER BY number FOR UPDATE" if lock else ""}""",
        version.app_id,
        version.id,
        list(numbers),
    )
    return {row["number"]: suggestion_row(row) for row in rows}


async def count(connection: Connection, version: VersionRow) -> list[tuple[str, int, int]]:
    """Return for each kind how many are open, and how many there are."""
    rows = await connection.fetch(
        """SELECT kind, count(*) FILTER (WHERE state = 'OPEN') AS open, count(*) AS total FROM suggestions
           WHERE app_id = $1 AND version_id = $2 GROUP BY kind ORDER BY min(number)""",
        version.app_id,
        version.id,
    )
    return [(row["kind"], row["open"], row["total"]) for row in rows]


async def decide(
    connection: Connection, version: VersionRow, decided: dict[SuggestionStateName, list[int]], actor: str
) -> None:
    """Note what became of locked suggestions."""
    for state, numbers in decided.items():
        await connection.execute(
            """UPDATE suggestions SET state = $4, actor = $5, decided_at = now()
               WHERE app_id = $1 AND version_id = $2 AND number = ANY($3::int[])""",
            version.app_id,
            version.id,
            numbers,
            state,
            actor,
        )


async def dismiss(connection: Connection, version: VersionRow, fingerprints: Sequence[bytes], actor: str) -> None:
    """Remember what is right as it is, for all later versions of the model."""
    await connection.execute(
        """INSERT INTO dismissed_suggestions (app_id, model_id, fingerprint, actor)
           SELECT $1, $2, fingerprint, $4 FROM unnest($3::bytea[]) AS fingerprint ORDER BY fingerprint
           ON CONFLICT DO NOTHING""",
        version.app_id,
        version.model_id,
        list(fingerprints),
        actor,
    )


def suggestion_row(row: Record) -> SuggestionRow:
    """A suggestion as a query returned it."""
    return SuggestionRow(**dict(row))
