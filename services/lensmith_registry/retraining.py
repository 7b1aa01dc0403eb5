"""Training by itself: a model that wants it gets a new version after so many new annotations.

Nothing is counted up. dataset is asked how many annotations there are behind a cursor, and the cursor moves in the very
transaction that queues a version: whoever dies in between, the next look finds the same, and no annotation is missed.
Those on pictures that still wait for their vector move on to the version after. They are a number there, not a list:
one that is changed by then counts twice, and one whose picture is gone still counts: training comes a little early.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.training_data_service_pb2 import CountNewAnnotationsRequest, CountNewAnnotationsResponse
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError, LensmithError, NotFoundError, PreconditionError, to_status
from lensmith_platform.principal import AppRef
from lensmith_platform.service_auth import service_call_app
from lensmith_registry import base_model_store, preflight, retraining_store, store
from lensmith_registry.converters import json_from_message
from lensmith_registry.retraining_store import DueModel
from lensmith_registry.store import ModelRow
from lensmith_registry.training import TrainingRequest, TrainingStart

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["Retrainer"]

_BATCH = 50
_CALL_SECONDS = 20.0
_ACTOR = "services/registry"
_LOG = logging.getLogger(__name__)


class Retrainer:
    """Looks which models have enough new annotations. Safe to run in several processes at once.

    Args:
        database: Of the workers' role, which sees every app.
        training_data: dataset, which counts.
        training: Queues versions.
        pause_seconds: How long a model rests between two looks.
    """

    def __init__(
        self,
        database: Database,
        training_data: TrainingDataServiceAsyncStub,
        training: TrainingStart,
        pause_seconds: float,
    ) -> None:
        self._database = database
        self._training_data = training_data
        self._training = training
        self._pause_seconds = pause_seconds

    async def look(self) -> None:
        """Look at every model that has rested long enough."""
        while True:
            heed_cancellation()
            async with self._database.transaction(None) as connection:
                found = await retraining_store.claim(connection, self._pause_seconds, _BATCH)
            for due in found:
                with service_call_app(due.app_id):
                    try:
                        await self._look_at(due)
                    except NotFoundError:
                        continue
                    except LensmithError as error:
                        _LOG.warning("model %s is looked at later: %s", due.uid, error)
            if len(found) < _BATCH:
                return

    async def _look_at(self, due: DueModel) -> None:
        async with self._database.transaction(due.app_id) as connection:
            model = await store.model_by_uid(connection, due.app_id, due.uid)
            base = await base_model_store.resolve_space(connection, due.app_id, "")
        counted = await self._counted(due, model, base.space)
        if counted is None:
            return
        # What waits for its vector would be missing in the version. It counts for the one after.
        count = due.pending_annotations + counted.count - counted.pending_annotations
        if count < model.definition.retrain_after_annotations + due.refused_at_count:
            return
        note = f"by itself, after {count} new annotations"
        request = TrainingRequest(AppRef(due.app_id, "", model.app_name), model.model, note, "", _ACTOR)
        try:
            version = await self._training.queue_unasked(request, due)
        except PreconditionError as error:
            await self._refuse(due, model, count, error)
        else:
            if version is not None:
                _LOG.info("%s is queued %s", version.name, note)

    async def _counted(self, due: DueModel, model: ModelRow, space: str) -> CountNewAnnotationsResponse | None:
        """Count what is new; None where counting only begins now."""
        request = CountNewAnnotationsRequest(
            app_id=due.app_id,
            space=space,
            concepts=preflight.concepts_to_count(model.definition),
            annotations_cursor=due.annotations_cursor,
        )
        begins = bool(due.last_number) and not due.annotations_cursor
        try:
            counted = await self._training_data.CountNewAnnotations(request, timeout=_CALL_SECONDS)
        except InvalidInputError as error:
            if error.reason != "CURSOR_INVALID":
                raise
            # The database was restored, and its transactions are numbered anew.
            request.annotations_cursor, begins = "", True
            counted = await self._training_data.CountNewAnnotations(request, timeout=_CALL_SECONDS)
        if not begins:
            return counted
        async with self._database.transaction(due.app_id) as connection:
            await retraining_store.start_counting(
                connection, due, counted.annotations_cursor, counted.pending_annotations
            )
        return None

    async def _refuse(self, due: DueModel, model: ModelRow, count: int, error: PreconditionError) -> None:
        """Tell once why there is no version: the next try comes after as many annotations again."""
        status = json_from_message(to_status(error))
        async with self._database.transaction(due.app_id) as connection:
            told = await retraining_store.note_refused(connection, due, count, status)
        if told:
            _LOG.warning("%s is not trained by itself: %s", model.name, error)
