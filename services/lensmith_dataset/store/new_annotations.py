"""Annotations that are new since a snapshot of the database: counted exactly, whichever transaction committed when."""

import re
from collections.abc import Sequence

import asyncpg

from lensmith_dataset.store.training_data import WAITING
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import InvalidInputError

# The first condition is for the index; the last one decides.
_NEW = """label.xid >= pg_snapshot_xmin($2::text::pg_snapshot) AND label.xid < pg_snapshot_xmax(pg_current_snapshot())
            AND NOT pg_visible_in_snapshot(label.xid, $2::text::pg_snapshot)"""
# Of app $1 and concepts $3; $2 is for what follows.
_COUNT = """SELECT count(*) FROM annotations AS label
        JOIN inputs AS input ON input.app_id = $1 AND input.id = label.input_id AND NOT input.test
        WHERE label.app_id = $1
            AND ($3::text[] IS NULL
                 OR label.concept_id IN (SELECT id FROM concepts WHERE app_id = $1 AND own_id = ANY($3)))"""
_SNAPSHOT = re.compile(r"[0-9]{1,18}:[0-9]{1,18}:([0-9]{1,18}(,[0-9]{1,18})*)?")


async def cursor(connection: Connection, app_id: int) -> str:
    """Return what `count` takes to count an app's annotations from this transaction's snapshot on.

    The snapshot ends with the newest annotation that it shows. Ids beyond it belong to transactions that have not
    committed anything here, and Postgres gives out again what it has not kept when it crashes: in a cursor that tells
    them as seen, the annotations made after the crash would never count. Who is shown has committed, so it is kept.
    """
    row = await connection.fetchrow(
        """
        SELECT now::text AS snapshot, (
            SELECT label.xid::text FROM annotations AS label
            WHERE label.app_id = $1 AND label.xid < pg_snapshot_xmax(now) ORDER BY label.xid DESC LIMIT 1
        ) AS newest
        FROM pg_current_snapshot() AS now
        """,
        app_id,
    )
    _, xmax, running = row["snapshot"].split(":")
    end = min(int(xmax), int(row["newest"] or 0) + 1)
    before = [xid for xid in map(int, filter(None, running.split(","))) if xid < end]
    return f"{min(before, default=end)}:{end}:{','.join(map(str, before))}"


async def count(connection: Connection, app_id: int, concepts: Sequence[str] | None, since: str) -> int:
    """Count the annotations of concepts that were made or changed since a snapshot, each once.

    Those of inputs that are kept out of training do not count, nor do those of a restored dump's other life.

    Args:
        connection: in a repeatable read transaction, whose own `cursor` then continues where this count ended.
        app_id: whose annotations.
        concepts: own ids; None: all of the app.
        since: of `cursor`; empty: from the beginning.

    Raises:
        InvalidInputError: CURSOR_INVALID; also where it is of another life of the database, which was restored.
    """
    if since:
        await _check(connection, since)
    new = _NEW if since else "$2 = ''"
    total: int = await connection.fetchval(f"{_COUNT} AND {new}", app_id, since, concepts)
    return total


async def count_pending(connection: Connection, app_id: int, space: str, concepts: Sequence[str] | None) -> int:
    """Count the annotations of concepts (None: of all) on inputs to train on that wait for a vector of the space."""
    pending: int = await connection.fetchval(f"{_COUNT} AND label.input_id IN ({WAITING})", app_id, space, concepts)
    return pending


async def _check(connection: Connection, since: str) -> None:
    if not _SNAPSHOT.fullmatch(since):
        raise InvalidInputError("CURSOR_INVALID", "the cursor is not one of this count")
    try:
        ahead = await connection.fetchval(
            "SELECT pg_snapshot_xmax($1::text::pg_snapshot) > pg_snapshot_xmax(pg_current_snapshot())", since
        )
    except asyncpg.DataError as error:
        raise InvalidInputError("CURSOR_INVALID", "the cursor is not one of this count") from error
    if ahead:
        raise InvalidInputError("CURSOR_INVALID", "the cursor is ahead of this database; count from the beginning")
