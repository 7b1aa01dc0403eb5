"""Training one version: claim it, fetch what changed, fit, hand in.

Whatever happens in between, another trainer can begin again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.internal.v1.training_job_service_pb2 import (
    ClaimModelVersionRequest,
    CompleteModelVersionRequest,
    FailModelVersionRequest,
    ReportProgressRequest,
    TrainingJob,
)
from lensmith_platform.cancellation import heed_cancellation
from lensmith_platform.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    LensmithError,
    NotFoundError,
    PreconditionError,
    to_status,
)
from lensmith_platform.service_auth import service_call_app
from lensmith_platform.usage import UsageMeter
from lensmith_trainer.fine_tuning import FineTuning
from lensmith_trainer.fit_memory import FitMemories
from lensmith_trainer.fitting import fit_job, sketch_job
from lensmith_trainer.growing import grow_job
from lensmith_trainer.holding import TrainingRows
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.patience import TRANSIENT, Patience
from lensmith_trainer.progress import FETCHED, FITTED, JobProgress
from lensmith_trainer.replicas import Replicas
from lensmith_trainer.training_set import labels_needed, method_of
from lensmith_trainer.unbroken import run_to_end
from lensmith_vision.errors import VisionError

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_job_service_pb2_grpc import TrainingJobServiceAsyncStub

__all__ = ["TrainingJobs"]

_PERMANENT = (InvalidInputError, NotFoundError, AlreadyExistsError, PreconditionError, ForbiddenError)
_FIRST_REPORT_SECONDS = 0.25
_PATIENCE_SECONDS = 600.0
_LEASE_SLACK_SECONDS = 0.1
_LOG = logging.getLogger(__name__)


class TrainingJobs:
    """Trains versions.

    Args:
        registry: Who gives and takes them.
        replicas: Training data.
        threads: Where fitting runs, so that the loop stays free for reports.
        memories: What fits leave for the next one of their model.
        usage: Where trainings are counted for their apps.
        metrics: Where they are counted for operators.
        fine_tuning: Who lets whole networks learn, where these are the versions that want it.
        trainer: Name of this process, for people.
        report_seconds: How often to report.
        complete_seconds: How long to try to hand in a head while registry is away.
    """

    def __init__(
        self,
        registry: TrainingJobServiceAsyncStub,
        replicas: Replicas,
        threads: Executor,
        memories: FitMemories,
        usage: UsageMeter,
        metrics: Metrics,
        fine_tuning: FineTuning | None = None,
        *,
        trainer: str,
        report_seconds: float,
        complete_seconds: float,
    ) -> None:
        self._registry = registry
        self._replicas = replicas
        self._threads = threads
        self._memories = memories
        self._usage = usage
        self._metrics = metrics
        self._fine_tuning = fine_tuning
        self._trainer = trainer
        self._report_seconds = report_seconds
        self._complete_seconds = complete_seconds
        self._unanswered: set[str] = set()

    async def start(self, event: Event) -> None:
        """Train the version that an event tells of, if it still wants to be trained.

        Raises:
            DependencyUnavailableError: registry or dataset is away; try again later.
        """
        with service_call_app(event.app_id):
            queued = event.model_version_queued if self._fine_tuning is None else event.model_fine_tuning_queued
            job = await self._claim(event.app_id, queued.version_uid)
            if job is None:
                return
            _LOG.info("training %s, lease %d", job.name, job.lease)
            started, outcome, lost = time.monotonic(), "interrupted", False
            try:
                outcome = await self._train(job)
            except (ConflictError, NotFoundError, PreconditionError) as error:
                # Cancelled, deleted, or another trainer has it: nothing is left to do here.
                _LOG.info("training of %s ends without a result: %s", job.name, error)
                outcome, lost = "stopped", isinstance(error, ConflictError)
            finally:
                self._metrics.train_seconds.labels(outcome).observe(time.monotonic() - started)
            # Where another trainer of the machine has it, or another try will, what was reached is worth keeping.
            if not lost:
                await self._forget(job.version_uid)

    async def _forget(self, version_uid: str) -> None:
        """Keep nothing of a version that is over."""
        self._unanswered.discard(version_uid)
        if self._fine_tuning is not None:
            await self._fine_tuning.forget(version_uid)

    async def _claim(self, app_id: int, version_uid: str) -> TrainingJob | None:
        request = ClaimModelVersionRequest(app_id=app_id, version_uid=version_uid, trainer=self._trainer)
        for last in (False, True):
            try:
                job = await self._registry.ClaimModelVersion(request)
            except NotFoundError:
                await self._forget(version_uid)
                return None
            except TRANSIENT:
                # It may have been claimed for this trainer, which does not know its lease.
                self._unanswered.add(version_uid)
                raise
            except PreconditionError as error:
                left = float(error.metadata.get("lease_left", 0.0))
                renewed = left > float(error.metadata.get("lease_seconds", 0.0)) / 2
                lives = renewed and version_uid not in self._unanswered
                if error.reason != "VERSION_LEASED":
                    # A trainer that died left what it had reached, and nobody will ask for that any more.
                    _LOG.info("nothing to train: %s", error)
                    await self._forget(version_uid)
                    return None
                if lives or last:
                    # Should the trainer that has it die, its own message comes back.
                    _LOG.info("nothing to train: %s", error)
                    self._unanswered.discard(version_uid)
                    return None
                # The trainer that had it has been silent for a while: its lease ends, or is renewed.
                await asyncio.sleep(left + _LEASE_SLACK_SECONDS)
            else:
                self._unanswered.discard(version_uid)
                return job
        return None

    async def _train(self, job: TrainingJob) -> str:
        """Train a claimed version; returns the outcome as metrics name it."""
        state = JobProgress()
        work = asyncio.create_task(self._fitted(job, state))
        report = asyncio.create_task(self._report(job, state))
        try:
            await asyncio.wait({work, report}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                report.result()
                return "stopped"
            result = await self._result(job, work)
        finally:
            # Whoever stops: the thread notices at its next step, the loop does not wait for it.
            state.stop.set()
            work.cancel()
            report.cancel()
            await asyncio.gather(work, report, return_exceptions=True)
        if isinstance(result, LensmithError):
            await self._registry.FailModelVersion(
                FailModelVersionRequest(
                    app_id=job.app_id, version_uid=job.version_uid, lease=job.lease, error=to_status(result)
                )
            )
            _LOG.info("training of %s failed: %s", job.name, result)
            return "failed"
        try:
            await self._hand_in(job, result)
        except PreconditionError as error:
            if error.reason != "EVALUATION_NOT_KEPT":
                raise
            # The version was deleted whose evaluation was to stand for this one too.
            self._memories.forget(job)
            return await self._train(job)
        self._usage.record(job.app_id, "train", job.model.name, "", 1)
        _LOG.info("training of %s is done, %d images", job.name, result.input_count)
        return "ready"

    async def _result(
        self, job: TrainingJob, work: asyncio.Task[CompleteModelVersionRequest]
    ) -> CompleteModelVersionRequest | LensmithError:
        """Return what to hand in, or why the version failed for good.

        Raises:
            LensmithError: Something that another try may cure.
        """
        try:
            return await work
        except VisionError as error:
            reason = error.reason if error.reason.startswith("TRAINING_") else f"TRAINING_{error.reason}"
            return PreconditionError(reason, str(error), metadata=error.metadata)
        except _PERMANENT as error:
            return error

    async def _fitted(self, job: TrainingJob, state: JobProgress) -> CompleteModelVersionRequest:
        parts = self._metrics.train_part_seconds
        if self._fine_tuning is not None:
            with parts.labels("fine_tune").time():
                return await self._fine_tuning.trained(job, state, lambda: self._rows(job, state))
        loop = asyncio.get_running_loop()
        request = await self._grown(job, state)
        if request is None:
            with parts.labels("fetch").time():
                rows = await self._rows(job, state)
            state.fraction, state.stage, state.message = FETCHED, "evaluating", f"{len(rows)} labelled images"
            with parts.labels("fit").time():
                request = await loop.run_in_executor(
                    self._threads, fit_job, job, rows, self._memories, state.fitting, state.stop.is_set
                )
        state.fraction, state.stage, state.message = FITTED, "storing", ""
        return request

    async def _hand_in(self, job: TrainingJob, result: CompleteModelVersionRequest) -> None:
        """Hand in a head, and get ready for the next one of the model meanwhile."""
        sketching = asyncio.create_task(self._sketch(job))
        try:
            with self._metrics.train_part_seconds.labels("hand_in").time():
                await self._complete(result)
            await asyncio.wait({sketching})
        finally:
            sketching.cancel()
            await asyncio.gather(sketching, return_exceptions=True)

    async def _sketch(self, job: TrainingJob) -> None:
        if not self._memories.wants_sketch(job):
            return
        async with self._replicas.held(job.app_id, job.space) as holding:
            if holding is not None:
                await run_to_end(self._threads, lambda: sketch_job(job, holding, self._memories))

    async def _grown(self, job: TrainingJob, state: JobProgress) -> CompleteModelVersionRequest | None:
        """Go on from the last training of the model where few pictures came to many; None: more is to be done."""
        if not self._memories.can_grow(job):
            return None
        parts, loop = self._metrics.train_part_seconds, asyncio.get_running_loop()
        begin = loop.time()
        try:
            # What it looks at must not change meanwhile.
            async with self._replicas.opened(job.app_id, job.space, state.received) as holding:
                parts.labels("fetch").observe(loop.time() - begin)
                with parts.labels("fit").time():
                    return await run_to_end(self._threads, lambda: grow_job(job, holding, self._memories))
        except TRANSIENT:
            # The long way waits for whatever is away.
            return None

    async def _rows(self, job: TrainingJob, state: JobProgress) -> TrainingRows:
        """Fetch the training data; while dataset is away, the lease is kept and the version says what it waits for.

        Raises:
            LensmithError: dataset refuses, or is away for too long.
        """
        patience = Patience(_PATIENCE_SECONDS)
        while True:
            try:
                needed = labels_needed(job.model)
                tests = method_of(job.training) == "test_set"
                return await self._replicas.rows(job.app_id, job.space, needed, state.received, tests=tests)
            except TRANSIENT as error:
                state.message = "waiting for the training data, which cannot be had now"
                await patience.wait(error, f"{job.name} waits for its data")

    async def _report(self, job: TrainingJob, state: JobProgress) -> None:
        """Report until cancelled by whoever waits, or until registry says to stop.

        Raises:
            LensmithError: The lease is lost, or the version is gone.
        """
        # A retrain may be over before anybody could read of it.
        await asyncio.sleep(min(_FIRST_REPORT_SECONDS, self._report_seconds))
        while True:
            try:
                answer = await self._registry.ReportProgress(
                    ReportProgressRequest(
                        app_id=job.app_id, version_uid=job.version_uid, lease=job.lease, progress=state.to_proto()
                    )
                )
            except TRANSIENT as error:
                # Training goes on: if nobody else took the version meanwhile, the lease still holds.
                _LOG.warning("progress of %s is not reported: %s", job.name, error)
            else:
                if answer.cancelled:
                    raise PreconditionError("VERSION_CANCELLED", f"{job.name} was cancelled")
            heed_cancellation()
            await asyncio.sleep(min(self._report_seconds, job.lease_seconds / 3))

    async def _complete(self, request: CompleteModelVersionRequest) -> None:
        """Hand in the head; repeating it changes nothing, so an unanswered try is repeated."""
        patience = Patience(self._complete_seconds)
        while True:
            try:
                await self._registry.CompleteModelVersion(request)
            except (*TRANSIENT, ConflictError) as error:
                if error.reason == "LEASE_LOST":
                    raise
                await patience.wait(error, "a head is not handed in yet")
            else:
                return
