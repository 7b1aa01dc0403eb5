"""All SQL of the auth service. A store works in the transaction of the connection it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from uuid import UUID, uuid4

import asyncpg

from lensmith_auth.secrets import Secret
from lensmith_platform.db import Connection
from lensmith_platform.errors import AlreadyExistsError, ConflictError, NotFoundError

APP_COLUMNS = "app_id, uid, name, display_name, description, base_model, revision, created_at, updated_at"
KEY_COLUMNS = (
    "app_id, uid, secret_sha256, prefix, description, scopes, operator, revision, "
    "created_at, updated_at, last_used_at, expires_at"
)


@dataclass(frozen=True)
class AppRow:
    """A row of `apps`."""

    app_id: int
    uid: UUID
    name: str
    display_name: str
    description: str
    base_model: str
    revision: int
    created_at: datetime
    updated_at: datetime


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
class NewApp:
    """An app to create."""

    name: str
    display_name: str
    description: str
    base_model: str
    request_id: str | None
    actor: str


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


@dataclass(frozen=True)
class UsageCount:
    """Operations of one app, day, kind, model and key."""

    app_id: int
    day: date
    operation: str
    model: str
    key_uid: str
    count: int


class AppStore:
    """Apps. Creating, listing and finding by name see all apps and need the worker's connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, app: NewApp) -> AppRow:
        """Add an app.

        Raises:
            AlreadyExistsError: `APP_EXISTS`.
            ConflictError: `REQUEST_IN_PROGRESS`.
        """
        try:
            row = await self._connection.fetchrow(
                "INSERT INTO apps (uid, name, display_name, description, base_model, request_id, actor) "
                f"VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {APP_COLUMNS}",
                uuid4(),
                app.name,
                app.display_name,
                app.description,
                app.base_model,
                app.request_id,
                app.actor,
            )
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "apps_request_id_key":
                raise _in_progress() from error
            raise AlreadyExistsError(
                "APP_EXISTS", f"there is an app {app.name!r} already", metadata={"app": app.name}
            ) from error
        return _app(row)

    async def find_by_request(self, request_id: str) -> AppRow | None:
        """The app that a request made before."""
        row = await self._connection.fetchrow(
            f"SELECT {APP_COLUMNS} FROM apps WHERE request_id = $1 AND deleted_at IS NULL",
            request_id,
        )
        return _app(row) if row else None

    async def find_by_name(self, name: str) -> AppRow | None:
        """The app with this own id."""
        row = await self._connection.fetchrow(
            f"SELECT {APP_COLUMNS} FROM apps WHERE name = $1 AND deleted_at IS NULL",
            name,
        )
        return _app(row) if row else None

    async def list_after(self, app_id: int, limit: int) -> list[AppRow]:
        """At most `limit` apps with a greater number, in order."""
        rows = await self._connection.fetch(
            f"SELECT {APP_COLUMNS} FROM apps WHERE app_id > $1 AND deleted_at IS NULL ORDER BY app_id LIMIT $2",
            app_id,
            limit,
        )
        return [_app(row) for row in rows]

    async def get(self, app_id: int) -> AppRow:
        """The app with this number.

        Raises:
            NotFoundError: `APP_NOT_FOUND`.
        """
        return await self._get(app_id, "")

    async def lock(self, app_id: int) -> AppRow:
        """The app with this number, which nobody else changes until the transaction ends.

        Raises:
            NotFoundError: `APP_NOT_FOUND`.
        """
        return await self._get(app_id, "FOR UPDATE")

    async def _get(self, app_id: int, locking: str) -> AppRow:
        row = await self._connection.fetchrow(
            f"SELECT {APP_COLUMNS} FROM apps WHERE app_id = $1 AND deleted_at IS NULL {locking}",
            app_id,
        )
        if row is None:
            raise NotFoundError("APP_NOT_FOUND", "there is no such app")
        return _app(row)

    async def update(self, app_id: int, values: Mapping[str, str], actor: str) -> AppRow:
        """Set `display_name` and `description` of a locked app where given."""
        row = await self._connection.fetchrow(
            "UPDATE apps SET display_name = coalesce($2, display_name), description = coalesce($3, description), "
            "actor = $4, revision = revision + 1, updated_at = now() "
            f"WHERE app_id = $1 RETURNING {APP_COLUMNS}",
            app_id,
            values.get("display_name"),
            values.get("description"),
            actor,
        )
        return _app(row)

    async def delete(self, app_id: int, actor: str) -> None:
        """Make a locked app a tombstone; its own id is free again."""
        await self._connection.execute(
            "UPDATE apps SET deleted_at = now(), actor = $2 WHERE app_id = $1", app_id, actor
        )


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
            raise _in_progress() from error
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
            f"expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING {KEY_COLUMNS}",
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
            f"SELECT {KEY_COLUMNS} FROM keys WHERE app_id = $1 AND request_id = $2",
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
            f"SELECT {KEY_COLUMNS} FROM keys WHERE app_id = $1 AND uid = $2 {locking}",
            self._app_id,
            uid,
        )
        if row is None:
            raise key_not_found()
        return _key(row)

    async def oldest(self) -> KeyRow:
        """The key that the app was created with, or the oldest that is left.

        Raises:
            NotFoundError: `KEY_NOT_FOUND`.
        """
        keys = await self.list_after(None, 1)
        if not keys:
            raise key_not_found()
        return keys[0]

    async def list_after(self, position: tuple[datetime, UUID] | None, limit: int) -> list[KeyRow]:
        """At most `limit` keys behind a position (created_at, uid), oldest first."""
        created_at, uid = position or (None, None)
        rows = await self._connection.fetch(
            f"SELECT {KEY_COLUMNS} FROM keys WHERE app_id = $1 "
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
            f"updated_at = now() WHERE app_id = $1 AND uid = $2 RETURNING {KEY_COLUMNS}",
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
            f"DELETE FROM keys WHERE app_id = $1 AND uid = $2 RETURNING {KEY_COLUMNS}",
            self._app_id,
            uid,
        )
        if row is None:
            raise key_not_found()
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
            f"SELECT {KEY_COLUMNS} FROM keys WHERE secret_sha256 = $1",
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


class UsageStore:
    """Operations by day."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_once(self, event_id: UUID, counts: Sequence[UsageCount]) -> bool:
        """Add counts unless this event was added before; say whether it did."""
        fresh = await self._connection.fetchval(
            "INSERT INTO processed_events (id, consumer) VALUES ($1, 'auth--record-usage') "
            "ON CONFLICT DO NOTHING RETURNING true",
            event_id,
        )
        if not fresh:
            return False
        await self._connection.executemany(
            "INSERT INTO usage AS u (app_id, day, operation, model, key_uid, count) VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT ON CONSTRAINT usage_pkey DO UPDATE SET count = u.count + excluded.count",
            # Sorted, so that two events with the same rows cannot lock each other out.
            sorted((c.app_id, c.day, c.operation, c.model, c.key_uid, c.count) for c in counts),
        )
        return True

    async def query(self, app_id: int, first: date, last: date) -> list[UsageCount]:
        """The counts of an app from `first` to `last`, both included."""
        rows = await self._connection.fetch(
            "SELECT app_id, day, operation, model, key_uid, count FROM usage "
            "WHERE app_id = $1 AND day BETWEEN $2 AND $3 ORDER BY day, operation, model, key_uid",
            app_id,
            first,
            last,
        )
        return [UsageCount(**dict(row)) for row in rows]


def request_id_reused(request_id: str) -> AlreadyExistsError:
    """The error for a request_id that stood in another request before."""
    return AlreadyExistsError(
        "REQUEST_ID_REUSED", "this request_id was used for another request", metadata={"request_id": request_id}
    )


def key_not_found() -> NotFoundError:
    """The error for a key that the app does not have."""
    return NotFoundError("KEY_NOT_FOUND", "this app has no such key")


def _in_progress() -> ConflictError:
    return ConflictError("REQUEST_IN_PROGRESS", "a call with the same request_id was in the way; try again")


def _app(row: asyncpg.Record) -> AppRow:
    return AppRow(**dict(row))


def _key(row: asyncpg.Record) -> KeyRow:
    return KeyRow(**dict(row))
