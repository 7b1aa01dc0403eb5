"""The spaces that every input of an app must have a vector of, and what is missing in them.

Three parties meet here: registry, which says which spaces an app wants; the indexer, which makes inputs READY in one of
them; and the backfill, which brings the others. The first excludes the second for a moment (`_LOCK`): every input is
either READY before a space is wanted, and found by listing, or it becomes READY after that, and is noted as it does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from lensmith_dataset.store import general
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_dataset.store.indexing import Waiting
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import ConflictError, DependencyUnavailableError

Role = Literal["current", "target", "retired"]

_LOCK = "SELECT pg_advisory_xact_lock{mode}(hashtextextended('lensmith/spaces/' || $1::bigint, 0))"
_LISTED_AT_ONCE = 5000
_OPEN = "app_id = $1 AND space = $2 AND error IS NULL"


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


@dataclass(frozen=True, slots=True)
class Claim:
    """Inputs of one app that wait for a vector of one space, and that nobody else takes for a while."""

    app_id: int
    space: Space
    inputs: Sequence[Waiting]


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
    await _fail_inputs(connection, app_id, current.space, None)


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


async def _fail_inputs(connection: Connection, app_id: int, space: str, ids: Sequence[int] | None) -> None:
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
    await connection.execute(_LOCK.format(mode="_shared"), app_id)
    rows = await connection.fetch("SELECT space FROM spaces WHERE app_id = $1 AND role <> 'retired'", app_id)
    wanted = [str(row["space"]) for row in rows]
    if wanted and space not in wanted:
        raise DependencyUnavailableError("SPACE_CHANGED", f"the app has left the space {space}")
    return [name for name in wanted if name != space]


async def note_missing(connection: Connection, app_id: int, spaces: Collection[str], ids: Sequence[int]) -> None:
    """Note that inputs lack their vectors of some spaces; to be called last, it locks the spaces."""
    for space in sorted(spaces):
        await connection.execute(
            """
            INSERT INTO missing_embeddings (app_id, space, input_id) SELECT $1, $2, unnest($3::bigint[])
            ON CONFLICT DO NOTHING
            """,
            app_id,
            space,
            ids,
        )
        await connection.execute("UPDATE spaces SET has_work = true WHERE app_id = $1 AND space = $2", app_id, space)


async def progress(connection: Connection, app_id: int, space: str) -> SpaceProgress:
    """Tell how far the inputs of an app are in a wanted space."""
    row = await connection.fetchrow(
        f"""
        SELECT (SELECT count(*) FROM inputs WHERE app_id = $1 AND status = 2) AS inputs,
               (SELECT count(*) FROM embeddings WHERE app_id = $1 AND space = $2) AS embedded,
               (SELECT count(*) FROM missing_embeddings WHERE app_id = $1 AND space = $2 AND error IS NOT NULL)
                   AS failed,
               listed_to IS NULL AND NOT EXISTS (SELECT FROM missing_embeddings WHERE {_OPEN}) AS complete,
               failures, error
        FROM spaces WHERE app_id = $1 AND space = $2
        """,
        app_id,
        space,
    )
    return SpaceProgress(**row)


async def claim(connection: Connection, lease: timedelta, limit: int) -> Claim | None:
    """Take inputs of the space that was worked on longest ago, of any app; None: there is nothing to do now.

    A space that is not listed yet is listed a part further first.
    """
    row = await connection.fetchrow(
        """
        UPDATE spaces SET worked_at = now() WHERE (app_id, space) IN (
            SELECT app_id, space FROM spaces WHERE has_work AND role <> 'retired' AND retry_at <= now()
            ORDER BY worked_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ) RETURNING app_id, space, base_model, dimensions, listed_to
        """
    )
    if row is None:
        return None
    app_id, space = row["app_id"], row["space"]
    listed = row["listed_to"] is None or await _list(connection, app_id, space, row["listed_to"])
    rows = await connection.fetch(
        f"""
        UPDATE missing_embeddings AS task SET claimed_until = now() + $3::interval FROM (
            SELECT app_id, space, input_id FROM missing_embeddings WHERE {_OPEN} AND claimed_until <= now()
            ORDER BY input_id LIMIT $4 FOR UPDATE SKIP LOCKED
        ) AS free
        WHERE task.app_id = free.app_id AND task.space = free.space AND task.input_id = free.input_id
        RETURNING task.input_id, task.attempts
        """,
        app_id,
        space,
        lease,
        limit,
    )
    if not rows and listed:
        # What others have taken may come back, so there is work until nothing is open.
        await connection.execute(
            f"""
            UPDATE spaces SET retry_at = now() + interval '1 second',
                has_work = EXISTS (SELECT FROM missing_embeddings WHERE {_OPEN})
            WHERE app_id = $1 AND space = $2
            """,
            app_id,
            space,
        )
    found = await _waiting(connection, app_id, space, {row["input_id"]: row["attempts"] for row in rows})
    return Claim(app_id, Space(space, row["base_model"], row["dimensions"]), found)


async def _list(connection: Connection, app_id: int, space: str, listed_to: int) -> bool:
    """Note which of the next inputs lack a vector; return whether all are listed."""
    last = await connection.fetchval(
        """
        SELECT max(id) FROM (
            SELECT id FROM inputs WHERE app_id = $1 AND status = 2 AND id > $2 ORDER BY id LIMIT $3
        ) AS part
        """,
        app_id,
        listed_to,
        _LISTED_AT_ONCE,
    )
    await connection.execute("UPDATE spaces SET listed_to = $3 WHERE app_id = $1 AND space = $2", app_id, space, last)
    if last is None:
        return True
    await connection.execute(
        """
        INSERT INTO missing_embeddings (app_id, space, input_id)
        SELECT $1, $2, input.id FROM inputs AS input
        WHERE input.app_id = $1 AND input.status = 2 AND input.id > $3 AND input.id <= $4 AND NOT EXISTS (
            SELECT FROM embeddings AS vector
            WHERE vector.app_id = $1 AND vector.space = $2 AND vector.input_id = input.id
        )
        ON CONFLICT DO NOTHING
        """,
        app_id,
        space,
        listed_to,
        last,
    )
    return False


async def _waiting(connection: Connection, app_id: int, space: str, attempts: Mapping[int, int]) -> list[Waiting]:
    """Return what is needed to embed claimed inputs; those that are gone are forgotten."""
    if not attempts:
        return []
    rows = await connection.fetch(
        """
        SELECT input.id, input.uid, input.sha256, blob.size_bytes
        FROM inputs AS input JOIN blobs AS blob ON blob.app_id = input.app_id AND blob.sha256 = input.sha256
        WHERE input.app_id = $1 AND input.id = ANY($2::bigint[]) AND input.status = 2 ORDER BY input.id
        """,
        app_id,
        list(attempts),
    )
    found = [Waiting(**row, attempts=attempts[row["id"]]) for row in rows]
    await _forget(connection, app_id, space, sorted(attempts.keys() - {waiting.id for waiting in found}))
    return found


async def _forget(connection: Connection, app_id: int, space: str, ids: Sequence[int]) -> None:
    if ids:
        await connection.execute(
            "DELETE FROM missing_embeddings WHERE app_id = $1 AND space = $2 AND input_id = ANY($3::bigint[])",
            app_id,
            space,
            ids,
        )


async def fill(
    connection: Connection,
    app_id: int,
    space: str,
    vectors: Mapping[int, bytes],
    failures: Mapping[int, bytes],
    seen: Mapping[int, GeneralConcepts],
) -> None:
    """Store halfvecs, what General saw, and why others will never come (serialised statuses).

    Repeating it changes nothing.

    Inputs that are gone, and spaces that the app has left, are passed over.
    """
    await connection.execute(_LOCK.format(mode="_shared"), app_id)
    role = await connection.fetchval("SELECT role FROM spaces WHERE app_id = $1 AND space = $2", app_id, space)
    if role is None or role == "retired":
        return
    locked = await connection.fetch(
        "SELECT id FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        app_id,
        [*vectors, *failures],
    )
    ids = [row["id"] for row in locked if row["id"] in vectors]
    await connection.executemany(
        """
        INSERT INTO embeddings (app_id, space, input_id, vector) VALUES ($1, $2, $3, $4)
        ON CONFLICT (app_id, space, input_id) DO UPDATE SET vector = EXCLUDED.vector
        """,
        [(app_id, space, input_id, vectors[input_id]) for input_id in ids],
    )
    await general.store(connection, app_id, {input_id: seen[input_id] for input_id in ids if input_id in seen})
    await change_feed.record(connection, app_id, ids)
    await _forget(connection, app_id, space, sorted(vectors))
    await connection.execute(
        """
        UPDATE missing_embeddings AS task SET error = done.error
        FROM unnest($3::bigint[], $4::bytea[]) AS done (id, error)
        WHERE task.app_id = $1 AND task.space = $2 AND task.input_id = done.id
        """,
        app_id,
        space,
        list(failures),
        list(failures.values()),
    )
    if role == "current" and failures:
        await _fail_inputs(connection, app_id, space, list(failures))
    await connection.execute(
        "UPDATE spaces SET failures = 0, error = NULL WHERE app_id = $1 AND space = $2 AND failures > 0", app_id, space
    )


async def release(
    connection: Connection, app_id: int, space: str, ids: Sequence[int], *, failed: Collection[int] = ()
) -> None:
    """Give claimed inputs back; those that made inference fail are counted."""
    await connection.execute(
        """
        UPDATE missing_embeddings SET claimed_until = '-infinity',
            attempts = attempts + (input_id = ANY($4::bigint[]))::integer
        WHERE app_id = $1 AND space = $2 AND input_id = ANY($3::bigint[])
        """,
        app_id,
        space,
        ids,
        list(failed),
    )


async def postpone(connection: Connection, app_id: int, space: str, pause: timedelta, error: bytes | None) -> None:
    """Leave a space alone for a while: inference is busy, or (with an error) nothing at all can be embedded there.

    Args:
        connection: in a transaction.
        app_id: the app.
        space: the space.
        pause: how long; twice as long for each failure before, up to ten seconds.
        error: a serialised `google.rpc.Status`.
    """
    await connection.execute(
        """
        UPDATE spaces SET failures = failures + ($4::bytea IS NOT NULL)::integer, error = coalesce($4, error),
            retry_at = now() + least($3::interval * (2 ^ least(failures, 10)), interval '10 seconds')
        WHERE app_id = $1 AND space = $2
        """,
        app_id,
        space,
        pause,
        error,
    )


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
