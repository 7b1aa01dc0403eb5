"""SQL of apps. A store works in the transaction of the connection it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import asyncpg

from lensmith_auth.requests import request_in_progress
from lensmith_platform.db import Connection
from lensmith_platform.errors import AlreadyExistsError, NotFoundError

__all__ = ["AppRow", "AppStore", "NewApp"]

_COLUMNS = "app_id, uid, name, display_name, description, base_model, revision, created_at, updated_at"


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
class NewApp:
    """An app to create."""

    name: str
    display_name: str
    description: str
    base_model: str
    request_id: str | None
    actor: str


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
                f"VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_COLUMNS}",
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
                raise request_in_progress() from error
            raise AlreadyExistsError(
                "APP_EXISTS", f"there is an app {app.name!r} already", metadata={"app": app.name}
            ) from error
        return _app(row)

    async def find_by_request(self, request_id: str) -> AppRow | None:
        """The app that a request made before."""
        row = await self._connection.fetchrow(
            f"SELECT {_COLUMNS} FROM apps WHERE request_id = $1 AND deleted_at IS NULL",
            request_id,
        )
        return _app(row) if row else None

    async def find_by_name(self, name: str) -> AppRow | None:
        """The app with this own id."""
        row = await self._connection.fetchrow(
            f"SELECT {_COLUMNS} FROM apps WHERE name = $1 AND deleted_at IS NULL",
            name,
        )
        return _app(row) if row else None

    async def list_after(self, app_id: int, limit: int) -> list[AppRow]:
        """At most `limit` apps with a greater number, in order."""
        rows = await self._connection.fetch(
            f"SELECT {_COLUMNS} FROM apps WHERE app_id > $1 AND deleted_at IS NULL ORDER BY app_id LIMIT $2",
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
            f"SELECT {_COLUMNS} FROM apps WHERE app_id = $1 AND deleted_at IS NULL {locking}",
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
            f"WHERE app_id = $1 RETURNING {_COLUMNS}",
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


def _app(row: asyncpg.Record) -> AppRow:
    return AppRow(**dict(row))
