"""Inputs: found, listed, changed, deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from lensmith_dataset.store import blobs
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import ConflictError

_COLUMNS = """
    input.id, input.uid, input.own_id, input.sha256, input.status, input.error, input.test, input.metadata,
    input.source_url, input.revision, input.created_at, input.updated_at,
    blob.size_bytes, blob.mime_type, blob.width, blob.height
"""
_TABLES = "inputs AS input JOIN blobs AS blob ON blob.app_id = input.app_id AND blob.sha256 = input.sha256"


@dataclass(frozen=True, slots=True)
class InputRow:
    """An input with the facts of its file.

    Attributes:
        id: number inside the app's data, never shown.
        status: number of `lensmith.v1.InputStatus`.
        error: serialised `google.rpc.Status` when it failed.
        revision: grows with every change of `metadata` and `test`.
    """

    id: int
    uid: UUID
    own_id: str | None
    sha256: bytes
    status: int
    error: bytes | None
    test: bool
    metadata: Mapping[str, Any] | None
    source_url: str
    revision: int
    created_at: datetime
    updated_at: datetime
    size_bytes: int
    mime_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Change:
    """New values of an input; None leaves a field as it is.

    Attributes:
        metadata: the whole new metadata; empty removes it.
    """

    metadata: Mapping[str, Any] | None = None
    test: bool | None = None


def as_uid(text: str) -> UUID | None:
    """Return the uid that a text spells the way the platform does, or None."""
    try:
        uid = UUID(text)
    except ValueError:
        return None
    return uid if str(uid) == text else None


async def get(connection: Connection, app_id: int, key: str) -> InputRow | None:
    """Return the input that an own id or uid names."""
    row = await connection.fetchrow(
        # An own id is refused when it is another input's uid, so at most one of the two matches.
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE input.app_id = $1 AND (input.own_id = $2 OR input.uid = $3)",
        app_id,
        key,
        as_uid(key),
    )
    return None if row is None else InputRow(**row)


async def get_many(connection: Connection, app_id: int, ids: Sequence[int]) -> dict[int, InputRow]:
    """Return inputs by number; those that are gone are left out."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM {_TABLES} WHERE input.app_id = $1 AND input.id = ANY($2::bigint[])",
        app_id,
        ids,
    )
    return {row["id"]: InputRow(**row) for row in rows}


async def names(connection: Connection, app_id: int, uids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the own ids of those inputs that have one."""
    rows = await connection.fetch(
        "SELECT uid, own_id FROM inputs WHERE app_id = $1 AND uid = ANY($2::uuid[]) AND own_id IS NOT NULL",
        app_id,
        uids,
    )
    return {row["uid"]: row["own_id"] for row in rows}


async def lock(connection: Connection, app_id: int, keys: Sequence[str]) -> dict[str, int]:
    """Lock the inputs that own ids or uids name, in order of their number; return the numbers by key."""
    rows = await connection.fetch(
        """
        SELECT id, uid, own_id FROM inputs
        WHERE app_id = $1 AND (own_id = ANY($2::text[]) OR uid = ANY($3::uuid[]))
        ORDER BY id FOR NO KEY UPDATE
        """,
        app_id,
        keys,
        [uid for key in keys if (uid := as_uid(key)) is not None],
    )
    found = {row["own_id"]: row["id"] for row in rows} | {str(row["uid"]): row["id"] for row in rows}
    return {key: found[key] for key in keys if key in found}


async def list_page(
    connection: Connection,
    app_id: int,
    *,
    before: int | None,
    limit: int,
    status: int | None = None,
    concept: str | None = None,
) -> list[InputRow]:
    """Return inputs, newest first.

    Args:
        connection: a transaction bound to the app.
        app_id: the app.
        before: number of the last input of the page before; None: the first page.
        limit: most inputs to return.
        status: only inputs of this status.
        concept: only inputs annotated positive with the concept of this own id.
    """
    conditions = ["input.app_id = $1"]
    arguments: list[object] = [app_id, limit]

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    if before is not None:
        conditions.append(f"input.id < {given(before)}")
    if status is not None:
        conditions.append(f"input.status = {given(status)}")
    source = _TABLES
    if concept is not None:
        source += " JOIN annotations AS label ON label.app_id = input.app_id AND label.input_id = input.id"
        conditions.append("label.app_id = $1 AND label.positive")
        conditions.append(
            f"label.concept_id = (SELECT id FROM concepts WHERE app_id = $1 AND own_id = {given(concept)})"
        )
    order = "input.id" if concept is None else "label.input_id"
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {order} DESC LIMIT $2",
        *arguments,
    )
    return [InputRow(**row) for row in rows]


async def update(connection: Connection, app_id: int, input_id: int, change: Change) -> None:
    """Change a locked input; what stays the same is not written."""
    changed = await connection.fetchrow(
        """
        UPDATE inputs AS input SET metadata = new.metadata, test = new.test, revision = revision + 1, updated_at = now()
        FROM (
            SELECT id, test AS old_test, CASE WHEN $3 THEN $4::jsonb ELSE metadata END AS metadata,
                   coalesce($5, test) AS test
            FROM inputs WHERE app_id = $1 AND id = $2
        ) AS new
        WHERE input.app_id = $1 AND input.id = $2 AND new.id = input.id
            AND (input.metadata, input.test) IS DISTINCT FROM (new.metadata, new.test)
        RETURNING new.old_test <> new.test AS test_changed
        """,
        app_id,
        input_id,
        change.metadata is not None,
        change.metadata or None,
        change.test,
    )
    if changed is not None and changed["test_changed"]:
        await change_feed.record(connection, app_id, [input_id])


async def counts(connection: Connection, app_id: int) -> dict[int, int]:
    """Count an app's inputs by status."""
    rows = await connection.fetch(
        "SELECT status, count(*) AS count FROM inputs WHERE app_id = $1 GROUP BY status", app_id
    )
    return {row["status"]: row["count"] for row in rows}


async def delete(connection: Connection, app_id: int, keys: Sequence[str]) -> set[str]:
    """Delete inputs by own id or uid, with all that is known of them; return the keys that named one.

    The files that nothing uses any more are marked; their bytes go after the grace period.
    """
    rows = await connection.fetch(
        """
        SELECT DISTINCT sha256 FROM inputs
        WHERE app_id = $1 AND (own_id = ANY($2::text[]) OR uid = ANY($3::uuid[]))
        """,
        app_id,
        keys,
        [uid for key in keys if (uid := as_uid(key)) is not None],
    )
    sha256s = [row["sha256"] for row in rows]
    await blobs.lock(connection, app_id, sha256s)
    found = await lock(connection, app_id, keys)
    ids = sorted(set(found.values()))
    await _refuse_other_blobs(connection, app_id, ids, sha256s)
    await change_feed.record(connection, app_id, ids)
    await connection.execute(
        """
        UPDATE input_changes AS change SET deleted_uid = input.uid FROM inputs AS input
        WHERE change.app_id = $1 AND change.input_id = ANY($2::bigint[])
            AND input.app_id = $1 AND input.id = change.input_id
        """,
        app_id,
        ids,
    )
    tables = ("annotations", "embeddings", "missing_embeddings", "general_concepts", "inputs")
    for table in tables:
        column = "id" if table == "inputs" else "input_id"
        await connection.execute(
            f"DELETE FROM {table} WHERE app_id = $1 AND {column} = ANY($2::bigint[])",
            app_id,
            ids,
        )
    await blobs.release(connection, app_id, sha256s)
    return set(found)


async def _refuse_other_blobs(connection: Connection, app_id: int, ids: Sequence[int], locked: Sequence[bytes]) -> None:
    """Start over when an input was deleted and added again with other bytes while this transaction waited for locks."""
    if await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) AND sha256 <> ALL($3::bytea[])
        )
        """,
        app_id,
        ids,
        locked,
    ):
        raise ConflictError("TRANSACTION_CONFLICT", "An input was replaced meanwhile; try again.")
