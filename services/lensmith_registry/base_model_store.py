"""SQL of base models and of the space each app was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import asyncpg

from lensmith_platform.db.unit_of_work import Connection, savepoint
from lensmith_platform.errors import NotFoundError, PreconditionError

__all__ = [
    "BaseModelRow",
    "base_model_of_app",
    "best_base_model",
    "by_space",
    "delete_base_model",
    "get_base_model",
    "insert_base_model",
    "list_base_models",
    "lock_space",
    "newest_of",
    "resolve_space",
    "switch_space",
    "version_of",
]

_COLUMNS = """name, version, space, display_name, description, licence, source, dimensions, input_side, views,
  sha256, size_bytes, pack_sha256, files, rank, model, created_at"""


@dataclass(frozen=True)
class BaseModelRow:
    """An installed base model of one version.

    Attributes:
        views: Of a picture, that make one vector.
        pack_sha256: Over all its files; names its folder among the blobs.
        files: Names of the files of its pack.
        model: Own id of the public model that its classifier became; empty where it has none.
        created_at: None until it is stored.
    """

    name: str
    version: int
    space: str
    display_name: str
    description: str
    licence: str
    source: str
    dimensions: int
    input_side: int
    views: int
    sha256: str
    size_bytes: int
    pack_sha256: str
    files: tuple[str, ...]
    rank: int
    model: str
    created_at: datetime | None = None

    def key_of(self, file_name: str) -> str:
        """Key of a file of the pack among the blobs."""
        return f"packs/{self.space}/{self.pack_sha256}/{file_name}"


async def insert_base_model(connection: Connection, row: BaseModelRow) -> BaseModelRow | None:
    """Store a base model; None when one of the same name and version is there already."""
    record = await connection.fetchrow(
        f"""INSERT INTO base_models (name, version, space, display_name, description, licence, source, dimensions,
              input_side, views, sha256, size_bytes, pack_sha256, files, rank, model)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
            ON CONFLICT DO NOTHING RETURNING {_COLUMNS}""",
        row.name,
        row.version,
        row.space,
        row.display_name,
        row.description,
        row.licence,
        row.source,
        row.dimensions,
        row.input_side,
        row.views,
        row.sha256,
        row.size_bytes,
        row.pack_sha256,
        list(row.files),
        row.rank,
        row.model,
    )
    return None if record is None else _base_model(record)


async def version_of(connection: Connection, name: str, version: int) -> BaseModelRow | None:
    """Return one version of a base model, or None."""
    record = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM base_models WHERE name = $1 AND version = $2",
        name,
        version,
    )
    return None if record is None else _base_model(record)


async def get_base_model(connection: Connection, name: str) -> BaseModelRow:
    """Return the newest version of a base model.

    Raises:
        NotFoundError: There is none of this name.
    """
    record = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM base_models WHERE name = $1 ORDER BY version DESC LIMIT 1",
        name,
    )
    if record is None:
        raise NotFoundError("BASE_MODEL_NOT_FOUND", f"no base model {name!r} is installed", metadata={"name": name})
    return _base_model(record)


async def by_space(connection: Connection, space: str) -> BaseModelRow:
    """Return the base model of a space.

    Raises:
        NotFoundError: No installed base model has this space.
    """
    record = await connection.fetchrow(f"SELECT {_COLUMNS} FROM base_models WHERE space = $1", space)
    if record is None:
        raise NotFoundError("SPACE_NOT_FOUND", f"no base model has the space {space!r}", metadata={"space": space})
    return _base_model(record)


async def list_base_models(connection: Connection, after: tuple[int, str] | None, limit: int) -> list[BaseModelRow]:
    """Return the newest version of each base model, best first, from the one after (rank, name)."""
    rank, name = after if after is not None else (2**31 - 1, "")
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM (
              SELECT DISTINCT ON (name) * FROM base_models ORDER BY name, version DESC
            ) newest
            WHERE rank < $1 OR (rank = $1 AND name > $2) ORDER BY rank DESC, name LIMIT $3""",
        rank,
        name,
        limit,
    )
    return [_base_model(row) for row in rows]


async def best_base_model(connection: Connection) -> BaseModelRow | None:
    """Return the installed base model with the highest rank, or None."""
    best = await list_base_models(connection, None, 1)
    return best[0] if best else None


async def newest_of(connection: Connection, name: str) -> BaseModelRow | None:
    """Return the newest version of a base model, or None."""
    try:
        return await get_base_model(connection, name)
    except NotFoundError:
        return None


async def delete_base_model(connection: Connection, name: str) -> Sequence[BaseModelRow]:
    """Remove all versions of a base model that nothing uses.

    Raises:
        NotFoundError: There is none of this name.
        PreconditionError: An app or a version uses one of its spaces.
    """
    try:
        async with savepoint(connection):
            rows = await connection.fetch(
                f"DELETE FROM base_models WHERE name = $1 RETURNING {_COLUMNS}",
                name,
            )
    except asyncpg.ForeignKeyViolationError as error:
        raise PreconditionError(
            "BASE_MODEL_IN_USE", f"an app or a version uses the base model {name!r}", metadata={"name": name}
        ) from error
    if not rows:
        raise NotFoundError("BASE_MODEL_NOT_FOUND", f"no base model {name!r} is installed", metadata={"name": name})
    return [_base_model(row) for row in rows]


async def resolve_space(connection: Connection, app_id: int, requested: str) -> BaseModelRow:
    """Return the base model of an app; the first call decides it, and only an upgrade changes it.

    Args:
        connection: In a transaction of the app.
        app_id: The app.
        requested: Own id of the base model that the app asked for; empty: the best one installed.

    Raises:
        PreconditionError: The base model that it asked for, or any at all, is not installed.
    """
    decided = await base_model_of_app(connection, app_id)
    if decided is not None:
        return decided
    name = requested.removeprefix("baseModels/")
    chosen = await (newest_of(connection, name) if name else best_base_model(connection))
    if chosen is None:
        wanted = f"the app's base model {name!r}" if name else "any base model"
        raise PreconditionError(
            "BASE_MODEL_NOT_INSTALLED", f"{wanted} is not installed on this platform", metadata={"name": name}
        )
    await connection.execute(
        "INSERT INTO app_spaces (app_id, space) VALUES ($1, $2) ON CONFLICT ON CONSTRAINT app_spaces_pkey DO NOTHING",
        app_id,
        chosen.space,
    )
    # A concurrent first call may have decided otherwise; read committed shows its row once it is there.
    return await base_model_of_app(connection, app_id) or chosen


async def base_model_of_app(connection: Connection, app_id: int) -> BaseModelRow | None:
    """Return the base model of an app; None before it is decided."""
    space = await connection.fetchval("SELECT space FROM app_spaces WHERE app_id = $1", app_id)
    return None if space is None else await by_space(connection, space)


async def lock_space(connection: Connection, app_id: int) -> str:
    """Return the space of an app; until the transaction ends, nobody switches it or queues a version of the app."""
    return str(await connection.fetchval("SELECT space FROM app_spaces WHERE app_id = $1 FOR UPDATE", app_id))


async def switch_space(connection: Connection, app_id: int, space: str) -> None:
    """Give an app another space."""
    await connection.execute("UPDATE app_spaces SET space = $2 WHERE app_id = $1", app_id, space)


def _base_model(record: asyncpg.Record) -> BaseModelRow:
    values = dict(record)
    row = BaseModelRow(**values)
    return replace(row, files=tuple(row.files))
