"""SQL of what becomes of each model in an upgrade, and of the versions that are trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lensmith_platform.db.unit_of_work import Connection
from lensmith_registry import changes
from lensmith_registry.upgrade_store import UpgradeRow, touch
from lensmith_registry.version_store import Json

__all__ = [
    "ModelUpgradeRow",
    "Outcome",
    "Standing",
    "bury_candidates",
    "forget_models",
    "models_of",
    "promote",
    "queued",
    "save_model",
    "standings",
]

Outcome = Literal["WAITING", "TRAINING", "TRAINED", "UPGRADED", "KEPT"]


@dataclass(frozen=True)
class ModelUpgradeRow:
    """What becomes of one model.

    Attributes:
        to_version: Number of the version trained for it; 0: none yet.
        rounds: How often a version was queued for it.
        figure: What versions are compared by.
    """

    model_id: int
    model: str
    outcome: Outcome
    from_version: int
    to_version: int
    rounds: int
    figure: str
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True)
class Standing:
    """How a model that has an answer stands now.

    Attributes:
        kind: `multi_class`, `multi_label` or `regression`.
        production_space: Space of the version that answers.
        summary: Figures of that version, lensmith.v1.EvaluationSummary as JSON.
        to_state: State of the version trained for the upgrade; None: there is none, or it was deleted.
        to_error: Why that failed, google.rpc.Status as JSON.
        to_summary: Its figures.
        overtaken: Whether its owner queued a version after that one, which answers by now.
        racing: Whether its owner queued a version after that one, which is not trained yet.
    """

    model_id: int
    model: str
    kind: str
    production_version: int
    pinned: bool
    production_space: str
    summary: Json
    to_state: str | None
    to_error: Json
    to_summary: Json
    overtaken: bool
    racing: bool


async def models_of(connection: Connection, row: UpgradeRow) -> list[ModelUpgradeRow]:
    """Return what becomes of the models, in order of their own id."""
    rows = await connection.fetch(
        """SELECT model_id, model, outcome, from_version, to_version, rounds, figure, before, after, reason
           FROM model_upgrades WHERE app_id = $1 AND upgrade_id = $2 ORDER BY model""",
        row.app_id,
        row.id,
    )
    return [ModelUpgradeRow(**dict(record)) for record in rows]


async def save_model(connection: Connection, row: UpgradeRow, model: ModelUpgradeRow) -> None:
    """Write what becomes of a model of a locked upgrade; watchers hear of it if that is new."""
    changed = await connection.fetchval(
        """INSERT INTO model_upgrades AS known (app_id, upgrade_id, model_id, model, outcome, from_version, to_version,
             rounds, figure, before, after, reason)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
           ON CONFLICT ON CONSTRAINT model_upgrades_pkey DO UPDATE SET outcome = $5, from_version = $6, to_version = $7,
             rounds = $8, before = $10, after = $11, reason = $12
           WHERE (known.outcome, known.from_version, known.to_version, known.before, known.after, known.reason)
             IS DISTINCT FROM ($5, $6, $7, $10, $11, $12)
           RETURNING true""",
        row.app_id,
        row.id,
        model.model_id,
        model.model,
        model.outcome,
        model.from_version,
        model.to_version,
        model.rounds,
        model.figure,
        model.before,
        model.after,
        model.reason,
    )
    if changed:
        await touch(connection, row)


async def queued(connection: Connection, row: UpgradeRow, model_id: int, number: int) -> None:
    """Note the version that was queued for a model of a locked upgrade; the one before it is buried."""
    before = await connection.fetchval(
        "SELECT to_version FROM model_upgrades WHERE app_id = $1 AND upgrade_id = $2 AND model_id = $3",
        row.app_id,
        row.id,
        model_id,
    )
    await connection.execute(
        """UPDATE model_upgrades SET outcome = 'TRAINING', to_version = $4, rounds = rounds + 1, reason = '',
             after = NULL
           WHERE app_id = $1 AND upgrade_id = $2 AND model_id = $3""",
        row.app_id,
        row.id,
        model_id,
        number,
    )
    await _bury(connection, row, "v.model_id = $3 AND v.number = $4", model_id, before)
    await touch(connection, row)


async def standings(connection: Connection, row: UpgradeRow, *, lock: bool) -> list[Standing]:
    """Return how the app's own models stand that have an answer, in order of id; locked until the transaction ends."""
    if lock:
        await connection.execute(
            "SELECT 1 FROM models WHERE app_id = $1 AND deleted_at IS NULL ORDER BY id FOR UPDATE", row.app_id
        )
    rows = await connection.fetch(
        """SELECT m.id AS model_id, m.model, m.type AS kind, m.production_version, m.pinned,
             p.space AS production_space, p.summary, v.state AS to_state, v.error AS to_error, v.summary AS to_summary,
             coalesce(own.overtaken, false) AS overtaken, coalesce(own.racing, false) AS racing
           FROM models m
           JOIN model_versions p ON p.app_id = m.app_id AND p.model_id = m.id AND p.number = m.production_version
           LEFT JOIN model_upgrades u ON u.app_id = m.app_id AND u.upgrade_id = $2 AND u.model_id = m.id
           LEFT JOIN model_versions v ON v.app_id = m.app_id AND v.model_id = m.id AND v.number = u.to_version
             AND v.deleted_at IS NULL
           LEFT JOIN LATERAL (
             SELECT bool_or(o.completed_at IS NOT NULL) AS overtaken, bool_or(o.completed_at IS NULL) AS racing
             FROM model_versions o
             WHERE o.app_id = m.app_id AND o.model_id = m.id AND o.number > u.to_version AND o.space <> $3
               AND o.state IN ('QUEUED', 'TRAINING', 'READY') AND o.deleted_at IS NULL
           ) own ON u.to_version > 0
           WHERE m.app_id = $1 AND NOT m.imported AND m.deleted_at IS NULL ORDER BY m.id""",
        row.app_id,
        row.id,
        row.space,
    )
    return [Standing(**dict(record)) for record in rows]


async def forget_models(connection: Connection, row: UpgradeRow, alive: Sequence[int]) -> None:
    """Drop the models of a locked upgrade that were deleted."""
    gone = await connection.fetchval(
        """WITH gone AS (DELETE FROM model_upgrades
             WHERE app_id = $1 AND upgrade_id = $2 AND model_id <> ALL($3::bigint[]) RETURNING 1)
           SELECT count(*) FROM gone""",
        row.app_id,
        row.id,
        alive,
    )
    if gone:
        await touch(connection, row)


async def promote(connection: Connection, row: UpgradeRow, model: ModelUpgradeRow) -> None:
    """Put the version that was trained for a locked upgrade into production."""
    await connection.execute(
        """UPDATE models SET production_version = $3, revision = revision + 1, updated_at = now()
           WHERE app_id = $1 AND id = $2""",
        row.app_id,
        model.model_id,
        model.to_version,
    )
    await connection.execute(
        """UPDATE model_versions SET candidate = false, revision = revision + 1
           WHERE app_id = $1 AND model_id = $2 AND number = $3""",
        row.app_id,
        model.model_id,
        model.to_version,
    )


async def bury_candidates(connection: Connection, row: UpgradeRow) -> None:
    """Bury the versions that were trained for a locked upgrade, but not one that somebody put into production."""
    await _bury(connection, row, "v.candidate")


async def _bury(connection: Connection, row: UpgradeRow, condition: str, *arguments: object) -> None:
    buried = await connection.fetch(
        f"""UPDATE model_versions v SET deleted_at = now(), revision = v.revision + 1 FROM models m
            WHERE v.app_id = $1 AND v.upgrade = $2 AND v.deleted_at IS NULL AND {condition}
              AND m.app_id = v.app_id AND m.id = v.model_id AND m.production_version <> v.number
            RETURNING v.uid""",
        row.app_id,
        row.number,
        *arguments,
    )
    for record in buried:
        await changes.version_changed(connection, row.app_id, record["uid"])
