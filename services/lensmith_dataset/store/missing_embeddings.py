"""Inputs that are READY and yet lack a vector of a space that their app wants: the work of the backfill.

They are taken by leases, so any number of processes share the work, and what a dead one had taken is taken again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from lensmith_dataset.store import general
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_dataset.store.indexing import Waiting
from lensmith_dataset.store.spaces import OPEN, Space, fail_inputs, share
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection

_LISTED_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Claim:
    """Inputs of one app that wait for a vector of one space, and that nobody else takes for a while."""

    app_id: int
    space: Space
    inputs: Sequence[Waiting]


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
            SELECT app_id, space, input_id FROM missing_embeddings WHERE {OPEN} AND claimed_until <= now()
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
                has_work = EXISTS (SELECT FROM missing_embeddings WHERE {OPEN})
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
    await share(connection, app_id)
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
        await fail_inputs(connection, app_id, space, list(failures))
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
