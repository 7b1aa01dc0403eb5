"""Making two concepts of a model one, which undoes no label: what is added can be told from what was there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lensmith_api.internal.v1.curation_service_pb2 import CopyLabelsRequest
from lensmith_api.v1.model_pb2 import Model
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import InvalidInputError, NotFoundError, PreconditionError
from lensmith_registry import store
from lensmith_registry.converters import message_from_json
from lensmith_registry.definitions import with_changes
from lensmith_registry.store import ModelDefinition, ModelRow
from lensmith_registry.version_store import VersionRow

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceAsyncStub

__all__ = ["ConceptMerging"]

_MOST_WALKS = 5
"""Meanwhile people go on labelling, also what a walk has passed: the next one finds it, and the last one nothing."""


class ConceptMerging:
    """Merges concepts. Idempotent: a merge that was broken off goes on where it stopped.

    Args:
        database: Of the service's role.
        curation: dataset, which changes labels.
    """

    def __init__(self, database: Database, curation: CurationServiceAsyncStub) -> None:
        self._database = database
        self._curation = curation

    async def merge(self, version: VersionRow, pair: tuple[str, str], into: str, actor: str) -> None:
        """Label every input that shows one of two concepts as showing the other one too, then have the model forget it.

        The app keeps the concept that the model forgets, and its labels: to undo it, give the model the concept back
        and take the label of the other one away from inputs that carry both.

        Args:
            version: Whose suggestion is followed.
            pair: The two concepts.
            into: The one that stays.
            actor: Who decided.

        Raises:
            InvalidInputError: MERGE_INTO_INVALID.
            LensmithError: dataset is away; the next call goes on.
            NotFoundError: The model, or one of the concepts, is gone.
            PreconditionError: CONCEPT_IN_USE, MODEL_NEEDS_CONCEPTS, MODEL_LACKS_CONCEPT.
        """
        if into not in pair:
            why = f"must be one of the two concepts, {pair[0]} or {pair[1]}"
            raise InvalidInputError("MERGE_INTO_INVALID", f"merge_into {why}", field_violations=[("merge_into", why)])
        gone = pair[0] if into == pair[1] else pair[1]
        async with self._database.transaction(version.app_id) as connection:
            row = await _locked(connection, version)
            users = await store.models_that_learn(connection, version.app_id, into)
        _check_others(into, [user for user in users if user != row.model])
        _without(version, row, gone, into)
        request = CopyLabelsRequest(app_id=version.app_id, actor=actor, from_concept=gone, to_concept=into)
        for _ in range(_MOST_WALKS):
            if not await self._walk(request):
                break
        async with self._database.transaction(version.app_id) as connection:
            row = await _locked(connection, version)
            # Once more: meanwhile the model may have forgotten the concept that stays, in a merge the other way round.
            definition = _without(version, row, gone, into)
            await store.update_model(connection, row, definition, row.production_version, row.pinned)

    async def _walk(self, request: CopyLabelsRequest) -> int:
        """Copy the labels of all inputs, in order; return how many were copied."""
        copied, request.after, more = 0, 0, True
        while more:
            answer = await self._curation.CopyLabels(request)
            copied, more, request.after = copied + answer.copied_count, answer.more, answer.after
        return copied


async def _locked(connection: Connection, version: VersionRow) -> ModelRow:
    """Lock the model of a version: not another one, which has the name of one that was deleted meanwhile."""
    row = await store.lock_model(connection, version.app_id, version.model)
    if row.id != version.model_id:
        raise NotFoundError(
            "VERSION_NOT_FOUND",
            f"the model of {version.name} was deleted, and another one has its name",
            metadata={"version": version.name},
        )
    return row


def _without(version: VersionRow, row: ModelRow, gone: str, into: str) -> ModelDefinition:
    """The model after it; of one that learns all concepts of its app, those that the version knows are left."""
    concepts = row.definition.concepts or tuple(message_from_json(version.model_snapshot, Model()).concepts)
    left = [concept for concept in concepts if concept != gone]
    if into not in left:
        raise PreconditionError("MODEL_LACKS_CONCEPT", f"{row.name} does not learn {into!r} any more")
    if row.definition.type == "multi_class" and len(left) < 2:
        raise PreconditionError("MODEL_NEEDS_CONCEPTS", f"{row.name} would have nothing left to tell {into!r} from")
    return with_changes(row.definition, Model(concepts=left), ["concepts"])


def _check_others(into: str, others: list[str]) -> None:
    if others:
        raise PreconditionError(
            "CONCEPT_IN_USE",
            f"{into!r} would mean something else for other models that learn it: {', '.join(others[:5])}",
            metadata={"models": ",".join(others[:5])},
        )
