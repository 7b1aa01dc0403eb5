"""SQL of upgrades. What becomes of each model in one stands in `model_upgrade_store`.

    EMBEDDING -> TRAINING -> SWITCHING -> DONE        EMBEDDING | TRAINING -> FAILED | CANCELLED

Every step locks the upgrade first and looks at its state, so that of two rivals one finds nothing to do. Whoever takes
more locks takes them in this order: the upgrade, the space of the app, models by id.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import asyncpg

from lensmith_platform.db.unit_of_work import Connection, savepoint
from lensmith_platform.errors import NotFoundError, PreconditionError
from lensmith_platform.principal import AppRef
from lensmith_registry import changes
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.version_store import Json

__all__ = [
    "ENDED",
    "State",
    "UpgradeRow",
    "claim",
    "get_upgrade",
    "insert_upgrade",
    "list_upgrades",
    "lock_upgrade",
    "note_progress",
    "release",
    "running_number",
    "set_state",
    "settle",
    "touch",
    "upgrade_by_uid",
]

State = Literal["EMBEDDING", "TRAINING", "SWITCHING", "DONE", "FAILED", "CANCELLED"]
ENDED: tuple[State, ...] = ("DONE", "FAILED", "CANCELLED")

_COLUMNS = """id, uid, app_id, number, app_uid, app_name, app_base_model, state, from_space, from_base_model, space,
  base_model, force, input_count, embedded_input_count, failed_input_count, error, message, actor, revision,
  created_at, switched_at, ended_at"""


@dataclass(frozen=True)
class UpgradeRow:
    """An upgrade.

    Attributes:
        error: google.rpc.Status as JSON: why it failed, or what holds it up.
    """

    id: int
    uid: UUID
    app_id: int
    number: int
    app_uid: str
    app_name: str
    app_base_model: str
    state: State
    from_space: str
    from_base_model: str
    space: str
    base_model: str
    force: bool
    input_count: int
    embedded_input_count: int
    failed_input_count: int
    error: Json
    message: str
    actor: str
    revision: int
    created_at: datetime
    switched_at: datetime | None
    ended_at: datetime | None

    @property
    def name(self) -> str:
        """Resource name."""
        return f"apps/{self.app_name}/upgrades/{self.number}"

    @property
    def ended(self) -> bool:
        """Whether it has reached its last state."""
        return self.state in ENDED

    @property
    def app(self) -> AppRef:
        """The app."""
        return AppRef(self.app_id, self.app_uid, self.app_name, self.app_base_model)


async def insert_upgrade(
    connection: Connection, app: AppRef, before: BaseModelRow, after: BaseModelRow, *, force: bool, actor: str
) -> UpgradeRow:
    """Start an upgrade.

    Raises:
        PreconditionError: UPGRADE_RUNNING: the app has one that runs.
    """
    try:
        async with savepoint(connection):
            uid = await connection.fetchval(
                """INSERT INTO upgrades (app_id, number, app_uid, app_name, app_base_model, state, from_space,
                     from_base_model, space, base_model, held_space, force, actor)
                   SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4, 'EMBEDDING', $5, $6, $7, $8, $7, $9, $10
                   FROM upgrades WHERE app_id = $1 RETURNING uid""",
                app.app_id,
                app.uid,
                app.name,
                app.base_model,
                before.space,
                before.name,
                after.space,
                after.name,
                force,
                actor,
            )
    except asyncpg.UniqueViolationError as error:
        # Also where two took the same number: then the other one runs.
        raise PreconditionError(
            "UPGRADE_RUNNING", f"an upgrade of apps/{app.name} is running: wait for it, or cancel it"
        ) from error
    await changes.upgrade_changed(connection, app.app_id, uid)
    return await upgrade_by_uid(connection, app.app_id, uid)


async def get_upgrade(connection: Connection, app_id: int, number: int) -> UpgradeRow:
    """Return an upgrade by its number.

    Raises:
        NotFoundError: There is none.
    """
    record = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM upgrades WHERE app_id = $1 AND number = $2", app_id, number
    )
    return _found(record, str(number))


async def upgrade_by_uid(connection: Connection, app_id: int, uid: UUID) -> UpgradeRow:
    """Return an upgrade by its uid.

    Raises:
        NotFoundError: There is none.
    """
    record = await connection.fetchrow(f"SELECT {_COLUMNS} FROM upgrades WHERE app_id = $1 AND uid = $2", app_id, uid)
    return _found(record, str(uid))


async def list_upgrades(connection: Connection, app_id: int, before: int, limit: int) -> list[UpgradeRow]:
    """Return the upgrades of an app, newest first, from the one below number `before`."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM upgrades WHERE app_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        app_id,
        before,
        limit,
    )
    return [UpgradeRow(**dict(row)) for row in rows]


async def running_number(connection: Connection, app_id: int) -> int:
    """Return the number of the upgrade that runs, 0 when none does."""
    number = await connection.fetchval(
        "SELECT number FROM upgrades WHERE app_id = $1 AND state IN ('EMBEDDING', 'TRAINING', 'SWITCHING')", app_id
    )
    return int(number or 0)


async def lock_upgrade(connection: Connection, app_id: int, upgrade_id: int) -> UpgradeRow:
    """Return an upgrade and keep others from changing it until the transaction ends.

    Raises:
        NotFoundError: It is gone, with its app.
    """
    record = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM upgrades WHERE app_id = $1 AND id = $2 FOR UPDATE", app_id, upgrade_id
    )
    return _found(record, str(upgrade_id))


async def claim(connection: Connection, seconds: float) -> UpgradeRow | None:
    """Take the upgrade that has waited longest, of any app, for so long that a step is done by then."""
    record = await connection.fetchrow(
        f"""UPDATE upgrades SET claimed_until = now() + make_interval(secs => $1) WHERE (app_id, id) IN (
              SELECT app_id, id FROM upgrades WHERE NOT settled AND claimed_until <= now()
              ORDER BY claimed_until LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING {_COLUMNS}""",
        seconds,
    )
    return None if record is None else UpgradeRow(**dict(record))


async def release(connection: Connection, row: UpgradeRow, seconds: float) -> None:
    """Let others take an upgrade, after a pause; one that has moved on goes on at once."""
    await connection.execute(
        """UPDATE upgrades SET claimed_until = now() + make_interval(secs => $3)
           WHERE app_id = $1 AND id = $2 AND state = $4""",
        row.app_id,
        row.id,
        seconds,
        row.state,
    )


async def note_progress(
    connection: Connection, row: UpgradeRow, inputs: int, embedded: int, failed: int, error: Json
) -> None:
    """Note how far the inputs of a locked upgrade are; watchers hear of it if that is new."""
    changed = await connection.fetchval(
        """UPDATE upgrades SET input_count = $3, embedded_input_count = $4, failed_input_count = $5, error = $6,
             revision = revision + 1
           WHERE app_id = $1 AND id = $2
             AND (input_count, embedded_input_count, failed_input_count, error) IS DISTINCT FROM ($3, $4, $5, $6)
           RETURNING true""",
        row.app_id,
        row.id,
        inputs,
        embedded,
        failed,
        error,
    )
    if changed:
        await changes.upgrade_changed(connection, row.app_id, row.uid)


async def set_state(
    connection: Connection, row: UpgradeRow, state: State, *, message: str = "", error: Json = None
) -> None:
    """Move a locked upgrade on; work goes on at once."""
    await connection.execute(
        """UPDATE upgrades SET state = $3, message = CASE WHEN $4 = '' THEN message ELSE $4 END, error = $5,
             switched_at = CASE WHEN $3 = 'SWITCHING' THEN now() ELSE switched_at END,
             ended_at = CASE WHEN $6 THEN now() END, held_space = CASE WHEN $6 THEN NULL ELSE held_space END,
             claimed_until = '-infinity', revision = revision + 1
           WHERE app_id = $1 AND id = $2""",
        row.app_id,
        row.id,
        state,
        message,
        error,
        state in ENDED,
    )
    await changes.upgrade_changed(connection, row.app_id, row.uid)


async def settle(connection: Connection, row: UpgradeRow) -> None:
    """Note that nothing is left to do for an upgrade that has ended."""
    await connection.execute("UPDATE upgrades SET settled = true WHERE app_id = $1 AND id = $2", row.app_id, row.id)


async def touch(connection: Connection, row: UpgradeRow) -> None:
    """Note that what watchers show of a locked upgrade has changed."""
    await connection.execute(
        "UPDATE upgrades SET revision = revision + 1 WHERE app_id = $1 AND id = $2", row.app_id, row.id
    )
    await changes.upgrade_changed(connection, row.app_id, row.uid)


def _found(record: asyncpg.Record | None, number: str) -> UpgradeRow:
    if record is None:
        raise NotFoundError("UPGRADE_NOT_FOUND", f"the app has no upgrade {number}", metadata={"upgrade": number})
    return UpgradeRow(**dict(record))
