"""Making and changing models."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from lensmith_api.v1.concept_service_pb2 import CreateConceptsRequest, NewConcept
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_service_pb2 import CreateModelRequest, RollbackModelRequest, UpdateModelRequest
from lensmith_platform import etags, update_mask
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    from_status,
)
from lensmith_platform.principal import AppRef
from lensmith_registry import changes, production_store, request_store, store, version_store
from lensmith_registry.definitions import MASK_PATHS, definition_of, with_changes
from lensmith_registry.store import ModelDefinition, ModelRow

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceAsyncStub

__all__ = ["Models"]


class Models:
    """Makes and changes the models of apps.

    Args:
        database: Of the service's role.
        concepts: dataset, which makes negative concepts.
    """

    def __init__(self, database: Database, concepts: ConceptServiceAsyncStub) -> None:
        self._database = database
        self._concepts = concepts

    async def create(self, app: AppRef, actor: str, request: CreateModelRequest) -> ModelRow:
        """Create a model, and a negative concept with a multi-label one.

        Raises:
            AlreadyExistsError: The own id is taken, or the request_id was used for something else.
            ConflictError: A call with the same request_id is in the way.
            InvalidInputError: It breaks a rule.
            NotFoundError: What the request_id made was deleted.
        """
        definition = definition_of(request.model_id, request.model)
        fingerprint = hashlib.sha256(
            request.model_id.encode() + b"\0" + request.model.SerializeToString(deterministic=True)
        ).digest()
        async with self._database.transaction(app.app_id) as connection:
            earlier = await self._created_earlier(connection, app, request.request_id, fingerprint)
        if earlier is not None:
            return earlier
        if definition.negative_concept:
            await self._create_negative_concept(app, request.model_id, definition)
        async with self._database.transaction(app.app_id) as connection:
            # Once more: a rival with the same request_id may have been first, and its model is the answer then.
            earlier = await self._created_earlier(connection, app, request.request_id, fingerprint)
            if earlier is not None:
                return earlier
            row = await store.insert_model(connection, app.app_id, app.name, request.model_id, definition, actor=actor)
            first = await request_store.insert_request(
                connection, app.app_id, "CreateModel", request.request_id, fingerprint, row.uid
            )
            if not first:
                raise ConflictError("REQUEST_IN_PROGRESS", "a call with the same request_id was in the way; try again")
        return row

    async def update(self, app: AppRef, model: str, request: UpdateModelRequest) -> ModelRow:
        """Change the fields that the mask names.

        Raises:
            ConflictError: The etag is that of an older state.
            InvalidInputError: The mask or a value breaks a rule.
            NotFoundError: There is no such model, or no version of it to put into production.
            PreconditionError: It came with a base model, or the version is not READY.
        """
        paths = update_mask.apply(request.update_mask, MASK_PATHS)
        async with self._database.transaction(app.app_id) as connection:
            row = await store.lock_model(connection, app.app_id, model)
            etags.check(request.model.etag, row.etag)
            definition = with_changes(row.definition, request.model, paths)
            if row.imported and not set(paths) <= {"display_name", "description", "production_version", "pinned"}:
                raise PreconditionError("MODEL_IS_IMPORTED", f"{row.name} came with a base model: what it is stays")
            production, pinned = await _production_after(connection, row, request.model, paths)
            changed = await store.update_model(connection, row, definition, production, pinned)
            if production != row.production_version:
                await changes.model_changed(connection, app.app_id, row.model)
        return changed

    async def roll_back(self, app: AppRef, model: str, request: RollbackModelRequest) -> ModelRow:
        """Put a version into production that was there before, and keep it there.

        Raises:
            AlreadyExistsError: The request_id was used for something else.
            NotFoundError: There is no such model or version.
            PreconditionError: NO_VERSION_BEFORE, VERSION_NOT_READY.
        """
        fingerprint = hashlib.sha256(f"{model}\0{request.version}".encode()).digest()
        async with self._database.transaction(app.app_id) as connection:
            row = await store.lock_model(connection, app.app_id, model)
            done = await request_store.requested_uid(
                connection, app.app_id, "RollbackModel", request.request_id, fingerprint
            )
            if done is not None:
                if done != row.uid:
                    # It was of a model that is deleted, whose name this one took.
                    raise request_store.reused(request.request_id)
                return row
            number = request.version or await production_store.version_before(connection, row)
            number = await production_store.fit_for_production(connection, row, number)
            changed = await store.update_model(connection, row, row.definition, number, True)
            await request_store.insert_request(
                connection, app.app_id, "RollbackModel", request.request_id, fingerprint, row.uid
            )
            await changes.model_changed(connection, app.app_id, row.model)
        return changed

    async def _created_earlier(
        self, connection: Connection, app: AppRef, request_id: str, fingerprint: bytes
    ) -> ModelRow | None:
        uid = await request_store.requested_uid(connection, app.app_id, "CreateModel", request_id, fingerprint)
        if uid is None:
            return None
        try:
            return await store.model_by_uid(connection, app.app_id, uid)
        except NotFoundError as error:
            raise request_store.deleted_since("model", request_id) from error

    async def _create_negative_concept(self, app: AppRef, model: str, definition: ModelDefinition) -> None:
        """Have dataset make the negative concept, after a look whether the model could be made at all."""
        async with self._database.transaction(app.app_id) as connection:
            try:
                await store.get_model(connection, app.app_id, model)
            except NotFoundError:
                pass
            else:
                raise AlreadyExistsError(
                    "MODEL_EXISTS", f"the app already has a model {model!r}", metadata={"model": model}
                )
        concept = NewConcept(
            concept_id=definition.negative_concept,
            display_name=f"Not {definition.display_name or model}"[:200],
            description=f"None of the concepts of the model {model}.",
        )
        response = await self._concepts.CreateConcepts(
            CreateConceptsRequest(parent=f"apps/{app.name}", concepts=[concept])
        )
        if response.results[0].status.code:
            raise from_status(response.results[0].status)


async def _production_after(connection: Connection, row: ModelRow, model: Model, paths: list[str]) -> tuple[int, bool]:
    """Work out production version and pin after an update."""
    if "production_version" in paths:
        if "pinned" in paths and not model.pinned:
            why = "cannot be given together with pinned = false, which follows the newest success"
            raise InvalidInputError(
                "UPDATE_MASK_INVALID", f"production_version {why}", field_violations=[("production_version", why)]
            )
        return await production_store.fit_for_production(connection, row, model.production_version), True
    if "pinned" in paths:
        if model.pinned:
            if not row.production_version:
                raise PreconditionError(
                    "MODEL_HAS_NO_TRAINED_VERSION", f"{row.name} has no trained version yet that could be pinned"
                )
            return row.production_version, True
        follow = version_store.best_ready if row.imported else version_store.newest_ready
        return await follow(connection, row), False
    return row.production_version, row.pinned
