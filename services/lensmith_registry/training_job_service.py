"""TrainingJobService: what a trainer tells and asks about the version that it trains, over gRPC."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

from lensmith_api.internal.v1 import training_job_service_pb2_grpc
from lensmith_api.internal.v1.training_job_service_pb2 import (
    ClaimModelVersionRequest,
    CompleteModelVersionRequest,
    FailModelVersionRequest,
    PutNetworkFileRequest,
    PutNetworkFileResponse,
    ReportProgressRequest,
    ReportProgressResponse,
    TrainingJob,
)
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion, TrainingProgress
from lensmith_api.v1.training_settings_pb2 import TrainingSettings
from lensmith_platform.blobs import Blobs
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import ConflictError, InvalidInputError, PreconditionError, to_status
from lensmith_registry import changes, standing_evaluation_store, version_state_store, version_store
from lensmith_registry.converters import json_from_message, json_from_messages, message_from_json, version_to_proto
from lensmith_registry.evaluation_scores import out_of_fold_key
from lensmith_registry.network_store import StoredNetwork
from lensmith_registry.networks import Networks
from lensmith_registry.serving_service import head_key
from lensmith_registry.standing_evaluation_store import StandingEvaluation
from lensmith_registry.version_inputs import snapshot_key
from lensmith_registry.version_state_store import Outcome
from lensmith_registry.version_store import Json, VersionRow
from lensmith_vision import dataset_snapshot, heads, out_of_fold
from lensmith_vision import evaluation as vision_evaluation
from lensmith_vision.errors import VisionError
from lensmith_vision.heads import Head

__all__ = ["TrainingJobServicer"]

_BYTES = "application/octet-stream"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class TrainingJobServicer(training_job_service_pb2_grpc.TrainingJobServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        blobs: Where heads go.
        networks: Takes in those of fine-tuned versions.
        lease_seconds: How long a lease lasts without a report.
        max_attempts: How often trainers may die over a version.
    """

    def __init__(
        self, database: Database, blobs: Blobs, networks: Networks, lease_seconds: float, max_attempts: int
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._networks = networks
        self._lease_seconds = lease_seconds
        self._max_attempts = max_attempts

    async def ClaimModelVersion(self, request: ClaimModelVersionRequest, context: object) -> TrainingJob:
        """Take a queued version, or one whose trainer has been silent for too long."""
        app_id, uid = request.app_id, _uid(request.version_uid)
        async with self._database.transaction(app_id) as connection:
            before = await version_store.version_by_uid(connection, app_id, uid)
            claimed = False
            if before.lease >= self._max_attempts and (before.lease_left or 0) <= 0:
                await self._give_up(connection, before)
            else:
                trainer = request.trainer[:200]
                claimed = await version_state_store.claim(connection, app_id, uid, trainer, self._lease_seconds)
            if claimed:
                await changes.version_changed(connection, app_id, uid)
            row = await version_store.version_by_uid(connection, app_id, uid)
        if not claimed:
            raise _not_claimable(row, self._lease_seconds)
        return TrainingJob(
            app_id=app_id,
            version_uid=str(row.uid),
            lease=row.lease,
            lease_seconds=math.ceil(self._lease_seconds),
            model=message_from_json(row.model_snapshot, Model()),
            space=row.space,
            name=row.name,
            seed=row.seed,
            training=message_from_json(row.training, TrainingSettings()),
        )

    async def ReportProgress(self, request: ReportProgressRequest, context: object) -> ReportProgressResponse:
        """Keep the lease, store how far it is, and say whether to stop."""
        app_id, uid = request.app_id, _uid(request.version_uid)
        progress = _checked_progress(request.progress)
        async with self._database.transaction(app_id) as connection:
            if await version_state_store.renew(connection, app_id, uid, request.lease, self._lease_seconds, progress):
                await changes.version_changed(connection, app_id, uid)
                return ReportProgressResponse()
            row = await version_store.version_by_uid(connection, app_id, uid)
        if row.state == "CANCELLED":
            return ReportProgressResponse(cancelled=True)
        raise _lease_lost(row)

    async def PutNetworkFile(
        self, request_iterator: AsyncIterator[PutNetworkFileRequest], context: object
    ) -> PutNetworkFileResponse:
        """Take in one file of the network of a version in training."""
        await self._networks.put(request_iterator)
        return PutNetworkFileResponse()

    async def CompleteModelVersion(self, request: CompleteModelVersionRequest, context: object) -> ModelVersion:
        """Store the head, then the outcome; READY follows once serving has been told."""
        app_id, uid = request.app_id, _uid(request.version_uid)
        _check_names(request)
        head = head_key(app_id, str(uid), hashlib.sha256(request.head).hexdigest())
        blobs = {head: request.head}
        scores = ""
        if request.out_of_fold:
            scores = out_of_fold_key(app_id, str(uid), hashlib.sha256(request.out_of_fold).hexdigest())
            blobs[scores] = request.out_of_fold
        snapshot = ""
        if request.dataset_snapshot:
            snapshot = snapshot_key(app_id, str(uid), request.dataset_sha256)
            blobs[snapshot] = request.dataset_snapshot
        async with self._database.transaction(app_id) as connection:
            row = await version_store.version_by_uid(connection, app_id, uid)
        if _is_completed(row, request.lease, head):
            return version_to_proto(row)
        standing: StandingEvaluation | None = None
        async with self._database.transaction(app_id) as connection:
            if request.evaluation_of:
                # It cannot be deleted before this version names its scores.
                source = _uid(request.evaluation_of)
                standing = await standing_evaluation_store.hold(connection, row, source, request.concepts)
                scores = standing.out_of_fold
            if not await version_state_store.set_blobs(
                connection, app_id, uid, request.lease, self._lease_seconds, head, scores, snapshot
            ):
                row = await version_store.version_by_uid(connection, app_id, uid)
                if _is_completed(row, request.lease, head):
                    return version_to_proto(row)
                raise _cannot_end(row, request.lease)
        # Left by a trainer that lost its lease between storing its head and completing.
        left = (row.head, row.out_of_fold, row.dataset_snapshot)
        await self._blobs.delete([key for key in left if f"/{uid}/" in key and key not in blobs])
        # What is refused in the end goes with its version: the row names it.
        storing = asyncio.gather(*(self._blobs.put(key, data, _BYTES) for key, data in blobs.items()))
        outcome, _ = await asyncio.gather(self._outcome(request, row, head), storing)
        if standing is not None:
            outcome = replace(outcome, evaluation=standing.evaluation)
        if outcome.network is not None:
            await self._networks.drop_others(row, request.lease)
        return await self._database.retry(lambda: self._complete(app_id, uid, request.lease, outcome))

    async def FailModelVersion(self, request: FailModelVersionRequest, context: object) -> ModelVersion:
        """Make the version FAILED; repeating it changes nothing."""
        app_id, uid = request.app_id, _uid(request.version_uid)
        if request.error.code == 0:
            raise InvalidInputError("ERROR_REQUIRED", "error must say why the version failed")
        async with self._database.transaction(app_id) as connection:
            if await version_state_store.fail(connection, app_id, uid, request.lease, json_from_message(request.error)):
                await changes.version_changed(connection, app_id, uid)
            row = await version_store.version_by_uid(connection, app_id, uid)
            if row.state != "FAILED" or row.lease != request.lease:
                raise _cannot_end(row, request.lease)
        return version_to_proto(row)

    async def _complete(self, app_id: int, uid: UUID, lease: int, outcome: Outcome) -> ModelVersion:
        async with self._database.transaction(app_id) as connection:
            if await version_state_store.complete(connection, app_id, uid, lease, outcome):
                await changes.version_completed(connection, app_id, uid)
                await changes.version_changed(connection, app_id, uid)
            row = await version_store.version_by_uid(connection, app_id, uid)
            if not _is_completed(row, lease, outcome.head):
                raise _cannot_end(row, lease)
        return version_to_proto(row)

    async def _give_up(self, connection: Connection, row: VersionRow) -> None:
        """Make a version FAILED over which trainers die again and again."""
        reason = PreconditionError(
            "TRAINING_ATTEMPTS_EXHAUSTED", f"{row.lease} trainers stopped without an answer; see their logs"
        )
        error = json_from_message(to_status(reason))
        if await version_state_store.fail(connection, row.app_id, row.uid, row.lease, error):
            await changes.version_changed(connection, row.app_id, row.uid)

    async def _outcome(self, request: CompleteModelVersionRequest, row: VersionRow, head: str) -> Outcome:
        space = request.network_space or row.space
        checked, evaluation = await asyncio.to_thread(_checked_artefacts, request, space)
        network: StoredNetwork | None = None
        if request.network_space:
            network = await self._networks.described(row, request.lease, request.network_space, checked)
        names = dict(zip(row.concepts, row.display_names, strict=True))
        return Outcome(
            head=head,
            concepts=list(request.concepts),
            display_names=[names.get(concept) or concept for concept in request.concepts],
            thresholds=list(request.thresholds),
            input_count=request.input_count,
            dataset_sha256=request.dataset_sha256,
            findings=_merged(row.findings, json_from_messages(request.findings)),
            summary=json_from_message(request.summary),
            evaluation=evaluation,
            tier=checked.tier,
            network=network,
        )


def _is_completed(row: VersionRow, lease: int, head: str) -> bool:
    """Whether this very result was handed in before."""
    return row.completed_at is not None and row.lease == lease and row.head == head


def _check_names(request: CompleteModelVersionRequest) -> None:
    """Refuse what would store bytes that no row names, which nobody would ever delete."""
    if request.evaluation_of and (request.evaluation_json or request.out_of_fold or request.network_space):
        raise InvalidInputError(
            "EVALUATION_AMBIGUOUS", "an evaluation of its own, or a network, cannot come with one that stands for it"
        )
    if not _SHA256.fullmatch(request.dataset_sha256):
        raise InvalidInputError("DATASET_SHA256_INVALID", "dataset_sha256 must be 64 lower-case hexadecimal digits")


def _checked_artefacts(request: CompleteModelVersionRequest, space: str) -> tuple[Head, Json]:
    """Hold what a trainer hands in against its version; a head that serving refuses must not become READY.

    Returns:
        The head, and the evaluation.
    """
    try:
        head = heads.load(request.head)
        if not request.evaluation_of:
            vision_evaluation.Evaluation.from_json(request.evaluation_json)
        scores = out_of_fold.outline(request.out_of_fold) if request.out_of_fold else None
        snapshot = dataset_snapshot.load(request.dataset_snapshot) if request.dataset_snapshot else None
    except VisionError as error:
        raise InvalidInputError(error.reason, str(error), metadata=error.metadata) from error
    if head.space != space:
        raise InvalidInputError("HEAD_OTHER_SPACE", f"the head is for {head.space}, the version for {space}")
    if list(head.concepts) != list(request.concepts) or len(request.thresholds) != len(request.concepts):
        raise InvalidInputError("HEAD_INVALID", "concepts and thresholds must be those of the head")
    if scores is not None and (scores.type != head.type or scores.concepts != head.concepts):
        raise InvalidInputError("OUT_OF_FOLD_INVALID", "type and concepts of the scores must be those of the head")
    if snapshot is not None and len(snapshot) != request.input_count:
        raise InvalidInputError("DATASET_SNAPSHOT_INVALID", "the snapshot must hold the inputs that were trained on")
    evaluation: Json = None if request.evaluation_of else json.loads(request.evaluation_json)
    return head, evaluation


def _merged(queued: Json, trained: Json) -> Json:
    """Findings of preflight and of training, each (reason, concept) once, training's last word."""
    merged: dict[tuple[Json, Json], Json] = {}
    for finding in [*(queued if isinstance(queued, list) else []), *(trained if isinstance(trained, list) else [])]:
        if isinstance(finding, dict):
            merged[finding.get("reason"), finding.get("concept")] = finding
    return list(merged.values())


def _checked_progress(progress: TrainingProgress) -> tuple[float, str, str]:
    fraction = progress.fraction if math.isfinite(progress.fraction) else 0.0
    return min(max(fraction, 0.0), 1.0), progress.stage[:50], progress.message[:500]


def _not_claimable(row: VersionRow, lease_seconds: float) -> PreconditionError:
    if row.state == "TRAINING" and row.completed_at is None:
        return PreconditionError(
            "VERSION_LEASED",
            f"another trainer works on {row.name}",
            metadata={
                "state": row.state,
                "lease_left": f"{max(row.lease_left or 0.0, 0.0):.3f}",
                "lease_seconds": f"{lease_seconds:.3f}",
            },
        )
    return PreconditionError("VERSION_ENDED", f"{row.name} is {row.state}", metadata={"state": row.state})


def _cannot_end(row: VersionRow, lease: int) -> ConflictError | PreconditionError:
    if row.state == "CANCELLED" and row.lease == lease:
        return PreconditionError("VERSION_CANCELLED", f"{row.name} was cancelled", metadata={"state": row.state})
    return _lease_lost(row)


def _lease_lost(row: VersionRow) -> ConflictError:
    return ConflictError(
        "LEASE_LOST",
        f"this trainer may write {row.name} no more",
        metadata={"state": row.state, "lease": str(row.lease)},
    )


def _uid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInputError("VERSION_UID_INVALID", "version_uid is no UUID") from error
