"""LearningCurveJobService: what a trainer asks and tells about the learning curve of a version, over gRPC."""

from __future__ import annotations

import asyncio
import math
from uuid import UUID

from lensmith_api.internal.v1 import learning_curve_job_service_pb2_grpc
from lensmith_api.internal.v1.learning_curve_job_service_pb2 import (
    GetLearningCurveJobRequest,
    LearningCurveJob,
    PutLearningCurveRequest,
    PutLearningCurveResponse,
)
from lensmith_api.v1.evaluation_pb2 import LearningCurve
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.training_settings_pb2 import TrainingSettings
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError, PreconditionError
from lensmith_registry import learning_curve_store, version_store
from lensmith_registry.converters import json_from_message, message_from_json
from lensmith_registry.version_store import Json

__all__ = ["LearningCurveJobServicer"]


class LearningCurveJobServicer(learning_curve_job_service_pb2_grpc.LearningCurveJobServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def GetLearningCurveJob(self, request: GetLearningCurveJobRequest, context: object) -> LearningCurveJob:
        """Return what is needed to compute a learning curve, unless nobody waits for it any more."""
        async with self._database.transaction(request.app_id) as connection:
            row = await version_store.version_by_uid(connection, request.app_id, _uid(request.version_uid))
            wanted = await learning_curve_store.get(connection, row)
        if wanted is None or wanted.state != "QUEUED":
            raise PreconditionError("LEARNING_CURVE_NOT_WANTED", f"nobody waits for the learning curve of {row.name}")
        return LearningCurveJob(
            model=message_from_json(row.model_snapshot, Model()),
            space=row.space,
            name=row.name,
            seed=row.seed,
            training=message_from_json(row.training, TrainingSettings()),
        )

    async def PutLearningCurve(self, request: PutLearningCurveRequest, context: object) -> PutLearningCurveResponse:
        """Store a learning curve, or why there is none; repeating it changes nothing."""
        failed = request.HasField("error")
        # A curve of thousands of concepts takes half a second.
        curve = None if failed else await asyncio.to_thread(_kept, request.learning_curve)
        error = json_from_message(request.error) if failed else None
        async with self._database.transaction(request.app_id) as connection:
            row = await version_store.version_by_uid(connection, request.app_id, _uid(request.version_uid))
            await learning_curve_store.finish(connection, row, curve, error)
        return PutLearningCurveResponse()


def _kept(curve: LearningCurve) -> Json:
    """Check a curve; return what is stored of it."""
    points = [
        *curve.points,
        *curve.expected,
        *(point for one in curve.concepts for point in (*one.points, *one.expected)),
    ]
    figures = [figure for point in points for figure in (point.value, point.range.low, point.range.high)]
    if not curve.points or not all(map(math.isfinite, figures)):
        raise InvalidInputError("LEARNING_CURVE_INVALID", "a learning curve needs points, and finite figures")
    return json_from_message(curve)


def _uid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInputError("VERSION_UID_INVALID", "version_uid is no UUID") from error
