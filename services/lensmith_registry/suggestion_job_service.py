"""SuggestionJobService: what a trainer asks and tells about the suggestions of a version, over gRPC."""

from __future__ import annotations

import asyncio
import math
from uuid import UUID

from lensmith_api.internal.v1 import suggestion_job_service_pb2_grpc
from lensmith_api.internal.v1.suggestion_job_service_pb2 import (
    GetSuggestionJobRequest,
    PutSuggestionsRequest,
    PutSuggestionsResponse,
    SuggestionJob,
)
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionKind
from lensmith_platform.blobs import Blobs
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError, PreconditionError
from lensmith_registry import standing_suggestion_store, suggestion_store, version_store
from lensmith_registry.converters import json_from_message, message_from_json
from lensmith_registry.label_requests import ask_for_labels, fingerprint_of
from lensmith_registry.suggestion_store import NewSuggestion

__all__ = ["SuggestionJobServicer"]

_MOST = 10_000


class SuggestionJobServicer(suggestion_job_service_pb2_grpc.SuggestionJobServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        blobs: Where heads and scores lie.
    """

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def GetSuggestionJob(self, request: GetSuggestionJobRequest, context: object) -> SuggestionJob:
        """Return what is needed to look through the data of a version, unless nobody needs that."""
        async with self._database.transaction(request.app_id) as connection:
            row = await version_store.version_by_uid(connection, request.app_id, _uid(request.version_uid))
            done = await suggestion_store.exists(connection, row)
            superseded = await suggestion_store.is_superseded(connection, row)
        if done or superseded or row.completed_at is None or not row.head or not row.out_of_fold:
            raise PreconditionError("SUGGESTIONS_NOT_WANTED", f"nothing is to be suggested for {row.name}")
        return SuggestionJob(
            model=message_from_json(row.model_snapshot, Model()),
            space=row.space,
            name=row.name,
            seed=row.seed,
            head=await self._blobs.get(row.head),
            out_of_fold=await self._blobs.get(row.out_of_fold),
        )

    async def PutSuggestions(self, request: PutSuggestionsRequest, context: object) -> PutSuggestionsResponse:
        """Store the suggestions of a version; repeating it changes nothing."""
        if len(request.suggestions) > _MOST:
            raise InvalidInputError("TOO_MANY_SUGGESTIONS", f"a version has at most {_MOST} suggestions")
        # Thousands take half a second.
        fresh = await asyncio.to_thread(lambda: [_new(one) for one in request.suggestions])
        async with self._database.transaction(request.app_id) as connection:
            row = await version_store.version_by_uid(connection, request.app_id, _uid(request.version_uid))
            if await suggestion_store.insert(connection, row, fresh):
                for followed in await standing_suggestion_store.accept_standing(connection, row):
                    await ask_for_labels(connection, row, followed)
        return PutSuggestionsResponse()


def _new(suggestion: Suggestion) -> NewSuggestion:
    kind = SuggestionKind.Name(suggestion.kind) if suggestion.kind in SuggestionKind.values() else ""
    if not kind or kind.endswith("_UNSPECIFIED") or not math.isfinite(suggestion.score):
        raise InvalidInputError("SUGGESTION_INVALID", "a suggestion needs a kind and a finite score")
    return NewSuggestion(
        input=suggestion.input,
        kind=kind.removeprefix("SUGGESTION_KIND_"),
        concept=suggestion.concept,
        other_concept=suggestion.other_concept,
        score=suggestion.score,
        body=json_from_message(suggestion),
        fingerprint=fingerprint_of(suggestion),
    )


def _uid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInputError("VERSION_UID_INVALID", "version_uid is no UUID") from error
