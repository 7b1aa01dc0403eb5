"""What more images would bring: asked for here, computed by a trainer."""

from __future__ import annotations

import asyncio

from google.rpc.status_pb2 import Status

from lensmith_api.v1.evaluation_pb2 import LearningCurve, LearningCurveState
from lensmith_platform import timestamps
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import NotFoundError, PreconditionError
from lensmith_registry import changes, learning_curve_store
from lensmith_registry.converters import message_from_json
from lensmith_registry.evaluation_scores import require_ready
from lensmith_registry.learning_curve_store import LearningCurveRow
from lensmith_registry.version_store import VersionRow

__all__ = ["LearningCurves"]


class LearningCurves:
    """Asks for learning curves, and shows them.

    Args:
        database: Of the service's role.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def compute(self, row: VersionRow) -> LearningCurve:
        """Have a trainer compute the learning curve of a READY version; one under way is left alone.

        Raises:
            PreconditionError: It is not READY, or came trained.
        """
        require_ready(row)
        if not row.head:
            raise PreconditionError("MODEL_IS_IMPORTED", f"{row.name} came with a base model and is not trained here")
        async with self._database.transaction(row.app_id) as connection:
            if await learning_curve_store.request(connection, row):
                await changes.learning_curve_queued(connection, row.app_id, row.uid)
            found = await learning_curve_store.get(connection, row)
        return await asyncio.to_thread(_shown, row, found)

    async def get(self, row: VersionRow) -> LearningCurve:
        """Return the learning curve of a version, or how far it is.

        Raises:
            NotFoundError: LEARNING_CURVE_NOT_FOUND.
        """
        async with self._database.transaction(row.app_id) as connection:
            found = await learning_curve_store.get(connection, row)
        # Of thousands of concepts it takes half a second.
        return await asyncio.to_thread(_shown, row, found)


def _shown(row: VersionRow, found: LearningCurveRow | None) -> LearningCurve:
    if found is None:
        raise NotFoundError(
            "LEARNING_CURVE_NOT_FOUND",
            f"nobody asked what more images would bring to {row.name}: ComputeLearningCurve does",
            metadata={"version": str(row.number)},
        )
    shown = LearningCurve() if found.curve is None else message_from_json(found.curve, LearningCurve())
    shown.name = f"{row.name}/learningCurve"
    shown.state = LearningCurveState.Value(f"LEARNING_CURVE_STATE_{found.state}")
    if found.error is not None:
        shown.error.CopyFrom(message_from_json(found.error, Status()))
    for field, moment in ((shown.create_time, found.created_at), (shown.end_time, found.ended_at)):
        if (time := timestamps.to_proto(moment)) is not None:
            field.CopyFrom(time)
    return shown
