"""The spaces that every input of an app must have a vector of. What is missing in them stands in `missing_embeddings`.

Three parties meet here: registry, which says which spaces an app wants; the indexer, which makes inputs READY in one of
them; and the backfill, which brings the others. The first excludes the second for a moment (`_LOCK`): every input is
either READY before a space is wanted, and found by listing, or it becomes READY after that, and is noted as it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import ConflictError, DependencyUnavailableError

Role = Literal["current", "target", "retired"]

_LOCK = "SELECT pg_advisory_xact_lock{mode}(hashtextextended('lensmith/spaces/' || $1::bigint, 0))"
OPEN = "app_id = $1 AND space = $2 AND error IS NULL"
"""Missing embeddings of an app in a space that may still come."""


@dataclass(frozen=True, slots=True)
class Space:
    """A space and the base model that makes its vectors."""

    space: str
    base_model: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class SpaceProgress:
    """How far the inputs of an app are in one space.

    Attributes:
        inputs: READY inputs of the app.
        embedded: vectors of the space.
        failed: inputs that cannot get one.
        complete: whether nothing is left to do.
        failures: how often in a row nothing could be embedded.
        error: why, a serialised `google.rpc.Status`; None: nothing did.
    """

    inputs: int
    embedded: int
    failed: int
    complete: bool
    failures: int
    error: bytes | None


async def set_spaces(
    connection: Connection, app_id: int, revision: int, current: Space, target: Space | None, keep: timedelta
) -> None:
    """Say which spaces an app wants; the others are retired.

    Args:
        connection: in a transaction.
        app_id: the app.
        revision: grows with every change of what is said.
        current: where inputs become READY.
        target: where the app is moving.
        keep: how long the vectors of spaces are kept that are wanted no more.

    Raises:
        ConflictError: something newer was said before.
    """
    await connection.execute(_LOCK.format(mode=""), app_id)
    known = await connection.fetchval("SELECT max(revision) FROM spaces WHERE app_id = $1", app_id)
    if known is not None and known > revision:
        raise ConflictError("SPACES_CHANGED", f"revision {known} of the spaces is newer than {revision}")
    wanted: list[tuple[Space, Role]] = [(current, "current")]
    if target is not None:
        wanted.append((target, "target"))
    await connection.execute(
        """
        UPDATE spaces SET role = 'retired', has_work = false, revision = $3,
            remove_at = now() + $4::interval
        WHERE app_id = $1 AND space <> ALL($2::text[]) AND role <> 'retired'
        """,
        app_id,
        [space.space for space, _ in wanted],
        revision,
        keep,
    )
    for space, role in wanted:
        await _want(connection, app_id, revision, space, role)
    await fail_inputs(connection, app_id, current.space, None)


async def _want(connection: Connection, app_id: int, revision: int, space: Space, role: Role) -> None:
    await connection.execute(
        """
        INSERT INTO spaces (app_id, space, base_model, dimensions, role, revision) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (app_id, space) DO UPDATE SET role = EXCLUDED.role, revision = EXCLUDED.revision, remove_at = NULL,
            listed_to = CASE WHEN spaces.role = 'retired' THEN 0 ELSE spaces.listed_to END,
            has_work = spaces.role = 'retired' OR spaces.has_work,
            failures = CASE WHEN spaces.role = 'retired' THEN 0 ELSE spaces.failures END,
            error = CASE WHEN spaces.role = 'retired' THEN NULL ELSE spaces.error END
        WHERE spaces.role <> EXCLUDED.role OR spaces.revision <> EXCLUDED.revision
        """,
        app_id,
        space.space,
        space.base_model,
        space.dimensions,
        role,
        revision,
    )


async def fail_inputs(connection: Connection, app_id: int, space: str, ids: Sequence[int] | None) -> None:
    """Make inputs FAILED that cannot get a vector of the current space: READY would promise one."""
    rows = await connection.fetch(
        """
        WITH hopeless AS (
            SELECT input_id, error FROM missing_embeddings
            WHERE app_id = $1 AND space = $2 AND error IS NOT NULL AND ($3::bigint[] IS NULL OR input_id = ANY($3))
        ), locked AS (
            SELECT input.id, hopeless.error FROM inputs AS input JOIN hopeless ON hopeless.input_id = input.id
            WHERE input.app_id = $1 AND input.status = 2 ORDER BY input.id FOR NO KEY UPDATE OF input
        )
        UPDATE inputs AS input SET status = 3, error = locked.error, updated_at = now() FROM locked
        WHERE input.app_id = $1 AND input.id = locked.id RETURNING input.id
        """,
        app_id,
        space,
        ids,
    )
    if rows:
        await connection.execute(
            "DELETE FROM missing_embeddings WHERE app_id = $1 AND space = $2 AND input_id = ANY($3::bigint[])",
            app_id,
            space,
            [row["id"] for row in rows],
        )


async def share(connection: Connection, app_id: int) -> None:
    """Keep others from changing which spaces an app wants, until the transaction ends."""
    await connection.execute(_LOCK.format(mode="_shared"), app_id)


async def current(connection: Connection, app_id: int) -> Space | None:
    """Return the space in which new inputs become READY; None where only registry knows it."""
    row = await connection.fetchrow(
        "SELECT space, base_model, dimensions FROM spaces WHERE app_id = $1 AND role = 'current'", app_id
    )
    return None if row is None else Space(**row)


async def others_wanted(connection: Connection, app_id: int, space: str) -> list[str]:
    """Return the wanted spaces besides the one that inputs are about to become READY in.

    Nobody changes what is wanted until the transaction ends.

    Raises:
        DependencyUnavailableError: the app does not want that space any more; the inputs must be embedded again.
    """
    await share(connection, app_id)
    rows = await connection.fetch("SELECT space FROM spaces WHERE app_id = $1 AND role <> 'retired'", app_id)
    wanted = [str(row["space"]) for row in rows]
    if wanted and space not in wanted:
        raise DependencyUnavailableError("SPACE_CHANGED", f"the app has left the space {space}")
    return [name for name in wanted if name != space]


async def progress(connection: Connection, app_id: int, space: str) -> SpaceProgress:
    """Tell how far the inputs of an app are in a wanted space."""
    row = await connection.fetchrow(
        f"""
        SELECT (SELECT count(*) FROM inputs WHERE app_id = $1 AND status = 2) AS inputs,
               (SELECT count(*) FROM embeddings WHERE app_id = $1 AND space = $2) AS embedded,
               (SELECT count(*) FROM missing_embeddings WHERE app_id = $1 AND space = $2 AND error IS NOT NULL)
                   AS failed,
               listed_to IS NULL AND NOT EXISTS (SELECT FROM missing_embeddings WHERE {OPEN}) AS complete,
               failures, error
        FROM spaces WHERE app_id = $1 AND space = $2
        """,
        app_id,
        space,
    )
    return SpaceProgress(**row)


async def remove_retired(connection: Connection, limit: int) -> bool:
    """Delete up to `limit` vectors of a space whose time is over, of any app; return whether there may be more."""
    row = await connection.fetchrow(
        """
        SELECT app_id, space FROM spaces WHERE role = 'retired' AND remove_at <= now()
        ORDER BY remove_at LIMIT 1 FOR UPDATE SKIP LOCKED
        """
    )
    if row is None:
        return False
    for table in ("embeddings", "missing_embeddings"):
        deleted = await connection.fetch(
            f"""
            DELETE FROM {table} WHERE app_id = $1 AND space = $2 AND input_id IN (
                SELECT input_id FROM {table} WHERE app_id = $1 AND space = $2 LIMIT $3
            ) RETURNING 1
            """,
            row["app_id"],
            row["space"],
            limit,
        )
        if deleted:
            return True
    await connection.execute("DELETE FROM spaces WHERE app_id = $1 AND space = $2", row["app_id"], row["space"])
    return True
