"""Computing learning curves that were asked for, when nobody waits for anything else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.internal.v1.learning_curve_job_service_pb2 import (
    GetLearningCurveJobRequest,
    LearningCurveJob,
    PutLearningCurveRequest,
)
from lensmith_api.v1 import evaluation_pb2 as pb
from lensmith_platform.errors import InternalError, InvalidInputError, NotFoundError, PreconditionError, to_status
from lensmith_platform.service_auth import service_call_app
from lensmith_trainer.holding import TrainingRows
from lensmith_trainer.replicas import Replicas
from lensmith_trainer.spare_process import SpareProcess, Task
from lensmith_trainer.training_set import options_of, training_set_of
from lensmith_vision.errors import TrainingError
from lensmith_vision.learning_curve import CurvePoint, LearningCurve, learning_curve

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.learning_curve_job_service_pb2_grpc import LearningCurveJobServiceAsyncStub

__all__ = ["LearningCurveJobs", "curve_of"]

_PAUSE_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


class LearningCurveJobs:
    """Computes learning curves. A process that dies over one leaves an event that another one takes up.

    Args:
        registry: Who asks for them, and stores them.
        replicas: Training data.
        spare: Where they are computed.
    """

    def __init__(self, registry: LearningCurveJobServiceAsyncStub, replicas: Replicas, spare: SpareProcess) -> None:
        self._registry = registry
        self._replicas = replicas
        self._spare = spare

    async def start(self, event: Event) -> None:
        """Compute the learning curve that an event tells of, if anybody still waits for it.

        Raises:
            LensmithError: registry or dataset is away; try again later.
        """
        uid = event.learning_curve_queued.version_uid
        with service_call_app(event.app_id):
            try:
                job = await self._registry.GetLearningCurveJob(
                    GetLearningCurveJobRequest(app_id=event.app_id, version_uid=uid)
                )
            except (NotFoundError, PreconditionError) as error:
                _LOG.info("no learning curve is wanted for %s: %s", uid, error)
                return
            request = await self._computed(event.app_id, job)
            request.app_id, request.version_uid = event.app_id, uid
            try:
                await self._put(request, job.name)
            except NotFoundError:
                _LOG.info("%s was deleted meanwhile", job.name)

    async def _computed(self, app_id: int, job: LearningCurveJob) -> PutLearningCurveRequest:
        """Have it computed; where the process dies each time, it has failed, or it would be begun for ever."""
        for last in (False, False, True):
            async with self._spare.turn, self._replicas.lent(app_id, job.space) as replica:
                task = Task("learning_curve", str(replica), app_id, job.space)
                try:
                    return PutLearningCurveRequest.FromString(await self._spare.run(task, [job.SerializeToString()]))
                except InternalError as error:
                    _LOG.warning("the learning curve of %s is not computed: %s", job.name, error)
            if not last:
                await asyncio.sleep(_PAUSE_SECONDS)
        crashed = PreconditionError(
            "LEARNING_CURVE_CRASHED",
            "the process that computes it died again and again; it may have run out of memory: see the trainer's log",
        )
        return PutLearningCurveRequest(error=to_status(crashed))

    async def _put(self, request: PutLearningCurveRequest, version: str) -> None:
        """Hand in a learning curve; one that registry refuses has failed: computed once more, it would be the same."""
        try:
            await self._registry.PutLearningCurve(request)
        except InvalidInputError as error:
            _LOG.error("the learning curve of %s is refused: %s", version, error)
            # A defect of ours: whoever asked is told no more than that.
            request.error.CopyFrom(to_status(InternalError(error.reason, error.message)))
            await self._registry.PutLearningCurve(request)


def curve_of(job: LearningCurveJob, taken: TrainingRows) -> PutLearningCurveRequest:
    """Compute a learning curve, or say why there is none."""
    data = training_set_of(job.model, job.space, taken)
    try:
        curve = learning_curve(data, options_of(job.model, job.training, job.seed), lambda: False)
    except TrainingError as error:
        reason = PreconditionError(error.reason, str(error), metadata=error.metadata)
        return PutLearningCurveRequest(error=to_status(reason))
    return PutLearningCurveRequest(learning_curve=_to_proto(curve))


def _to_proto(curve: LearningCurve) -> pb.LearningCurve:
    return pb.LearningCurve(
        figure=curve.figure,
        points=_points(curve.points),
        expected=_points(curve.expected),
        concepts=[
            pb.ConceptLearningCurve(concept=one.concept, points=_points(one.points), expected=_points(one.expected))
            for one in curve.concepts
        ],
    )


def _points(points: Iterable[CurvePoint]) -> list[pb.LearningCurvePoint]:
    return [
        pb.LearningCurvePoint(images=point.images, value=point.value, range=pb.Interval(low=point.low, high=point.high))
        for point in points
    ]
