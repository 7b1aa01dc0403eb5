"""SQL of learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry.version_store import Json, VersionRow

__all__ = ["LearningCurveRow", "announce_waiting", "finish", "get", "request"]

_COLUMNS = "state, curve, error, created_at, ended_at"


@dataclass(frozen=True)
class LearningCurveRow:
    """A learning curve.

    Attributes:
        curve: lensmith.v1.LearningCurve as JSON, of a READY one.
        error: google.rpc.Status as JSON, of a FAILED one.
        created_at: When it was last asked for.
    """

    state: Literal["QUEUED", "READY", "FAILED"]
    curve: Json
    error: Json
    created_at: datetime
    ended_at: datetime | None


async def get(connection: Connection, version: VersionRow) -> LearningCurveRow | None:
    """Return the learning curve of a version; None where nobody asked for it."""
    record: asyncpg.Record | None = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM learning_curves WHERE app_id = $1 AND version_id = $2", version.app_id, version.id
    )
    return None if record is None else LearningCurveRow(**dict(record))


async def request(connection: Connection, version: VersionRow) -> bool:
    """Ask for a learning curve, anew where there is one; False: it is under way."""
    status: str = await connection.execute(
        """INSERT INTO learning_curves (app_id, version_id, state) VALUES ($1, $2, 'QUEUED')
           ON CONFLICT (app_id, version_id) DO UPDATE SET state = 'QUEUED', curve = NULL, error = NULL,
             created_at = now(), ended_at = NULL, announced_at = now()
           WHERE learning_curves.state <> 'QUEUED'""",
        version.app_id,
        version.id,
    )
    return status.split()[-1] != "0"


async def finish(connection: Connection, version: VersionRow, curve: Json, error: Json) -> None:
    """Store what was found, or why nothing was; where that was done before, nothing changes."""
    await connection.execute(
        """UPDATE learning_curves SET state = $3, curve = $4, error = $5, ended_at = now()
           WHERE app_id = $1 AND version_id = $2 AND state = 'QUEUED'""",
        version.app_id,
        version.id,
        "READY" if error is None else "FAILED",
        curve,
        error,
    )


async def announce_waiting(connection: Connection, silent_seconds: float, limit: int) -> list[tuple[int, UUID]]:
    """Take app and uid of the versions whose curves have waited for too long, of all apps; they count as told."""
    rows = await connection.fetch(
        """UPDATE learning_curves l SET announced_at = now() FROM model_versions v
           WHERE (l.app_id, l.version_id) IN (
             SELECT waiting.app_id, waiting.version_id FROM learning_curves waiting
             -- Nobody is told of those of deleted versions: they would be the longest waiting, and taken each time.
             JOIN model_versions its ON its.app_id = waiting.app_id AND its.id = waiting.version_id
             WHERE waiting.state = 'QUEUED' AND its.deleted_at IS NULL
               AND waiting.announced_at < now() - make_interval(secs => $1)
               -- A long queue is no loss: what waits is announced again less and less often.
               AND waiting.announced_at < now() - (now() - waiting.created_at) / 2
             ORDER BY waiting.announced_at LIMIT $2 FOR UPDATE OF waiting SKIP LOCKED)
             AND v.app_id = l.app_id AND v.id = l.version_id
           RETURNING l.app_id, v.uid""",
        silent_seconds,
        limit,
    )
    return [(row["app_id"], row["uid"]) for row in rows]
