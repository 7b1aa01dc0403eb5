"""SQL of the state machine of a version: every change of state goes through here.

    QUEUED -> TRAINING -> READY | FAILED | CANCELLED        QUEUED -> FAILED | CANCELLED

Each step is one UPDATE whose WHERE names the state it leaves, so that of two rivals one finds nothing to update. What a
trainer writes carries its lease, a number that grows with every claim: a trainer given up for dead changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry.network_store import StoredNetwork
from lensmith_registry.version_store import Json, changed, follow

__all__ = [
    "Outcome",
    "Unfinished",
    "cancel",
    "claim",
    "complete",
    "fail",
    "make_ready",
    "renew",
    "set_blobs",
    "unfinished",
]


@dataclass(frozen=True)
class Outcome:
    """What a trainer hands in with the head."""

    head: str
    concepts: Sequence[str]
    display_names: Sequence[str]
    thresholds: Sequence[float]
    input_count: int
    dataset_sha256: str
    findings: Json
    summary: Json
    evaluation: Json
    tier: str
    network: StoredNetwork | None = None


@dataclass(frozen=True)
class Unfinished:
    """A version that waits for longer than it should."""

    app_id: int
    uid: UUID
    completed: bool
    fine_tuning: bool


async def claim(connection: Connection, app_id: int, uid: UUID, trainer: str, lease_seconds: float) -> bool:
    """QUEUED, or TRAINING with a lease that ran out -> TRAINING with a new lease. False: nothing to claim."""
    return await changed(
        connection,
        """UPDATE model_versions SET state = 'TRAINING', lease = lease + 1, trainer = $3,
             lease_expires_at = now() + make_interval(secs => $4), started_at = coalesce(started_at, now()),
             fraction = 0, stage = 'fetching', progress_message = '', revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND deleted_at IS NULL
             AND (state = 'QUEUED' OR (state = 'TRAINING' AND completed_at IS NULL AND lease_expires_at <= now()))""",
        app_id,
        uid,
        trainer,
        lease_seconds,
    )


async def renew(
    connection: Connection,
    app_id: int,
    uid: UUID,
    lease: int,
    lease_seconds: float,
    progress: tuple[float, str, str],
) -> bool:
    """TRAINING -> TRAINING: keep the lease, store how far it is. False: not this lease's any more."""
    return await changed(
        connection,
        """UPDATE model_versions SET lease_expires_at = now() + make_interval(secs => $4), announced_at = now(),
             fraction = greatest(fraction, $5), stage = $6, progress_message = $7, revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND lease = $3 AND state = 'TRAINING' AND completed_at IS NULL
             AND deleted_at IS NULL""",
        app_id,
        uid,
        lease,
        lease_seconds,
        *progress,
    )


async def set_blobs(
    connection: Connection,
    app_id: int,
    uid: UUID,
    lease: int,
    lease_seconds: float,
    head: str,
    out_of_fold: str,
    dataset_snapshot: str,
) -> bool:
    """TRAINING -> TRAINING: name the blobs that are about to be written, so that none is ever forgotten."""
    return await changed(
        connection,
        """UPDATE model_versions SET head = $4, lease_expires_at = now() + make_interval(secs => $5), out_of_fold = $6,
             dataset_snapshot = $7
           WHERE app_id = $1 AND uid = $2 AND lease = $3 AND state = 'TRAINING' AND completed_at IS NULL
             AND deleted_at IS NULL""",
        app_id,
        uid,
        lease,
        head,
        lease_seconds,
        out_of_fold,
        dataset_snapshot,
    )


async def complete(connection: Connection, app_id: int, uid: UUID, lease: int, outcome: Outcome) -> bool:
    """TRAINING -> TRAINING with its head: from here on it answers; READY follows once serving has been told."""
    # The model's row first, as everybody who takes both does.
    await connection.execute(
        """SELECT 1 FROM models WHERE app_id = $1
           AND id = (SELECT model_id FROM model_versions WHERE app_id = $1 AND uid = $2) FOR UPDATE""",
        app_id,
        uid,
    )
    record = await connection.fetchrow(
        """UPDATE model_versions SET completed_at = now(), fraction = 1, stage = 'storing', progress_message = '',
             concepts = $5, display_names = $6, thresholds = $7, input_count = $8, dataset_sha256 = $9, findings = $10,
             summary = $11, evaluation = $12, tier = $13, network_space = $14, network_sha256 = $15,
             network_bytes = $16, network_dimensions = $17, network_input_side = $18, announced_at = now(),
             revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND lease = $3 AND head = $4 AND state = 'TRAINING' AND completed_at IS NULL
             AND deleted_at IS NULL
           RETURNING model_id, number""",
        app_id,
        uid,
        lease,
        outcome.head,
        list(outcome.concepts),
        list(outcome.display_names),
        list(outcome.thresholds),
        outcome.input_count,
        outcome.dataset_sha256,
        outcome.findings,
        outcome.summary,
        outcome.evaluation,
        outcome.tier,
        *(("", "", 0, 0, 0) if outcome.network is None else astuple(outcome.network)),
    )
    if record is None:
        return False
    await follow(connection, app_id, record["model_id"], record["number"])
    return True


async def make_ready(connection: Connection, app_id: int, uid: UUID) -> bool:
    """TRAINING and completed -> READY. False: it is READY already, or gone."""
    return await changed(
        connection,
        """UPDATE model_versions SET state = 'READY', ended_at = now(), lease_expires_at = NULL,
             revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND state = 'TRAINING' AND completed_at IS NOT NULL
             AND deleted_at IS NULL""",
        app_id,
        uid,
    )


async def fail(connection: Connection, app_id: int, uid: UUID, lease: int, error: Json) -> bool:
    """QUEUED or TRAINING -> FAILED. False: not this lease's any more."""
    return await changed(
        connection,
        """UPDATE model_versions SET state = 'FAILED', error = $4, ended_at = now(), lease_expires_at = NULL,
             progress_message = '', revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND lease = $3 AND state IN ('QUEUED', 'TRAINING')
             AND completed_at IS NULL AND deleted_at IS NULL""",
        app_id,
        uid,
        lease,
        error,
    )


async def cancel(connection: Connection, app_id: int, uid: UUID) -> bool:
    """QUEUED or TRAINING -> CANCELLED. False: it has ended, or its head is stored and serving."""
    return await changed(
        connection,
        """UPDATE model_versions SET state = 'CANCELLED', ended_at = now(), lease_expires_at = NULL,
             progress_message = '', revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND state IN ('QUEUED', 'TRAINING') AND completed_at IS NULL
             AND deleted_at IS NULL""",
        app_id,
        uid,
    )


async def unfinished(connection: Connection, silent_seconds: float, limit: int) -> list[Unfinished]:
    """Take versions that nobody has worked on for too long, of all apps, and note that the bus is told again."""
    rows = await connection.fetch(
        """UPDATE model_versions SET announced_at = now()
           WHERE (app_id, id) IN (
             SELECT app_id, id FROM model_versions
             WHERE state IN ('QUEUED', 'TRAINING') AND deleted_at IS NULL
               AND announced_at < now() - make_interval(secs => $1)
               -- A long queue is no loss: what waits is announced again less and less often.
               AND (state <> 'QUEUED' OR announced_at < now() - (now() - created_at) / 2)
               AND (lease_expires_at IS NULL OR lease_expires_at < now() OR completed_at IS NOT NULL)
             ORDER BY announced_at LIMIT $2 FOR UPDATE SKIP LOCKED)
           RETURNING app_id, uid, completed_at IS NOT NULL AS completed,
             coalesce(training->>'mode', '') = 'TRAINING_MODE_FINE_TUNE' AS fine_tuning""",
        silent_seconds,
        limit,
    )
    return [Unfinished(row["app_id"], row["uid"], row["completed"], row["fine_tuning"]) for row in rows]
