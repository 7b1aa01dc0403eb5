"""SQL of what becomes of buried versions: found again once their grace is over, then removed."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection

__all__ = ["Purgeable", "purge_candidates", "remove_version"]


@dataclass(frozen=True)
class Purgeable:
    """A buried version with the keys of its blobs; its networks are found by what their keys begin with."""

    app_id: int
    id: int
    uid: UUID
    blobs: list[str]
    has_network: bool


async def purge_candidates(connection: Connection, grace_seconds: float, limit: int) -> list[Purgeable]:
    """Return buried versions whose grace is over, of all apps."""
    rows = await connection.fetch(
        """SELECT app_id, id, uid, array_remove(ARRAY[head, out_of_fold, dataset_snapshot], '') AS blobs,
             network <> '' AS has_network FROM model_versions
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
