"""The change feed: what changed since a cursor, without losing a change.

A cursor over a sequence skips transactions that took their number early and committed late. Here a change carries the
id of its transaction, and a reader goes no further than the oldest transaction that still runs: what lies behind that
horizon is complete. The feed is compacted, one row for each input however often it changed, so it never outgrows them.

The horizon is that of the whole Postgres server: a transaction that writes for long, in any database, holds back what
was changed after it began. A reader that needs all that is committed by now reads on until the horizon has passed it.
The numbers belong to one server: after loading a dump into another one, let everything
count as changed by ``UPDATE input_changes SET xid = pg_current_xact_id()``, and let readers begin with an empty cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lensmith_platform.db import Connection
from lensmith_platform.errors import InvalidInputError

_BEGINNING = "0.0"


@dataclass(frozen=True, slots=True)
class Changes:
    """A part of the feed.

    Attributes:
        ids: what changed, in the order of the feed.
        next_cursor: where the next part begins; never empty.
        horizon: number of the oldest transaction that ran; the feed ended before it.
        newest: what the horizon must reach until the feed has all that was committed when this part was read.
    """

    ids: Sequence[int]
    next_cursor: str
    horizon: int
    newest: int


async def record(connection: Connection, app_id: int, ids: Sequence[int]) -> None:
    """Note that inputs change, in the transaction that changes them.

    Args:
        connection: in the transaction.
        app_id: whose inputs.
        ids: of the inputs, in any order.
    """
    await connection.execute(
        """
        INSERT INTO input_changes (app_id, input_id) SELECT $1, unnest($2::bigint[])
        ON CONFLICT ON CONSTRAINT input_changes_pkey DO UPDATE SET xid = pg_current_xact_id()
        """,
        app_id,
        # In one order for everybody: two transactions with the same inputs wait for each other, not crosswise.
        sorted(set(ids)),
    )


async def heal(connection: Connection, app_id: int) -> None:
    """Bring back changes that a restored database would keep to itself; without any, nothing is written.

    A dump that was restored into a new cluster carries the old cluster's transaction ids, while the new one counts from
    the beginning: such changes lie behind a horizon that comes only after as many transactions. They become changes of
    this transaction.

    Args:
        connection: in a transaction that may write.
        app_id: whose inputs.
    """
    await connection.execute(
        """
        UPDATE input_changes SET xid = pg_current_xact_id()
        WHERE app_id = $1 AND xid >= pg_snapshot_xmax(pg_current_snapshot())
        """,
        app_id,
    )


async def read(connection: Connection, app_id: int, cursor: str, limit: int) -> Changes:
    """Read the part of the feed behind a cursor.

    Args:
        connection: in any transaction; its snapshot decides what is seen.
        app_id: whose inputs.
        cursor: of the part before; empty: from the beginning.
        limit: most ids to return. Fewer, or none, means that the end was reached for now.

    Raises:
        InvalidInputError: CURSOR_INVALID; also where the cursor is of another life of the database, which was restored.
    """
    xid, input_id = _parse(cursor)
    # Before the rows: a horizon that moved in between would tell of more than was read.
    end = await connection.fetchrow(
        """
        SELECT pg_snapshot_xmin(now)::text::bigint AS horizon, pg_snapshot_xmax(now)::text::bigint AS newest,
               $1::text::xid8 >= pg_snapshot_xmax(now) AS is_passed
        FROM pg_current_snapshot() AS now
        """,
        xid,
    )
    if end["is_passed"]:
        raise InvalidInputError("CURSOR_INVALID", "the cursor is ahead of this database; read from the beginning")
    rows = await connection.fetch(
        """
        SELECT xid::text AS xid, input_id FROM input_changes
        WHERE app_id = $1 AND (xid, input_id) > ($2::text::xid8, $3) AND xid < $4::text::xid8
        ORDER BY input_changes.xid, input_id LIMIT $5
        """,
        app_id,
        xid,
        input_id,
        str(end["horizon"]),
        limit,
    )
    next_cursor = f"{rows[-1]['xid']}.{rows[-1]['input_id']}" if rows else cursor or _BEGINNING
    return Changes([row["input_id"] for row in rows], next_cursor, end["horizon"], end["newest"])


def _parse(cursor: str) -> tuple[str, int]:
    if not cursor:
        return "0", 0
    xid, separator, input_id = cursor.partition(".")
    if not (separator and _is_number(xid) and _is_number(input_id)):
        raise InvalidInputError("CURSOR_INVALID", "the cursor is not one of this feed")
    return xid, int(input_id)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 1 << 63
