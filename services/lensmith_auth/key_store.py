"""SQL of keys and of their revocation. A store works in the transaction of the connection it is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from lensmith_auth.requests import request_in_progress
from lensmith_auth.secrets import Secret
from lensmith_platform.db import Connection
from lensmith_platform.errors import NotFoundError

__all__ = ["KeyRow", "KeyStore", "NewKey", "RevocationStore", "SecretStore"]

_COLUMNS = (
    "app_id, uid, secret_sha256, prefix, description, scopes, operator, revision, "
    "created_at, updated_at, last_used_at, expires_at"
)


@dataclass(frozen=True)
class KeyRow:
    """A row of `keys`."""

    app_id: int
    uid: UUID
    secret_sha256: bytes = field(repr=False)
    prefix: str
    description: str
    scopes: list[str]
    operator: bool
    revision: int
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key to create."""

    secret: Secret
    description: str
    scopes: Sequence[str]
    actor: str
    operator: bool = False
    expires_at: datetime | None = None
    request_id: str | None = None


class KeyStore:
    """Keys of one app."""

    def __init__(self, connection: Connection, app_id: int) -> None:
        self._connection = connection
        self._app_id = app_id

    async def create(self, key: NewKey) -> KeyRow:
        """Add a key.

        Raises:
            ConflictError: `REQUEST_IN_PROGRESS`.
        """
        try:
            row = await self._insert(key)
        except asyncpg.UniqueViolationError as error:
            raise request_in_progress() from error
        return _key(row)

    async def create_first(self, key: NewKey) -> bool:
        """Add a key unless the app has one; say whether it did. Two calls at once add one."""
        await self._connection.execute(
            "SELECT pg_advisory_xact_lock(hashtext('auth.first_key'), $1::int)", self._app_id
        )
        if await self._connection.fetchval("SELECT EXISTS (SELECT FROM keys WHERE app_id = $1)", self._app_id):
            return False
        await self._insert(key)
        return True

    async def _insert(self, key: NewKey) -> asyncpg.Record:
        return await self._connection.fetchrow(
            "INSERT INTO keys (app_id, uid, secret_sha256, prefix, description, scopes, operator, request_id, actor, "
            f"expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {_COLUMNS}",
            self._app_id,
            uuid4(),
            key.secret.sha256,
            key.secret.prefix,
            key.description,
            list(key.scopes),
            key.operator,
            key.request_id,
            key.actor,
            key.expires_at,
        )

    async def find_by_request(self, request_id: str) -> KeyRow | None:
        """The key that a request made before."""
        row = await self._connection.fetchrow(
            f"SELECT {_COLUMNS} FROM keys WHERE app_id = $1 AND request_id = $2",
            self._app_id,
            request_id,
        )
        return _key(row) if row else None

    async def get(self, uid: UUID) -> KeyRow:
        """One key.

        Raises:
            NotFoundError: `KEY_NOT_FOUND`.
        """
        return await self._get(uid, "")

    async def lock(self, uid: UUID) -> KeyRow:
        """One key, which nobody else changes until the transaction ends.

        Raises:
            NotFoundError: `KEY_NOT_FOUND`.
        """
        return await self._get(uid, "FOR UPDATE")

    async def _get(self, uid: UUID, locking: str) -> KeyRow:
        row = await self._connection.fetchrow(
            f"SELECT {_COLUMNS} FROM keys WHERE app_id = $1 AND uid = $2 {locking}",
            self._app_id,
            uid,
        )
        if row is None:
            raise _not_found()
        return _key(row)

    async def oldest(self) -> KeyRow:
        """The key that the app was created with, or the oldest that is left.

        Raises:
            NotFoundError: `KEY_NOT_FOUND`.
        """
        keys = await self.list_after(None, 1)
        if not keys:
            raise _not_found()
        return keys[0]

    async def list_after(self, position: tuple[datetime, UUID] | None, limit: int) -> list[KeyRow]:
        """At most `limit` keys behind a position (created_at, uid), oldest first."""
        created_at, uid = position or (None, None)
        rows = await self._connection.fetch(
            f"SELECT {_COLUMNS} FROM keys WHERE app_id = $1 "
            "AND ($2::timestamptz IS NULL OR (created_at, uid) > ($2, $3::uuid)) ORDER BY created_at, uid LIMIT $4",
            self._app_id,
            created_at,
            uid,
            limit,
        )
        return [_key(row) for row in rows]

    async def update(self, key: KeyRow, actor: str) -> KeyRow:
        """Store description, scopes and expiry of `key`, which is locked."""
        row = await self._connection.fetchrow(
            "UPDATE keys SET description = $3, scopes = $4, expires_at = $5, actor = $6, revision = revision + 1, "
            f"updated_at = now() WHERE app_id = $1 AND uid = $2 RETURNING {_COLUMNS}",
            self._app_id,
            key.uid,
            key.description,
            key.scopes,
            key.expires_at,
            actor,
        )
        return _key(row)

    async def delete(self, uid: UUID) -> KeyRow:
        """Remove a key and return what it was.

        Raises:
            NotFoundError: `KEY_NOT_FOUND`.
        """
        row = await self._connection.fetchrow(
            f"DELETE FROM keys WHERE app_id = $1 AND uid = $2 RETURNING {_COLUMNS}",
            self._app_id,
            uid,
        )
        if row is None:
            raise _not_found()
        return _key(row)

    async def delete_all(self) -> None:
        """Remove all keys of the app."""
        await self._connection.execute("DELETE FROM keys WHERE app_id = $1", self._app_id)


class SecretStore:
    """Keys by their secret's hash, whatever their app. Needs the worker's connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def find(self, secret_sha256: bytes) -> KeyRow | None:
        """The key with this secret."""
        row = await self._connection.fetchrow(
            f"SELECT {_COLUMNS} FROM keys WHERE secret_sha256 = $1",
            secret_sha256,
        )
        return _key(row) if row else None

    async def touch(self, key: KeyRow) -> None:
        """Note that a key was used."""
        await self._connection.execute(
            "UPDATE keys SET last_used_at = now() WHERE app_id = $1 AND uid = $2", key.app_id, key.uid
        )


class RevocationStore:
    """The number of the newest revocation."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def advance(self) -> int:
        """Take the next number; others wait until this transaction ends, so numbers become visible in order."""
        number: int = await self._connection.fetchval("UPDATE revocations SET number = number + 1 RETURNING number")
        return number

    async def current(self) -> int:
        """The newest number."""
        number: int = await self._connection.fetchval("SELECT number FROM revocations")
        return number


def _not_found() -> NotFoundError:
    return NotFoundError("KEY_NOT_FOUND", "this app has no such key")


def _key(row: asyncpg.Record) -> KeyRow:
    return KeyRow(**dict(row))
