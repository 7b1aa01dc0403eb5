"""SQL of what becomes of buried versions: found again once their grace is over, then removed."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection

__all__ = ["Purgeable", "purge_candidates", "remove_version"]


@dataclass(frozen=True)
class Purgeable:
    """A buried version with the keys of its blobs; its networks are found by what their keys begin with.

    Attributes:
        scores: Key of the scores behind its evaluation, which may stay for other versions; empty: it has none.
        contested: Whether several trainers had it in turn: bytes that one of them sent too late are named by no row.
    """

    app_id: int
    id: int
    uid: UUID
    blobs: list[str]
    scores: str
    has_network: bool
    contested: bool


async def purge_candidates(connection: Connection, grace_seconds: float, limit: int) -> list[Purgeable]:
    """Return buried versions whose grace is over, of all apps."""
    rows = await connection.fetch(
        """SELECT app_id, id, uid, out_of_fold AS scores, network <> '' AS has_network, lease > 1 AS contested,
             array_remove(ARRAY[head, dataset_snapshot, CASE WHEN EXISTS (
               -- Scores stay as long as any version names them; of several that are buried, the last one takes them.
               SELECT FROM model_versions other
               WHERE other.app_id = v.app_id AND other.model_id = v.model_id AND other.out_of_fold = v.out_of_fold
                 AND other.id <> v.id AND (other.deleted_at IS NULL OR other.id > v.id)
             ) THEN '' ELSE out_of_fold END], '') AS blobs
           FROM model_versions v
           WHERE deleted_at < now() - make_interval(secs => $1) ORDER BY deleted_at LIMIT $2""",
        grace_seconds,
        limit,
    )
    return [Purgeable(**dict(row)) for row in rows]


async def remove_version(connection: Connection, app_id: int, version_id: int) -> None:
    """Remove a buried version for good."""
    await connection.execute(
        "DELETE FROM model_versions WHERE app_id = $1 AND id = $2 AND deleted_at IS NOT NULL", app_id, version_id
    )
