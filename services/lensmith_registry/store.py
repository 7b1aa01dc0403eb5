"""SQL of models. Every function takes the connection of an open transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg

from lensmith_platform.db.unit_of_work import Connection, savepoint
from lensmith_platform.errors import AlreadyExistsError, NotFoundError

__all__ = [
    "Json",
    "ModelDefinition",
    "ModelRow",
    "delete_model",
    "delete_models_of_app",
    "get_model",
    "insert_model",
    "list_models",
    "lock_model",
    "model_by_uid",
    "negative_concepts",
    "next_number",
    "purge_models",
    "remove_model",
    "update_model",
]

Json = dict[str, "Json"] | list["Json"] | str | float | int | bool | None

_COLUMNS = """m.id, m.uid, m.app_id, m.app_name, m.model, m.display_name, m.description, m.type, m.concepts,
  m.closed_environment, m.negative_concept, m.min_value, m.max_value, m.production_version, m.pinned, m.imported,
  m.revision, m.created_at, m.updated_at, m.training, m.retrain_after_annotations, m.retrain_error,
  coalesce((SELECT max(v.number) FROM model_versions v
            WHERE v.app_id = m.app_id AND v.model_id = m.id AND v.deleted_at IS NULL), 0) AS latest_version"""


@dataclass(frozen=True)
class ModelDefinition:
    """What a caller decides about a model, checked.

    Attributes:
        type: `multi_class`, `multi_label` or `regression`.
        concepts: Own ids; empty: all of the app at the time of training.
        negative_concept: Own id; empty unless multi-label.
        training: lensmith.v1.TrainingSettings as JSON, as far as the model sets them.
        retrain_after_annotations: New annotations after which it is trained by itself; 0: never.
    """

    display_name: str
    description: str
    type: str
    concepts: tuple[str, ...]
    closed_environment: bool
    negative_concept: str
    min_value: float | None
    max_value: float | None
    training: Json = field(default_factory=dict)
    retrain_after_annotations: int = 0


@dataclass(frozen=True)
class ModelRow:
    """A model that is not deleted.

    Attributes:
        retrain_error: google.rpc.Status as JSON: why training by itself was refused the last time.
    """

    id: int
    uid: UUID
    app_id: int
    app_name: str
    model: str
    definition: ModelDefinition
    production_version: int
    pinned: bool
    imported: bool
    latest_version: int
    revision: int
    created_at: datetime
    updated_at: datetime
    retrain_error: Json = None

    @property
    def name(self) -> str:
        """Resource name."""
        return f"apps/{self.app_name}/models/{self.model}"

    @property
    def etag(self) -> str:
        """Differs for every change, and for another model that takes the same own id later."""
        return f"{self.uid.hex[:8]}-{self.revision}"


async def insert_model(
    connection: Connection,
    app_id: int,
    app_name: str,
    model: str,
    definition: ModelDefinition,
    *,
    actor: str,
    imported: bool = False,
) -> ModelRow:
    """Create a model.

    Raises:
        AlreadyExistsError: The own id is taken.
    """
    try:
        # A savepoint: the caller's transaction goes on after a refusal.
        async with savepoint(connection):
            uid = await connection.fetchval(
                """INSERT INTO models (app_id, app_name, model, display_name, description, type, concepts,
                     closed_environment, negative_concept, min_value, max_value, actor, imported, training,
                     retrain_after_annotations)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) RETURNING uid""",
                app_id,
                app_name,
                model,
                definition.display_name,
                definition.description,
                definition.type,
                list(definition.concepts),
                definition.closed_environment,
                definition.negative_concept,
                definition.min_value,
                definition.max_value,
                actor,
                imported,
                definition.training,
                definition.retrain_after_annotations,
            )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != "models_app_id_model_key":
            raise
        raise AlreadyExistsError(
            "MODEL_EXISTS", f"the app already has a model {model!r}", metadata={"model": model}
        ) from error
    return await model_by_uid(connection, app_id, uid)


async def get_model(connection: Connection, app_id: int, model: str) -> ModelRow:
    """Return a model by its own id.

    Raises:
        NotFoundError: There is none.
    """
    return _found(
        await connection.fetchrow(
            f"SELECT {_COLUMNS} FROM models m WHERE m.app_id = $1 AND m.model = $2 AND m.deleted_at IS NULL",
            app_id,
            model,
        ),
        model,
    )


async def lock_model(connection: Connection, app_id: int, model: str) -> ModelRow:
    """Return a model by its own id and keep others from changing it until the transaction ends.

    Raises:
        NotFoundError: There is none.
    """
    await connection.execute(
        "SELECT 1 FROM models WHERE app_id = $1 AND model = $2 AND deleted_at IS NULL FOR UPDATE", app_id, model
    )
    return await get_model(connection, app_id, model)


async def model_by_uid(connection: Connection, app_id: int, uid: UUID) -> ModelRow:
    """Return a model by its uid.

    Raises:
        NotFoundError: There is none.
    """
    return _found(
        await connection.fetchrow(
            f"SELECT {_COLUMNS} FROM models m WHERE m.app_id = $1 AND m.uid = $2 AND m.deleted_at IS NULL",
            app_id,
            uid,
        ),
        str(uid),
    )


async def list_models(connection: Connection, app_id: int, after: str, limit: int) -> list[ModelRow]:
    """Return models in order of their own id, from the one after `after`."""
    rows = await connection.fetch(
        f"""SELECT {_COLUMNS} FROM models m
            WHERE m.app_id = $1 AND m.model > $2 AND m.deleted_at IS NULL ORDER BY m.model LIMIT $3""",
        app_id,
        after,
        limit,
    )
    return [_model(row) for row in rows]


async def models_that_learn(connection: Connection, app_id: int, concept: str) -> list[str]:
    """Return the own ids of models that learn a concept: they name it, or learn all of their app."""
    rows = await connection.fetch(
        """SELECT model FROM models WHERE app_id = $1 AND deleted_at IS NULL AND NOT imported
             AND ($2 = ANY(concepts) OR concepts = '{}') ORDER BY model""",
        app_id,
        concept,
    )
    return [row["model"] for row in rows]


async def update_model(
    connection: Connection, row: ModelRow, definition: ModelDefinition, production_version: int, pinned: bool
) -> ModelRow:
    """Write what a caller may change of a locked model."""
    await connection.execute(
        """UPDATE models SET display_name = $3, description = $4, concepts = $5, closed_environment = $6,
             min_value = $7, max_value = $8, production_version = $9, pinned = $10, training = $11,
             retrain_after_annotations = $12,
             -- A new number is a new start: what was refused before may be tried again, at once.
             retrain_error = CASE WHEN retrain_after_annotations = $12 THEN retrain_error END,
             retrain_refused_at_count = retrain_refused_at_count * (retrain_after_annotations = $12)::integer,
             retrain_looked_at = CASE WHEN retrain_after_annotations = $12 THEN retrain_looked_at ELSE '-infinity' END,
             revision = revision + 1, updated_at = now()
           WHERE app_id = $1 AND id = $2""",
        row.app_id,
        row.id,
        definition.display_name,
        definition.description,
        list(definition.concepts),
        definition.closed_environment,
        definition.min_value,
        definition.max_value,
        production_version,
        pinned,
        definition.training,
        definition.retrain_after_annotations,
    )
    return await model_by_uid(connection, row.app_id, row.uid)


async def next_number(connection: Connection, row: ModelRow) -> int:
    """Take the next version number; concurrent callers wait for each other, so that numbers have no gaps.

    Raises:
        NotFoundError: The model was deleted meanwhile.
    """
    number = await connection.fetchval(
        """UPDATE models SET last_number = last_number + 1, revision = revision + 1
           WHERE app_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING last_number""",
        row.app_id,
        row.id,
    )
    if number is None:
        raise _not_found(row.model)
    return int(number)


async def delete_model(connection: Connection, row: ModelRow) -> list[UUID]:
    """Bury a locked model with its versions, whose bytes go later; returns the versions that had not ended."""
    versions = await connection.fetch(
        """UPDATE model_versions SET deleted_at = now(), revision = revision + 1
           WHERE app_id = $1 AND model_id = $2 AND deleted_at IS NULL RETURNING uid, ended_at""",
        row.app_id,
        row.id,
    )
    await connection.execute(
        "UPDATE models SET deleted_at = now(), revision = revision + 1 WHERE app_id = $1 AND id = $2",
        row.app_id,
        row.id,
    )
    return [version["uid"] for version in versions if version["ended_at"] is None]


async def remove_model(connection: Connection, row: ModelRow) -> None:
    """Remove a model with its versions at once: one that came with a base model, and so has no bytes of its own."""
    await connection.execute("DELETE FROM model_versions WHERE app_id = $1 AND model_id = $2", row.app_id, row.id)
    await connection.execute("DELETE FROM models WHERE app_id = $1 AND id = $2", row.app_id, row.id)


async def delete_models_of_app(connection: Connection, app_id: int) -> list[str]:
    """Bury everything of an app; returns the own ids of the models that were alive."""
    await connection.execute(
        """UPDATE model_versions SET deleted_at = now(), revision = revision + 1
           WHERE app_id = $1 AND deleted_at IS NULL""",
        app_id,
    )
    rows = await connection.fetch(
        """UPDATE models SET deleted_at = now(), revision = revision + 1
           WHERE app_id = $1 AND deleted_at IS NULL RETURNING model""",
        app_id,
    )
    await connection.execute("DELETE FROM upgrades WHERE app_id = $1", app_id)
    await connection.execute("DELETE FROM app_spaces WHERE app_id = $1", app_id)
    await connection.execute("DELETE FROM requests WHERE app_id = $1", app_id)
    return [str(row["model"]) for row in rows]


async def purge_models(connection: Connection, grace_seconds: float) -> int:
    """Remove models whose grace is over and whose versions are gone; returns how many."""
    status: str = await connection.execute(
        """DELETE FROM models m WHERE m.deleted_at < now() - make_interval(secs => $1)
           AND NOT EXISTS (SELECT 1 FROM model_versions v WHERE v.app_id = m.app_id AND v.model_id = m.id)""",
        grace_seconds,
    )
    return int(status.split()[-1])


async def negative_concepts(connection: Connection, app_id: int) -> frozenset[str]:
    """Return the negative concepts of an app's models: they are nothing that another model should learn by itself."""
    rows = await connection.fetch(
        """SELECT DISTINCT negative_concept FROM models
           WHERE app_id = $1 AND negative_concept <> '' AND deleted_at IS NULL""",
        app_id,
    )
    return frozenset(str(row["negative_concept"]) for row in rows)


def _found(record: asyncpg.Record | None, model: str) -> ModelRow:
    if record is None:
        raise _not_found(model)
    return _model(record)


def _not_found(model: str) -> NotFoundError:
    return NotFoundError("MODEL_NOT_FOUND", f"the app has no model {model!r}", metadata={"model": model})


def _model(record: asyncpg.Record) -> ModelRow:
    return ModelRow(
        id=record["id"],
        uid=record["uid"],
        app_id=record["app_id"],
        app_name=record["app_name"],
        model=record["model"],
        definition=ModelDefinition(
            display_name=record["display_name"],
            description=record["description"],
            type=record["type"],
            concepts=tuple(record["concepts"]),
            closed_environment=record["closed_environment"],
            negative_concept=record["negative_concept"],
            min_value=record["min_value"],
            max_value=record["max_value"],
            training=record["training"],
            retrain_after_annotations=record["retrain_after_annotations"],
        ),
        production_version=record["production_version"],
        pinned=record["pinned"],
        imported=record["imported"],
        latest_version=record["latest_version"],
        revision=record["revision"],
        created_at=record["created_at"],
        updated_at=record["updated_at"],
        retrain_error=record["retrain_error"],
    )
