"""SQL of what a request_id made. Every function takes the connection of an open transaction."""

from __future__ import annotations

from uuid import UUID

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import AlreadyExistsError, NotFoundError

__all__ = ["deleted_since", "insert_request", "purge_requests", "requested_uid", "reused"]


async def requested_uid(
    connection: Connection, app_id: int, method: str, request_id: str, fingerprint: bytes
) -> UUID | None:
    """Return what an earlier call with this request_id made, or None.

    Raises:
        AlreadyExistsError: That call asked for something else.
    """
    if not request_id:
        return None
    row = await connection.fetchrow(
        "SELECT fingerprint, resource_uid FROM requests WHERE app_id = $1 AND method = $2 AND request_id = $3",
        app_id,
        method,
        request_id,
    )
    if row is None:
        return None
    if row["fingerprint"] != fingerprint:
        raise reused(request_id)
    uid: UUID = row["resource_uid"]
    return uid


async def insert_request(
    connection: Connection, app_id: int, method: str, request_id: str, fingerprint: bytes, uid: UUID
) -> bool:
    """Remember what a request_id made; False when a concurrent call with the same id was first."""
    if not request_id:
        return True
    inserted = await connection.fetchval(
        """INSERT INTO requests (app_id, method, request_id, fingerprint, resource_uid) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT ON CONSTRAINT requests_pkey DO NOTHING RETURNING true""",
        app_id,
        method,
        request_id,
        fingerprint,
        uid,
    )
    return inserted is not None


async def purge_requests(connection: Connection, keep_seconds: float) -> int:
    """Forget request ids older than `keep_seconds`; returns how many."""
    status: str = await connection.execute(
        "DELETE FROM requests WHERE created_at < now() - make_interval(secs => $1)", keep_seconds
    )
    return int(status.split()[-1])


def reused(request_id: str) -> AlreadyExistsError:
    """Say that a request_id was used for something else."""
    return AlreadyExistsError(
        "REQUEST_ID_REUSED", "this request_id was used for another request", metadata={"request_id": request_id}
    )


def deleted_since(what: str, request_id: str) -> NotFoundError:
    """Say that what a request_id made, a `model` or a `version`, is there no more: repeating does not make it again."""
    return NotFoundError(
        f"{what.upper()}_NOT_FOUND",
        f"the {what} that this request_id made was deleted since: another one takes a new request_id",
        metadata={"request_id": request_id},
    )
