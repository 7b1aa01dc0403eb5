"""SQL of versions: making, reading and removing them. How they change state stands in `version_state_store`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import NotFoundError
from lensmith_registry.store import Json, ModelRow

__all__ = [
    "Json",
    "NewVersion",
    "VersionRow",
    "State",
    "best_ready",
    "adopt",
    "changed",
    "count_unended",
    "delete_version",
    "evaluation_of",
    "follow",
    "follow_best_base",
    "get_version",
    "has_network",
    "insert_version",
    "list_versions",
    "newest_ready",
    "remove_versions_on",
    "update_version",
    "version_by_uid",
    "version_on",
]

State = Literal["QUEUED", "TRAINING", "READY", "FAILED", "CANCELLED"]

_COLUMNS = """v.id, v.uid, v.app_id, m.app_name, m.model, v.model_id, v.number, v.state, v.error, v.fraction, v.stage,
  v.progress_message, v.space, v.base_model, v.model_snapshot, v.seed, v.concepts, v.display_names, v.thresholds,
  v.input_count, v.dataset_sha256, v.findings, v.summary, v.head, v.note,
  v.number = m.production_version AS production, v.lease,
  extract(epoch FROM v.lease_expires_at - now())::float8 AS lease_left, v.revision,
  v.created_at, v.started_at, v.completed_at, v.ended_at, v.taxonomy, v.temperature, v.upgrade,
  v.training, v.tier, v.out_of_fold, v.dataset_snapshot, v.threshold_aim, v.updated_at, v.updated_by,
  v.network, v.network_space, v.network_sha256, v.network_bytes, v.network_dimensions, v.network_input_side"""
_FROM = "FROM model_versions v JOIN models m ON m.app_id = v.app_id AND m.id = v.model_id"

# Of an imported model: the version on the base model of the highest rank, of which only the newest version counts.
_BEST = """SELECT newest.number FROM (
    SELECT DISTINCT ON (b.name) b.name, b.rank, v.number FROM model_versions v JOIN base_models b ON b.space = v.space
    WHERE v.app_id = $1 AND v.model_id = $2 AND v.deleted_at IS NULL ORDER BY b.name, b.version DESC
  ) newest ORDER BY newest.rank DESC, newest.name LIMIT 1"""


@dataclass(frozen=True)
class VersionRow:
    """A version that is not deleted.

    Attributes:
        error: google.rpc.Status as JSON, of a FAILED one.
        model_snapshot: lensmith.v1.Model as JSON, as it stood when the version was queued.
        head: Key among the blobs; empty: none yet, or the base model's own classifier.
        lease: Fencing number of the newest claim.
        lease_left: Seconds until that claim runs out; negative when it has, None where none holds.
        completed_at: When its head was stored.
        taxonomy: Of the base model's classes, where the version's concepts are sums over them; else empty.
        temperature: What the logits of the base model's own classifier are divided by.
        upgrade: Number of the upgrade that it was trained for; 0: none.
        training: lensmith.v1.TrainingSettings as JSON, complete.
        tier: Of its head; empty: none of its own, or none yet.
        out_of_fold: Key of the scores behind its evaluation among the blobs; empty: it has none.
        dataset_snapshot: Key of the listing of what it was trained on; empty: it has none.
        threshold_aim: lensmith.v1.ThresholdAim as JSON that its thresholds were last chosen for; None: see `training`.
        updated_at: When its thresholds or its note were last changed; None: never.
        updated_by: Who changed them.
        network: Key under which the pack of its own network lies among the blobs; empty: none was put.
        network_space: Of that network; empty: the head is for `space`.
        network_sha256: Of the graph of that network.
        network_bytes: Size of that graph.
        network_dimensions: Of its features.
        network_input_side: Longest side of the pictures that it takes.
    """

    id: int
    uid: UUID
    app_id: int
    app_name: str
    model: str
    model_id: int
    number: int
    state: State
    error: Json
    fraction: float
    stage: str
    progress_message: str
    space: str
    base_model: str
    model_snapshot: Json
    seed: int
    concepts: list[str]
    display_names: list[str]
    thresholds: list[float]
    input_count: int
    dataset_sha256: str
    findings: Json
    summary: Json
    head: str
    note: str
    production: bool
    lease: int
    lease_left: float | None
    revision: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    ended_at: datetime | None
    taxonomy: str
    temperature: float
    upgrade: int
    training: Json
    tier: str
    out_of_fold: str
    dataset_snapshot: str
    threshold_aim: Json
    updated_at: datetime | None
    updated_by: str
    network: str
    network_space: str
    network_sha256: str
    network_bytes: int
    network_dimensions: int
    network_input_side: int

    @property
    def name(self) -> str:
        """Resource name."""
        return f"apps/{self.app_name}/models/{self.model}/versions/{self.number}"

    @property
    def etag(self) -> str:
        """Differs for every change."""
        return f"{self.uid.hex[:8]}-{self.revision}"

    @property
    def ended(self) -> bool:
        """Whether it has reached its last state."""
        return self.state in ("READY", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class NewVersion:
    """A version to queue, or (with `ready`) one that came trained; with `upgrade`, a candidate of that upgrade."""

    space: str
    base_model: str
    model_snapshot: Json
    seed: int
    concepts: Sequence[str]
    display_names: Sequence[str]
    findings: Json
    note: str
    actor: str
    thresholds: Sequence[float] = ()
    taxonomy: str = ""
    temperature: float = 1.0
    ready: bool = False
    upgrade: int = 0
    training: Json = field(default_factory=dict)
    progress_message: str = ""


async def insert_version(connection: Connection, model: ModelRow, number: int, new: NewVersion) -> VersionRow:
    """Queue a version of a locked model, or store one that is ready."""
    uid = await connection.fetchval(
        """INSERT INTO model_versions (app_id, model_id, number, state, space, base_model, model_snapshot, seed,
             concepts, display_names, thresholds, findings, note, actor, fraction, completed_at, ended_at,
             taxonomy, temperature, upgrade, candidate, training, progress_message)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
             CASE WHEN $16 THEN now() END, CASE WHEN $16 THEN now() END, $17, $18, $19, $19 > 0, $20, $21)
           RETURNING uid""",
        model.app_id,
        model.id,
        number,
        "READY" if new.ready else "QUEUED",
        new.space,
        new.base_model,
        new.model_snapshot,
        new.seed,
        list(new.concepts),
        list(new.display_names),
        list(new.thresholds),
        new.findings,
        new.note,
        new.actor,
        1.0 if new.ready else 0.0,
        new.ready,
        new.taxonomy,
        new.temperature,
        new.upgrade,
        new.training,
        new.progress_message,
    )
    return await version_by_uid(connection, model.app_id, uid)


async def count_unended(connection: Connection, app_id: int) -> int:
    """Count the versions of an app that wait or are in training, without candidates of an upgrade."""
    sql = """SELECT count(*) FROM model_versions WHERE app_id = $1 AND state IN ('QUEUED', 'TRAINING') AND upgrade = 0
      AND deleted_at IS NULL"""
    return int(await connection.fetchval(sql, app_id))


async def get_version(connection: Connection, app_id: int, model: str, number: int) -> VersionRow:
    """Return a version by its model's own id and its number.

    Raises:
        NotFoundError: There is none.
    """
    record = await connection.fetchrow(
        f"""SELECT {_COLUMNS} {_FROM} WHERE v.app_id = $1 AND m.model = $2 AND v.number = $3
            AND v.deleted_at IS NULL AND m.deleted_at IS NULL""",
        app_id,
        model,
        number,
    )
    return _found(record, f"{model}/versions/{number}")


async def version_by_uid(connection: Connection, app_id: int, uid: UUID) -> VersionRow:
    """Return a version by its uid.

    Raises:
        NotFoundError: There is none, or it was deleted.
    """
    record = await connection.fetchrow(
        f"SELECT {_COLUMNS} {_FROM} WHERE v.app_id = $1 AND v.uid = $2 AND v.deleted_at IS NULL",
        app_id,
        uid,
    )
    return _found(record, str(uid))


async def evaluation_of(connection: Connection, row: VersionRow) -> str | None:
    """Return the evaluation of a version as JSON, megabytes where there are very many concepts; None: it has none."""
    evaluation: str | None = await connection.fetchval(
        "SELECT evaluation::text FROM model_versions WHERE app_id = $1 AND id = $2", row.app_id, row.id
    )
    return evaluation


async def has_network(connection: Connection, app_id: int, key: str) -> bool:
    """Tell whether a version of an app is served by the network under a key among the blobs."""
    sql = """SELECT true FROM model_versions WHERE app_id = $1 AND network = $2 AND network_space <> ''
      AND deleted_at IS NULL"""
    return bool(await connection.fetchval(sql, app_id, key))


async def list_versions(connection: Connection, model: ModelRow, before: int, limit: int) -> list[VersionRow]:
    """Return the versions of a model, newest first, from the one below number `before`."""
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} {_FROM} WHERE v.app_id = $1 AND v.model_id = $2 AND v.number < $3
            AND v.deleted_at IS NULL ORDER BY v.number DESC LIMIT $4""",
        model.app_id,
        model.id,
        before,
        limit,
    )
    return [VersionRow(**dict(row)) for row in rows]


async def delete_version(connection: Connection, row: VersionRow) -> bool:
    """Bury a version of a locked model that is not in production; False: it is."""
    return await changed(
        connection,
        """UPDATE model_versions v SET deleted_at = now(), revision = v.revision + 1 FROM models m
           WHERE v.app_id = $1 AND v.uid = $2 AND v.deleted_at IS NULL AND m.app_id = v.app_id AND m.id = v.model_id
             AND m.production_version <> v.number""",
        row.app_id,
        row.uid,
    )


async def update_version(
    connection: Connection, row: VersionRow, thresholds: Sequence[float], threshold_aim: Json, note: str, actor: str
) -> None:
    """Change what may change of a version of a locked model."""
    await connection.execute(
        """UPDATE model_versions SET thresholds = $3, threshold_aim = $4, note = $5, updated_at = now(),
             updated_by = $6, revision = revision + 1
           WHERE app_id = $1 AND uid = $2 AND deleted_at IS NULL""",
        row.app_id,
        row.uid,
        list(thresholds),
        threshold_aim,
        note,
        actor,
    )


async def newest_ready(connection: Connection, model: ModelRow) -> int:
    """Return the number of the newest version that production may follow, 0 when there is none."""
    number = await connection.fetchval(
        """SELECT max(number) FROM model_versions WHERE app_id = $1 AND model_id = $2 AND completed_at IS NOT NULL
           AND deleted_at IS NULL AND NOT candidate""",
        model.app_id,
        model.id,
    )
    return int(number or 0)


async def adopt(connection: Connection, row: VersionRow) -> None:
    """Let a version be one like any other, whatever it was trained for: somebody put it into production."""
    await connection.execute(
        "UPDATE model_versions SET candidate = false WHERE app_id = $1 AND uid = $2 AND candidate", row.app_id, row.uid
    )


async def follow(connection: Connection, app_id: int, model_id: int, number: int) -> None:
    """Let production follow the newest success, unless it is pinned, or the success is not meant to be followed.

    That is a candidate of an upgrade, which decides itself, and a version of a base model that the app has left while
    it was trained: the one in production is newer in all that counts.
    """
    await connection.execute(
        """UPDATE models m SET production_version = $3, revision = m.revision + 1, updated_at = now()
           FROM model_versions v
           WHERE m.app_id = $1 AND m.id = $2 AND NOT m.pinned AND m.production_version < $3
             AND v.app_id = m.app_id AND v.model_id = m.id AND v.number = $3 AND NOT v.candidate
             AND (v.space = (SELECT s.space FROM app_spaces s WHERE s.app_id = $1) OR NOT EXISTS (
               SELECT FROM model_versions p JOIN app_spaces s ON s.app_id = p.app_id AND s.space = p.space
               WHERE p.app_id = $1 AND p.model_id = m.id AND p.number = m.production_version))""",
        app_id,
        model_id,
        number,
    )


async def best_ready(connection: Connection, model: ModelRow) -> int:
    """Return the number of the version of an imported model that should answer, 0 when there is none."""
    return int(await connection.fetchval(f"SELECT number FROM ({_BEST}) best", model.app_id, model.id) or 0)


async def follow_best_base(connection: Connection, app_id: int, model_id: int) -> None:
    """Let production follow the version on the base model of the highest rank, unless it is pinned to another."""
    await connection.execute(
        f"""UPDATE models m SET production_version = best.number, pinned = false, revision = revision + 1,
             updated_at = now()
           FROM ({_BEST}) best
           WHERE m.app_id = $1 AND m.id = $2 AND m.production_version <> best.number AND NOT (m.pinned AND EXISTS (
             SELECT FROM model_versions v WHERE v.app_id = $1 AND v.model_id = $2 AND v.number = m.production_version
               AND v.deleted_at IS NULL))""",
        app_id,
        model_id,
    )


async def version_on(connection: Connection, app_id: int, model: str, space: str) -> VersionRow | None:
    """Return the version of a model on the base model of a space; where it has none there, that on the smallest one."""
    record = await connection.fetchrow(
        f"""SELECT {_COLUMNS} {_FROM} JOIN base_models b ON b.space = v.space
            WHERE v.app_id = $1 AND m.model = $2 AND v.completed_at IS NOT NULL AND v.deleted_at IS NULL
              AND m.deleted_at IS NULL
            ORDER BY v.space = $3 DESC, b.input_side, b.size_bytes, v.number DESC LIMIT 1""",
        app_id,
        model,
        space,
    )
    return None if record is None else VersionRow(**dict(record))


async def remove_versions_on(connection: Connection, model: ModelRow, base_model: str) -> None:
    """Remove the versions of a locked model that came with a base model; they have no bytes of their own."""
    await connection.execute(
        "DELETE FROM model_versions WHERE app_id = $1 AND model_id = $2 AND base_model = $3",
        model.app_id,
        model.id,
        base_model,
    )


async def changed(connection: Connection, sql: str, *arguments: object) -> bool:
    """Execute an UPDATE; False when it found nothing to change."""
    status: str = await connection.execute(sql, *arguments)
    return status.split()[-1] != "0"


def _found(record: asyncpg.Record | None, name: str) -> VersionRow:
    if record is None:
        raise NotFoundError("VERSION_NOT_FOUND", f"there is no version {name}", metadata={"version": name})
    return VersionRow(**dict(record))
