"""Queueing a version: look at the data, refuse or warn, then one short transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lensmith_api.internal.v1.training_data_service_pb2 import CountTrainingDataRequest
from lensmith_api.v1.training_settings_pb2 import EvaluationMethod, TrainingSettings
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import ConflictError, NotFoundError, PreconditionError, QuotaExceededError
from lensmith_platform.principal import AppRef
from lensmith_registry import (
    base_model_store,
    changes,
    fine_tuners,
    model_upgrade_store,
    preflight,
    request_store,
    retraining_store,
    store,
    training_settings,
    upgrade_store,
    version_store,
)
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.converters import (
    finding_to_proto,
    json_from_message,
    json_from_messages,
    message_from_json,
    model_to_proto,
)
from lensmith_registry.fine_tuners import FineTuners
from lensmith_registry.preflight import Preflight
from lensmith_registry.retraining_store import DueModel
from lensmith_registry.store import ModelDefinition, ModelRow
from lensmith_registry.upgrade_store import UpgradeRow
from lensmith_registry.version_store import NewVersion, VersionRow
from lensmith_vision.fine_tune.job import FEWEST_PICTURES

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["TrainingRequest", "TrainingStart"]

_METHOD = "TrainModel"
_SWITCHES = 3
"""How often a training is judged anew because something was in its way."""


@dataclass(frozen=True)
class TrainingRequest:
    """Who wants which model trained."""

    app: AppRef
    model: str
    note: str
    request_id: str
    actor: str
    training: TrainingSettings = field(default_factory=TrainingSettings)

    @property
    def fingerprint(self) -> bytes:
        """What a repeated request_id must come with."""
        settings = self.training.SerializeToString(deterministic=True)
        # Without settings as it was before there were any, for calls that are repeated across an update.
        extra = b"\0" + settings if settings else b""
        return hashlib.sha256(f"{self.model}\0{self.note}".encode() + extra).digest()


@dataclass(frozen=True)
class _Judged:
    """A model as it was judged, the base model to train it on, and what preflight made of the data.

    Attributes:
        annotations_cursor: Annotations behind it are newer than what was judged.
        pending_annotations: Annotations before it that nothing is learnt from yet.
    """

    model: ModelRow
    base: BaseModelRow
    looked: Preflight
    annotations_cursor: str
    pending_annotations: int


class TrainingStart:
    """Starts trainings.

    Args:
        database: Of the service's role.
        training_data: dataset, which counts what there is to learn from.
        fine_tuners: Trainers for versions whose whole network is to learn.
        most_queued: Versions of an app at once that wait or are in training.
    """

    def __init__(
        self,
        database: Database,
        training_data: TrainingDataServiceAsyncStub,
        fine_tuners: FineTuners,
        most_queued: int,
    ) -> None:
        self._database = database
        self._training_data = training_data
        self._fine_tuners = fine_tuners
        self._most_queued = most_queued

    async def queue(self, request: TrainingRequest) -> VersionRow:
        """Queue a new version, or return the one that an earlier call with the same request_id queued.

        Raises:
            NotFoundError: There is no such model, or what the request_id queued was deleted.
            PreconditionError: The model came with a base model, preflight refuses (`TRAINING_…` says why), or nobody
                would begin (`FINE_TUNING_NOT_AVAILABLE`).
            AlreadyExistsError: The request_id was used for something else.
            ConflictError: BASE_MODEL_SWITCHED, again and again.
            QuotaExceededError: TOO_MANY_QUEUED_VERSIONS.
        """
        app_id = request.app.app_id
        for _ in range(_SWITCHES):
            async with self._database.transaction(app_id) as connection:
                earlier = await self._earlier(connection, request)
                if earlier is not None:
                    return earlier
                # Before dataset is asked, which a flood of calls then costs nothing. It is looked again under the lock.
                await self._check_room(connection, app_id)
                base = await base_model_store.resolve_space(connection, app_id, request.app.base_model)
            judged = await self._judged(request, base)
            if training_settings.fine_tunes(_settings(judged.model.definition, request)):
                # Only who waits for an answer is told so. What nobody asked for waits until there is a trainer.
                await self._fine_tuners.check()
            row = await self._insert(request, judged)
            if row is not None:
                return row
            # A rival with the same request_id was first, or the app was switched to another base model meanwhile, or
            # another model has the name now.
        return await self._insert_lost(request)

    async def queue_unasked(self, request: TrainingRequest, due: DueModel) -> VersionRow | None:
        """Queue a new version of a model that is trained by itself, unless there is no reason for it any more.

        Args:
            request: What to train.
            due: The model as it was claimed: from where the annotations were counted that are the reason.

        Returns:
            The version; None where another was queued meanwhile, as many versions of the app wait as may, or the app
            was switched to another base model.

        Raises:
            NotFoundError: There is no such model any more.
            PreconditionError: Preflight refuses; `TRAINING_…` says why.
        """
        app_id = request.app.app_id
        async with self._database.transaction(app_id) as connection:
            if not await self._has_room(connection, app_id):
                return None
            base = await base_model_store.resolve_space(connection, app_id, request.app.base_model)
        judged = await self._judged(request, base)
        async with self._database.transaction(app_id) as connection:
            if await base_model_store.lock_space(connection, app_id) != base.space:
                return None
            model = await store.lock_model(connection, app_id, request.model)
            same = model.uid == judged.model.uid == due.uid
            if not same or not await retraining_store.still_due(connection, model, due):
                return None
            if not await self._has_room(connection, app_id):
                return None
            return await self._insert_version(connection, request, model, judged, 0)

    async def queue_for_upgrade(self, request: TrainingRequest, upgrade: UpgradeRow) -> None:
        """Queue a candidate of an upgrade, if that still wants one of the model.

        Raises:
            NotFoundError: There is no such model any more.
            PreconditionError: Preflight refuses; `TRAINING_…` says why.
        """
        app_id = upgrade.app_id
        async with self._database.transaction(app_id) as connection:
            base = await base_model_store.by_space(connection, upgrade.space)
        judged = await self._judged(request, base)
        async with self._database.transaction(app_id) as connection:
            locked = await upgrade_store.lock_upgrade(connection, app_id, upgrade.id)
            model = await store.lock_model(connection, app_id, request.model)
            wanting = await model_upgrade_store.models_of(connection, locked)
            wanted = (model.id, "WAITING") in [(one.model_id, one.outcome) for one in wanting]
            if locked.state != "TRAINING" or model.id != judged.model.id or not wanted:
                return
            row = await self._insert_version(connection, request, model, judged, upgrade.number)
            await model_upgrade_store.queued(connection, locked, model.id, row.number)

    async def _judged(self, request: TrainingRequest, base: BaseModelRow) -> _Judged:
        """Look at the data that a model would be trained on, and refuse what cannot succeed."""
        app_id = request.app.app_id
        async with self._database.transaction(app_id) as connection:
            model = await store.get_model(connection, app_id, request.model)
            if model.imported:
                raise PreconditionError(
                    "MODEL_IS_IMPORTED", f"{model.name} came with a base model and is not trained here"
                )
            negative = await store.negative_concepts(connection, app_id)
        training_settings.check(request.training, model.definition.type, "training")
        settings = _settings(model.definition, request)
        training_settings.check_together(settings, "training")
        tested = settings.evaluation == EvaluationMethod.EVALUATION_METHOD_TEST_SET
        counted = await self._training_data.CountTrainingData(
            CountTrainingDataRequest(
                app_id=app_id, space=base.space, concepts=preflight.concepts_to_count(model.definition), tests=tested
            )
        )
        looked = preflight.look(model.definition, counted, negative)
        if training_settings.fine_tunes(settings) and counted.annotated_inputs < FEWEST_PICTURES:
            raise PreconditionError(
                "TRAINING_TOO_FEW_IMAGES",
                f"{model.name} has {counted.annotated_inputs} labelled images; fine-tuning needs {FEWEST_PICTURES}",
                metadata={"model": model.name, "images": str(counted.annotated_inputs)},
            )
        untestable = preflight.look_at_tests(model.definition, counted.tests) if tested else []
        preflight.refuse(model.name, [*looked.findings, *untestable])
        return _Judged(model, base, looked, counted.annotations_cursor, counted.pending_annotations)

    async def _earlier(self, connection: Connection, request: TrainingRequest) -> VersionRow | None:
        app_id = request.app.app_id
        uid = await request_store.requested_uid(connection, app_id, _METHOD, request.request_id, request.fingerprint)
        if uid is None:
            return None
        try:
            return await version_store.version_by_uid(connection, app_id, uid)
        except NotFoundError as error:
            raise request_store.deleted_since("version", request.request_id) from error

    async def _insert(self, request: TrainingRequest, judged: _Judged) -> VersionRow | None:
        app_id = request.app.app_id
        async with self._database.transaction(app_id) as connection:
            if await base_model_store.lock_space(connection, app_id) != judged.base.space:
                return None
            model = await store.lock_model(connection, app_id, request.model)
            if model.id != judged.model.id or await self._earlier(connection, request) is not None:
                return None
            await self._check_room(connection, app_id)
            row = await self._insert_version(connection, request, model, judged, 0)
            first = await request_store.insert_request(
                connection, app_id, _METHOD, request.request_id, request.fingerprint, row.uid
            )
            if not first:
                # The rival did not wait for this model's lock, so it trains another one.
                raise request_store.reused(request.request_id)
        return row

    async def _has_room(self, connection: Connection, app_id: int) -> bool:
        """Tell whether one more version of an app may be queued; nobody else counts while the app's space is locked."""
        return await version_store.count_unended(connection, app_id) < self._most_queued

    async def _check_room(self, connection: Connection, app_id: int) -> None:
        if not await self._has_room(connection, app_id):
            raise QuotaExceededError(
                "TOO_MANY_QUEUED_VERSIONS",
                f"{self._most_queued} versions of the app wait or are in training: try again when some have ended",
                metadata={"limit": "max_queued_versions", "max": str(self._most_queued)},
            )

    async def _insert_version(
        self, connection: Connection, request: TrainingRequest, model: ModelRow, judged: _Judged, upgrade: int
    ) -> VersionRow:
        """Queue a version of a locked model, and tell of it."""
        number = await store.next_number(connection, model)
        # What was judged is what is trained, whatever the model became since.
        definition = replace(judged.model.definition, concepts=judged.looked.concepts)
        snapshot = json_from_message(
            model_to_proto(replace(model, definition=definition, latest_version=number, retrain_error=None))
        )
        settings = _settings(definition, request)
        fine_tunes = training_settings.fine_tunes(settings)
        row = await version_store.insert_version(
            connection,
            model,
            number,
            NewVersion(
                space=judged.base.space,
                base_model=judged.base.name,
                model_snapshot=snapshot,
                # The same for every version: a retrain on the same data gives the same head.
                seed=model.id,
                concepts=judged.looked.concepts,
                display_names=judged.looked.display_names,
                findings=json_from_messages([finding_to_proto(finding) for finding in judged.looked.findings]),
                note=request.note,
                actor=request.actor,
                upgrade=upgrade,
                training=json_from_message(settings),
                progress_message=fine_tuners.WAITING if fine_tunes else "",
            ),
        )
        if not upgrade:
            await retraining_store.note_queued(connection, model, judged.annotations_cursor, judged.pending_annotations)
        # On a subject of its own, so that seconds never wait for hours.
        queued = changes.fine_tuning_queued if fine_tunes else changes.version_queued
        await queued(connection, model.app_id, row.uid)
        await changes.version_changed(connection, model.app_id, row.uid)
        return row

    async def _insert_lost(self, request: TrainingRequest) -> VersionRow:
        async with self._database.transaction(request.app.app_id) as connection:
            earlier = await self._earlier(connection, request)
        if earlier is None:
            raise ConflictError(
                "BASE_MODEL_SWITCHED", "the app was switched to another base model meanwhile; try again"
            )
        return earlier


def _settings(definition: ModelDefinition, request: TrainingRequest) -> TrainingSettings:
    of_model = message_from_json(definition.training, TrainingSettings())
    return training_settings.resolve(of_model, request.training, definition.type)
