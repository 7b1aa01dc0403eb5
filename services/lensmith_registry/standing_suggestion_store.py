"""SQL of suggestions that are followed for good: what somebody accepted, later versions do by themselves."""

from __future__ import annotations

from collections.abc import Sequence

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry.suggestion_store import SuggestionRow, suggestion_row
from lensmith_registry.version_store import VersionRow

__all__ = ["accept_standing", "forget_standing", "put_standing"]


async def put_standing(connection: Connection, version: VersionRow, fingerprints: Sequence[bytes], actor: str) -> None:
    """Remember what is followed from now on, in all later versions of the model."""
    await connection.execute(
        """INSERT INTO standing_suggestions (app_id, model_id, fingerprint, actor)
           SELECT $1, $2, fingerprint, $4 FROM unnest($3::bytea[]) AS fingerprint ORDER BY fingerprint
           ON CONFLICT DO NOTHING""",
        version.app_id,
        version.model_id,
        list(fingerprints),
        actor,
    )


async def forget_standing(connection: Connection, version: VersionRow, fingerprints: Sequence[bytes]) -> None:
    """Follow some no more."""
    await connection.execute(
        "DELETE FROM standing_suggestions WHERE app_id = $1 AND model_id = $2 AND fingerprint = ANY($3::bytea[])",
        version.app_id,
        version.model_id,
        list(fingerprints),
    )


async def accept_standing(connection: Connection, version: VersionRow) -> list[SuggestionRow]:
    """Note that what is followed for good is followed in a version too; return its suggestions that this is true of."""
    rows = await connection.fetch(
        """UPDATE suggestions AS one SET state = 'ACCEPTED', actor = standing.actor, decided_at = now()
           FROM standing_suggestions AS standing
           WHERE one.app_id = $1 AND one.version_id = $2 AND one.state = 'OPEN' AND standing.app_id = $1
             AND standing.model_id = $3 AND standing.fingerprint = one.fingerprint
           RETURNING one.number, one.kind, one.concept, one.other_concept, one.score, one.body, one.fingerprint,
             one.state, one.actor, one.decided_at""",
        version.app_id,
        version.id,
        version.model_id,
    )
    return sorted((suggestion_row(row) for row in rows), key=lambda row: row.number)
