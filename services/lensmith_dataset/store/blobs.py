"""Files of an app, each stored once: reserved before its bytes are stored, taken when an input uses them, purged after.

The row is the lock that everything about equal bytes passes: two uploads of them, an upload and a delete, an upload and
the purge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from lensmith_platform.db.unit_of_work import Connection


@dataclass(frozen=True, slots=True)
class NewBlob:
    """A file that was checked and may have to be stored."""

    sha256: bytes
    size_bytes: int
    mime_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A blob that lives at least for the grace period from now on.

    Attributes:
        id: number of this blob; one stored later under the same hash has another.
        stored: whether the bytes are stored already.
    """

    id: int
    stored: bool


async def reserve(connection: Connection, app_id: int, blobs: Iterable[NewBlob]) -> dict[bytes, Reservation]:
    """Reserve blobs by hash, to be stored and then taken; those whose bytes are being purged right now are left out."""
    new = sorted({blob.sha256: blob for blob in blobs}.values(), key=lambda blob: blob.sha256)
    rows = await connection.fetch(
        """
        INSERT INTO blobs AS blob (app_id, sha256, size_bytes, mime_type, width, height)
        SELECT $1, sha256, size_bytes, mime_type, width, height
        FROM unnest($2::bytea[], $3::bigint[], $4::text[], $5::int[], $6::int[])
            AS new (sha256, size_bytes, mime_type, width, height)
        ON CONFLICT (app_id, sha256) DO UPDATE
            SET deleted_at = CASE WHEN blob.deleted_at IS NULL THEN NULL ELSE now() END
            WHERE blob.purging_at IS NULL
        RETURNING sha256, id, stored_at IS NOT NULL AS stored
        """,
        app_id,
        [blob.sha256 for blob in new],
        [blob.size_bytes for blob in new],
        [blob.mime_type for blob in new],
        [blob.width for blob in new],
        [blob.height for blob in new],
    )
    return {row["sha256"]: Reservation(row["id"], row["stored"]) for row in rows}


async def take(connection: Connection, app_id: int, reserved: Mapping[bytes, int]) -> set[bytes]:
    """Lock reserved blobs whose bytes are stored, and keep them from being purged; return their hashes.

    The caller adds its inputs in the same transaction. A blob that was purged since it was reserved is left out.
    """
    rows = await connection.fetch(
        """
        SELECT blob.sha256 FROM blobs AS blob
        JOIN unnest($2::bytea[], $3::bigint[]) AS wanted (sha256, id) USING (sha256, id)
        WHERE blob.app_id = $1 AND blob.purging_at IS NULL
        ORDER BY blob.sha256 FOR NO KEY UPDATE OF blob
        """,
        app_id,
        list(reserved.keys()),
        list(reserved.values()),
    )
    taken = [row["sha256"] for row in rows]
    await connection.execute(
        """
        UPDATE blobs SET stored_at = coalesce(stored_at, now()), deleted_at = NULL
        WHERE app_id = $1 AND sha256 = ANY($2::bytea[]) AND (deleted_at IS NOT NULL OR stored_at IS NULL)
        """,
        app_id,
        taken,
    )
    return set(taken)


async def lock(connection: Connection, app_id: int, sha256s: Sequence[bytes]) -> None:
    """Lock blobs, so that nobody begins to use them meanwhile."""
    await connection.execute(
        """
        SELECT FROM blobs WHERE app_id = $1 AND sha256 = ANY($2::bytea[]) ORDER BY sha256 FOR NO KEY UPDATE
        """,
        app_id,
        sha256s,
    )


async def release(connection: Connection, app_id: int, sha256s: Sequence[bytes]) -> None:
    """Mark locked blobs that no input uses any more as deleted."""
    await connection.execute(
        """
        UPDATE blobs SET deleted_at = now()
        WHERE app_id = $1 AND sha256 = ANY($2::bytea[]) AND deleted_at IS NULL AND NOT EXISTS (
            SELECT FROM inputs WHERE inputs.app_id = blobs.app_id AND inputs.sha256 = blobs.sha256
        )
        """,
        app_id,
        sha256s,
    )


async def mark_missing(connection: Connection, app_id: int, sha256s: Sequence[bytes]) -> None:
    """Note that the bytes of blobs are gone from the store: the next upload of the same bytes stores them again."""
    await connection.execute(
        """
        UPDATE blobs SET stored_at = NULL WHERE app_id = $1 AND sha256 IN (
            SELECT sha256 FROM blobs WHERE app_id = $1 AND sha256 = ANY($2::bytea[])
            ORDER BY sha256 FOR NO KEY UPDATE
        )
        """,
        app_id,
        sha256s,
    )


async def claim_purgeable(
    connection: Connection, grace: timedelta, lease: timedelta, limit: int
) -> list[tuple[int, bytes]]:
    """Mark blobs of all apps, deleted longer ago than `grace`, as being purged; return their app and hash.

    One that another purge left behind is claimed again after `lease`.
    """
    rows = await connection.fetch(
        """
        SELECT app_id, sha256 FROM blobs
        WHERE deleted_at < now() - $1::interval AND (purging_at IS NULL OR purging_at < now() - $2::interval)
        ORDER BY deleted_at LIMIT $3 FOR UPDATE SKIP LOCKED
        """,
        grace,
        lease,
        limit,
    )
    # A second look, now that nobody else can change the rows: what is used stays, whatever its mark says.
    claimed = await connection.fetch(
        """
        UPDATE blobs SET purging_at = now()
        FROM unnest($1::bigint[], $2::bytea[]) AS old (app_id, sha256)
        WHERE blobs.app_id = old.app_id AND blobs.sha256 = old.sha256 AND NOT EXISTS (
            SELECT FROM inputs WHERE inputs.app_id = old.app_id AND inputs.sha256 = old.sha256
        )
        RETURNING blobs.app_id, blobs.sha256
        """,
        [row["app_id"] for row in rows],
        [row["sha256"] for row in rows],
    )
    return [(row["app_id"], row["sha256"]) for row in claimed]


async def forget(connection: Connection, purged: Sequence[tuple[int, bytes]]) -> None:
    """Delete the rows of blobs whose bytes are gone."""
    await connection.execute(
        """
        DELETE FROM blobs USING unnest($1::bigint[], $2::bytea[]) AS gone (app_id, sha256)
        WHERE blobs.app_id = gone.app_id AND blobs.sha256 = gone.sha256 AND blobs.purging_at IS NOT NULL
        """,
        [app_id for app_id, _ in purged],
        [sha256 for _, sha256 in purged],
    )
