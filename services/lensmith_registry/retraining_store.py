"""SQL of training by itself: which models are due for a look, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry.store import Json, ModelRow

__all__ = ["DueModel", "claim", "note_queued", "note_refused", "start_counting", "still_due"]

_UNENDED = """EXISTS (SELECT FROM model_versions v WHERE v.app_id = m.app_id AND v.model_id = m.id
  AND v.state IN ('QUEUED', 'TRAINING') AND v.deleted_at IS NULL)"""


@dataclass(frozen=True)
class DueModel:
    """A model to look at.

    Attributes:
        annotations_cursor: Annotations behind it are new to the newest version; empty: there is no such version, or it
            is from before this was counted.
        last_number: Number of the newest version ever made; 0: none.
        pending_annotations: Annotations before the cursor that the newest version had to do without.
        refused_at_count: New annotations by the time that training was refused; 0: it was not.
    """

    app_id: int
    uid: UUID
    annotations_cursor: str
    last_number: int
    pending_annotations: int
    refused_at_count: int


async def claim(connection: Connection, pause_seconds: float, limit: int) -> list[DueModel]:
    """Take models of all apps that nobody has looked at for a while, but none with a version that is in training."""
    rows = await connection.fetch(
        f"""UPDATE models SET retrain_looked_at = now()
            WHERE (app_id, id) IN (
              SELECT m.app_id, m.id FROM models m JOIN app_spaces s ON s.app_id = m.app_id
              WHERE m.retrain_after_annotations > 0 AND m.deleted_at IS NULL AND NOT m.imported
                AND m.retrain_looked_at < now() - make_interval(secs => $1) AND NOT {_UNENDED}
              ORDER BY m.retrain_looked_at LIMIT $2 FOR UPDATE OF m SKIP LOCKED)
            RETURNING app_id, uid, annotations_cursor, last_number, pending_annotations,
                      retrain_refused_at_count AS refused_at_count""",
        pause_seconds,
        limit,
    )
    return [DueModel(**dict(row)) for row in rows]


async def still_due(connection: Connection, model: ModelRow, due: DueModel) -> bool:
    """Tell of a locked model whether nothing was queued since it was claimed."""
    # The cursor alone would not tell: it stays where pictures that waited are all that a version was queued for.
    still = await connection.fetchval(
        f"""SELECT m.retrain_after_annotations > 0 AND m.annotations_cursor = $3 AND m.pending_annotations = $4
              AND NOT {_UNENDED}
            FROM models m WHERE m.app_id = $1 AND m.id = $2""",
        model.app_id,
        model.id,
        due.annotations_cursor,
        due.pending_annotations,
    )
    return bool(still)


async def note_queued(connection: Connection, model: ModelRow, cursor: str, pending_annotations: int) -> None:
    """Note in the transaction that queues a version what it sees, so that everything counts for a version.

    What waited and is changed before the next one counts twice for that: as what waited, and as what is new. To tell
    would take the transaction of each vector beside it.

    Args:
        connection: In a transaction that has locked the model.
        model: The model.
        cursor: Annotations behind it are newer than the version.
        pending_annotations: How many before it still wait for their vector, so that the version misses them.
    """
    await connection.execute(
        """UPDATE models SET annotations_cursor = $3, pending_annotations = $4, retrain_error = NULL,
             retrain_refused_at_count = 0
           WHERE app_id = $1 AND id = $2""",
        model.app_id,
        model.id,
        cursor,
        pending_annotations,
    )


async def start_counting(connection: Connection, due: DueModel, cursor: str, pending_annotations: int) -> None:
    """Count from a cursor on, where the one before is none of this database or there is none yet."""
    await connection.execute(
        """UPDATE models SET annotations_cursor = $4, pending_annotations = $5, retrain_refused_at_count = 0
           WHERE app_id = $1 AND uid = $2 AND annotations_cursor = $3""",
        due.app_id,
        due.uid,
        due.annotations_cursor,
        cursor,
        pending_annotations,
    )


async def note_refused(connection: Connection, due: DueModel, count: int, error: Json) -> bool:
    """Note why training was refused, and at how many new annotations; False: something was queued meanwhile."""
    status: str = await connection.execute(
        """UPDATE models SET retrain_error = $4, retrain_refused_at_count = $5, revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND annotations_cursor = $3 AND pending_annotations = $6
             AND retrain_after_annotations > 0 AND deleted_at IS NULL""",
        due.app_id,
        due.uid,
        due.annotations_cursor,
        error,
        count,
        due.pending_annotations,
    )
    return status.split()[-1] != "0"
