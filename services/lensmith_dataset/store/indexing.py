"""What the indexer reads and writes: inputs that wait for a vector, and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from lensmith_dataset.store import general
from lensmith_dataset.store.general import GeneralConcepts
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class Waiting:
    """An input that waits to be embedded.

    Attributes:
        attempts: how often its batch failed.
    """

    id: int
    uid: UUID
    sha256: bytes
    size_bytes: int
    attempts: int


async def waiting(connection: Connection, app_id: int, uids: Sequence[UUID]) -> list[Waiting]:
    """Return those of the inputs that still wait to be embedded."""
    rows = await connection.fetch(
        """
        SELECT input.id, input.uid, input.sha256, blob.size_bytes, input.attempts
        FROM inputs AS input JOIN blobs AS blob ON blob.app_id = input.app_id AND blob.sha256 = input.sha256
        WHERE input.app_id = $1 AND input.uid = ANY($2::uuid[]) AND input.status = 1 ORDER BY input.id
        """,
        app_id,
        uids,
    )
    return [Waiting(**row) for row in rows]


async def finish(
    connection: Connection,
    app_id: int,
    space: str,
    vectors: Mapping[int, bytes],
    failures: Mapping[int, bytes],
    seen: Mapping[int, GeneralConcepts],
) -> tuple[int, int]:
    """Make waiting inputs READY with their halfvecs, or FAILED with a serialised status; return how many of each.

    With the vectors comes what General saw.

    Inputs that are gone, or that another indexer finished first, are left as they are.
    """
    locked = await connection.fetch(
        """
        SELECT id FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) AND status = 1
        ORDER BY id FOR NO KEY UPDATE
        """,
        app_id,
        [*vectors, *failures],
    )
    ids = [row["id"] for row in locked]
    ready = [(app_id, space, input_id, vectors[input_id]) for input_id in ids if input_id in vectors]
    if ready:
        await connection.executemany(
            """
            INSERT INTO embeddings (app_id, space, input_id, vector) VALUES ($1, $2, $3, $4)
            ON CONFLICT (app_id, space, input_id) DO UPDATE SET vector = EXCLUDED.vector
            """,
            ready,
        )
        await general.store(connection, app_id, {one[2]: seen[one[2]] for one in ready if one[2] in seen})
    await connection.execute(
        """
        UPDATE inputs AS input
        SET status = CASE WHEN error_given IS NULL THEN 2 ELSE 3 END, error = error_given,
            progressed_at = now(), updated_at = now()
        FROM unnest($2::bigint[], $3::bytea[]) AS done (id, error_given)
        WHERE input.app_id = $1 AND input.id = done.id
        """,
        app_id,
        ids,
        [failures.get(input_id) for input_id in ids],
    )
    # A failure changes nothing that could be trained on.
    await change_feed.record(connection, app_id, [input_id for _, _, input_id, _ in ready])
    return len(ready), len(ids) - len(ready)


async def count_failure(connection: Connection, app_id: int, ids: Sequence[int]) -> None:
    """Note that the batch of waiting inputs failed."""
    await connection.execute(
        """
        UPDATE inputs SET attempts = attempts + 1, progressed_at = now() WHERE app_id = $1 AND id IN (
            SELECT id FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) AND status = 1
            ORDER BY id FOR NO KEY UPDATE
        )
        """,
        app_id,
        ids,
    )


async def claim_stale(connection: Connection, age: timedelta, limit: int) -> dict[int, list[UUID]]:
    """Return inputs of all apps that have waited for `age` without progress, by app; they have time again."""
    rows = await connection.fetch(
        """
        UPDATE inputs AS input SET progressed_at = now()
        FROM (
            SELECT app_id, id FROM inputs WHERE status = 1 AND progressed_at < now() - $1::interval
            ORDER BY progressed_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
        ) AS stale
        WHERE input.app_id = stale.app_id AND input.id = stale.id
        RETURNING input.app_id, input.uid
        """,
        age,
        limit,
    )
    stale: dict[int, list[UUID]] = {}
    for row in rows:
        stale.setdefault(row["app_id"], []).append(row["uid"])
    return stale


async def forget_requests(connection: Connection, age: timedelta, limit: int) -> int:
    """Delete what calls with a request_id became, when they are older than `age`; return how many rows went."""
    rows = await connection.fetch(
        """
        DELETE FROM requests AS request USING (
            SELECT app_id, request_id, position FROM requests WHERE created_at < now() - $1::interval
            LIMIT $2 FOR UPDATE SKIP LOCKED
        ) AS old
        WHERE request.app_id = old.app_id AND request.request_id = old.request_id AND request.position = old.position
        RETURNING 1
        """,
        age,
        limit,
    )
    return len(rows)
