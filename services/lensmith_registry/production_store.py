"""Which version of a model is in production."""

from __future__ import annotations

from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import PreconditionError
from lensmith_registry import version_store
from lensmith_registry.store import ModelRow

__all__ = ["fit_for_production", "version_before"]


async def fit_for_production(connection: Connection, row: ModelRow, number: int) -> int:
    """Return the number of a version of a locked model that may be put into production, as one like any other.

    Raises:
        NotFoundError: There is no such version.
        PreconditionError: VERSION_NOT_READY.
    """
    version = await version_store.get_version(connection, row.app_id, row.model, number)
    if version.state != "READY":
        raise PreconditionError(
            "VERSION_NOT_READY", f"{version.name} is {version.state}, not READY", metadata={"state": version.state}
        )
    await version_store.adopt(connection, version)
    return version.number


async def version_before(connection: Connection, row: ModelRow) -> int:
    """Return the number of the version that was in production before the present one, of those that are still there.

    Raises:
        PreconditionError: NO_VERSION_BEFORE.
    """
    number: int | None = await connection.fetchval(
        """SELECT coalesce((
             SELECT v.number
             FROM models m CROSS JOIN unnest(m.production_history) WITH ORDINALITY AS past (number, place)
             JOIN model_versions v ON v.app_id = m.app_id AND v.model_id = m.id AND v.number = past.number
             WHERE m.app_id = $1 AND m.id = $2 AND v.number <> m.production_version AND v.state = 'READY'
               AND v.deleted_at IS NULL
             ORDER BY past.place LIMIT 1
           ), (
             -- Where history begins later than the model.
             SELECT max(v.number) FROM models m JOIN model_versions v ON v.app_id = m.app_id AND v.model_id = m.id
             WHERE m.app_id = $1 AND m.id = $2 AND m.production_history = '{}' AND v.number < m.production_version
               AND v.state = 'READY' AND v.deleted_at IS NULL AND NOT v.candidate
           ))""",
        row.app_id,
        row.id,
    )
    if number is None:
        raise PreconditionError(
            "NO_VERSION_BEFORE", f"no other version of {row.name} that is still there was ever in production"
        )
    return number
