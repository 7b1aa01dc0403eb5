"""ModelService: models and their versions, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from google.protobuf.empty_pb2 import Empty

from lensmith_api.v1 import model_service_pb2_grpc
from lensmith_api.v1.evaluation_pb2 import Evaluation, LearningCurve, VersionComparison
from lensmith_api.v1.model_card_pb2 import ModelCard
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_service_pb2 import (
    CancelModelVersionRequest,
    CompareModelVersionsRequest,
    ComputeLearningCurveRequest,
    CreateModelRequest,
    DeleteModelRequest,
    DeleteModelVersionRequest,
    ExportModelVersionRequest,
    ExportModelVersionResponse,
    GetEvaluationCurvesRequest,
    GetEvaluationCurvesResponse,
    GetEvaluationRequest,
    GetLearningCurveRequest,
    GetModelCardRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListChangedInputsRequest,
    ListChangedInputsResponse,
    ListEvaluatedInputsRequest,
    ListEvaluatedInputsResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListModelVersionInputsRequest,
    ListModelVersionInputsResponse,
    ListModelVersionsRequest,
    ListModelVersionsResponse,
    RollbackModelRequest,
    TrainModelRequest,
    UpdateModelRequest,
    UpdateModelVersionRequest,
    WatchModelVersionRequest,
    WatchModelVersionResponse,
    WatchSummary,
)
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_platform import etags
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import (
    InvalidInputError,
    LensmithError,
    NotFoundError,
    PreconditionError,
    to_status,
)
from lensmith_platform.principal import AppRef, addressed_app, current_call
from lensmith_platform.resource_names import parse
from lensmith_registry import base_model_store, changes, store, version_state_store, version_store
from lensmith_registry.cards import card_of
from lensmith_registry.converters import model_to_proto, version_to_proto
from lensmith_registry.evaluations import Evaluations
from lensmith_registry.exports import Exporter
from lensmith_registry.learning_curves import LearningCurves
from lensmith_registry.models import Models
from lensmith_registry.pages import page_of
from lensmith_registry.training import TrainingRequest, TrainingStart
from lensmith_registry.version_inputs import VersionInputs
from lensmith_registry.version_store import VersionRow
from lensmith_registry.watch import Sight, Watchers, watch

__all__ = ["ModelServicer"]

_MODEL = "apps/{app}/models/{model}"
_VERSION = "apps/{app}/models/{model}/versions/{version}"
_EVALUATION = "apps/{app}/models/{model}/versions/{version}/evaluation"
_LEARNING_CURVE = "apps/{app}/models/{model}/versions/{version}/learningCurve"
_CARD = "apps/{app}/models/{model}/versions/{version}/card"
_LAST_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class _VersionName:
    model: str
    number: int


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        pager: Makes and reads page tokens.
        models: Makes and changes models.
        training: Queues versions.
        inputs: Lists what versions were trained on.
        exporter: Makes archives.
        evaluations: Answers about evaluations.
        learning_curves: Says what more images would bring.
        watchers: Where news of versions arrives.
        watch_poll_seconds: How often a watch looks without news.
    """

    def __init__(
        self,
        database: Database,
        pager: Pager,
        models: Models,
        training: TrainingStart,
        inputs: VersionInputs,
        exporter: Exporter,
        evaluations: Evaluations,
        learning_curves: LearningCurves,
        watchers: Watchers,
        watch_poll_seconds: float,
    ) -> None:
        self._database = database
        self._pager = pager
        self._models = models
        self._training = training
        self._inputs = inputs
        self._exporter = exporter
        self._evaluations = evaluations
        self._learning_curves = learning_curves
        self._watchers = watchers
        self._watch_poll_seconds = watch_poll_seconds

    async def CreateModel(self, request: CreateModelRequest, context: object) -> Model:
        """Create a model, and a negative concept with a multi-label one."""
        call, app = current_call(), addressed_app()
        return model_to_proto(await self._models.create(app, call.principal.actor, request))

    async def GetModel(self, request: GetModelRequest, context: object) -> Model:
        """Return one model."""
        app = addressed_app()
        model = parse(_MODEL, request.name)["model"]
        async with self._database.transaction(app.app_id) as connection:
            return model_to_proto(await store.get_model(connection, app.app_id, model))

    async def ListModels(self, request: ListModelsRequest, context: object) -> ListModelsResponse:
        """List models in order of their own id."""
        app = addressed_app()
        size = self._pager.size(request.page_size)
        fingerprint = f"models/{app.app_id}"
        position = self._pager.decode(request.page_token, fingerprint)
        after = str(position[0]) if position else ""
        async with self._database.transaction(app.app_id) as connection:
            read = partial(store.list_models, connection, app.app_id)
            page, end = await page_of(read, lambda row: row.model, model_to_proto, after, size)
        token = "" if end is None else self._pager.encode((end,), fingerprint)
        return ListModelsResponse(models=page, next_page_token=token)

    async def UpdateModel(self, request: UpdateModelRequest, context: object) -> Model:
        """Change the fields that the mask names."""
        app = addressed_app()
        model = parse(_MODEL, request.model.name, field="model.name")["model"]
        return model_to_proto(await self._models.update(app, model, request))

    async def RollbackModel(self, request: RollbackModelRequest, context: object) -> Model:
        """Put a version into production that was there before, and keep it there."""
        app = addressed_app()
        model = parse(_MODEL, request.name)["model"]
        return model_to_proto(await self._models.roll_back(app, model, request))

    async def DeleteModel(self, request: DeleteModelRequest, context: object) -> Empty:
        """Delete a model with its versions; those in training stop."""
        app = addressed_app()
        model = parse(_MODEL, request.name)["model"]
        async with self._database.transaction(app.app_id) as connection:
            row = await store.lock_model(connection, app.app_id, model)
            etags.check(request.etag, row.etag)
            unended = await store.delete_model(connection, row)
            await changes.model_changed(connection, app.app_id, row.model)
            for uid in unended:
                await changes.version_changed(connection, app.app_id, uid)
        return Empty()

    async def TrainModel(self, request: TrainModelRequest, context: object) -> ModelVersion:
        """Look at the data, refuse or warn, and queue a new version."""
        call, app = current_call(), addressed_app()
        model = parse(_MODEL, request.name)["model"]
        row = await self._training.queue(
            TrainingRequest(app, model, request.note, request.request_id, call.principal.actor, request.training)
        )
        return version_to_proto(row)

    async def GetModelVersion(self, request: GetModelVersionRequest, context: object) -> ModelVersion:
        """Return one version."""
        app = addressed_app()
        return version_to_proto(await self._version(app, _version_name(_VERSION, request.name)))

    async def ListModelVersions(self, request: ListModelVersionsRequest, context: object) -> ListModelVersionsResponse:
        """List versions, newest first."""
        app = addressed_app()
        model = parse(_MODEL, request.parent, field="parent")["model"]
        size = self._pager.size(request.page_size)
        async with self._database.transaction(app.app_id) as connection:
            row = await store.get_model(connection, app.app_id, model)
            fingerprint = f"versions/{row.uid}"
            position = self._pager.decode(request.page_token, fingerprint)
            before = int(str(position[0])) if position else _LAST_NUMBER
            read = partial(version_store.list_versions, connection, row)
            page, end = await page_of(read, lambda version: version.number, version_to_proto, before, size)
        token = "" if end is None else self._pager.encode((end,), fingerprint)
        return ListModelVersionsResponse(model_versions=page, next_page_token=token)

    async def ListModelVersionInputs(
        self, request: ListModelVersionInputsRequest, context: object
    ) -> ListModelVersionInputsResponse:
        """List the inputs that a version was trained on."""
        app = addressed_app()
        row = await self._version(app, _version_name(_VERSION, request.parent))
        size = self._pager.size(request.page_size)
        fingerprint = f"version-inputs/{row.uid}"
        position = self._pager.decode(request.page_token, fingerprint)
        start = int(str(position[0])) if position else 0
        found, total = await self._inputs.page(row, start, size)
        end = start + len(found)
        token = self._pager.encode((end,), fingerprint) if end < total else ""
        return ListModelVersionInputsResponse(
            inputs=found, next_page_token=token, total_size=total, dataset_sha256=row.dataset_sha256
        )

    async def GetModelCard(self, request: GetModelCardRequest, context: object) -> ModelCard:
        """Return all that is known of how a READY version came about."""
        app = addressed_app()
        row = await self._version(app, _version_name(_CARD, request.name))
        async with self._database.transaction(app.app_id) as connection:
            try:
                base = await base_model_store.by_space(connection, row.space)
            except NotFoundError:
                base = None
            evaluated = await version_store.evaluation_of(connection, row)
        return await asyncio.to_thread(card_of, row, base, evaluated)

    async def ExportModelVersion(
        self, request: ExportModelVersionRequest, context: object
    ) -> AsyncIterator[ExportModelVersionResponse]:
        """Stream a READY version as an archive that answers without the platform."""
        app = addressed_app()
        row = await self._version(app, _version_name(_VERSION, request.name))
        async with self._database.transaction(app.app_id) as connection:
            base = await base_model_store.by_space(connection, row.space)
            evaluated = await version_store.evaluation_of(connection, row)
        card = await asyncio.to_thread(card_of, row, base, evaluated)
        async for part in self._exporter.stream(row, base, card):
            yield part

    async def WatchModelVersion(
        self, request: WatchModelVersionRequest, context: object
    ) -> AsyncIterator[WatchModelVersionResponse]:
        """Stream a version whenever it changes, until its last state."""
        app = addressed_app()
        row = await self._version(app, _version_name(_VERSION, request.name))

        async def look() -> Sight[ModelVersion]:
            async with self._database.transaction(app.app_id) as connection:
                now = await version_store.version_by_uid(connection, app.app_id, row.uid)
            return Sight(version_to_proto(now), now.revision, now.ended)

        async for seen in watch(self._watchers, row.uid, look, self._watch_poll_seconds):
            if isinstance(seen, LensmithError):
                yield WatchModelVersionResponse(error=to_status(seen))
            elif seen.ended:
                yield WatchModelVersionResponse(item=seen.shown)
                yield WatchModelVersionResponse(summary=WatchSummary(model_version=seen.shown))
            else:
                yield WatchModelVersionResponse(item=seen.shown)

    async def CancelModelVersion(self, request: CancelModelVersionRequest, context: object) -> ModelVersion:
        """Stop a version that is not ready yet."""
        app = addressed_app()
        name = _version_name(_VERSION, request.name)
        async with self._database.transaction(app.app_id) as connection:
            row = await version_store.get_version(connection, app.app_id, name.model, name.number)
            if await version_state_store.cancel(connection, app.app_id, row.uid):
                await changes.version_changed(connection, app.app_id, row.uid)
            row = await version_store.version_by_uid(connection, app.app_id, row.uid)
            if row.state != "CANCELLED":
                raise PreconditionError(
                    "VERSION_ENDED",
                    f"{row.name} cannot be cancelled: it is {row.state if row.ended else 'trained and serving'}",
                    metadata={"state": row.state},
                )
        return version_to_proto(row)

    async def DeleteModelVersion(self, request: DeleteModelVersionRequest, context: object) -> Empty:
        """Delete a version that is not in production; one in training stops."""
        app = addressed_app()
        name = _version_name(_VERSION, request.name)
        async with self._database.transaction(app.app_id) as connection:
            model = await store.lock_model(connection, app.app_id, name.model)
            row = await version_store.get_version(connection, app.app_id, name.model, name.number)
            if not await version_store.delete_version(connection, row):
                raise PreconditionError(
                    "VERSION_IN_PRODUCTION",
                    f"{row.name} is in production: put another version there first",
                    metadata={"version": str(row.number)},
                )
            await changes.model_changed(connection, app.app_id, model.model)
            await changes.version_changed(connection, app.app_id, row.uid)
        return Empty()

    async def GetEvaluation(self, request: GetEvaluationRequest, context: object) -> Evaluation:
        """Return the evaluation of a READY version, also as it would be at other thresholds."""
        row = await self._version(addressed_app(), _version_name(_EVALUATION, request.name))
        return await self._evaluations.get(row, request)

    async def GetEvaluationCurves(
        self, request: GetEvaluationCurvesRequest, context: object
    ) -> GetEvaluationCurvesResponse:
        """Return precision-recall and ROC curves of some concepts."""
        row = await self._version(addressed_app(), _version_name(_EVALUATION, request.name))
        return await self._evaluations.curves(row, request)

    async def UpdateModelVersion(self, request: UpdateModelVersionRequest, context: object) -> ModelVersion:
        """Change the thresholds or the note of a version."""
        call, app = current_call(), addressed_app()
        row = await self._version(app, _version_name(_VERSION, request.model_version.name, "model_version.name"))
        return await self._evaluations.update(app, call.principal.actor, row, request)

    async def ListEvaluatedInputs(
        self, request: ListEvaluatedInputsRequest, context: object
    ) -> ListEvaluatedInputsResponse:
        """List what a version answered about each input that it was evaluated on."""
        row = await self._version(addressed_app(), _version_name(_VERSION, request.parent, "parent"))
        return await self._evaluations.evaluated_inputs(row, request)

    async def CompareModelVersions(self, request: CompareModelVersionsRequest, context: object) -> VersionComparison:
        """Compare two versions of a model on the inputs that both were evaluated on."""
        first, other = await self._two_versions(_version_name(_VERSION, request.name), request.other_version)
        return await self._evaluations.compare(first, other)

    async def ListChangedInputs(self, request: ListChangedInputsRequest, context: object) -> ListChangedInputsResponse:
        """List the inputs that two versions of a model answer differently."""
        name = _version_name(_VERSION, request.parent, "parent")
        first, other = await self._two_versions(name, request.other_version)
        return await self._evaluations.changed_inputs(first, other, request)

    async def ComputeLearningCurve(self, request: ComputeLearningCurveRequest, context: object) -> LearningCurve:
        """Have a trainer find out what more images would bring."""
        return await self._learning_curves.compute(
            await self._version(addressed_app(), _version_name(_VERSION, request.name))
        )

    async def GetLearningCurve(self, request: GetLearningCurveRequest, context: object) -> LearningCurve:
        """Return what more images would bring, or how far finding that out is."""
        return await self._learning_curves.get(
            await self._version(addressed_app(), _version_name(_LEARNING_CURVE, request.name))
        )

    async def _two_versions(self, name: _VersionName, other: int) -> tuple[VersionRow, VersionRow]:
        app = addressed_app()
        return await self._version(app, name), await self._version(app, _VersionName(name.model, other))

    async def _version(self, app: AppRef, name: _VersionName) -> VersionRow:
        async with self._database.transaction(app.app_id) as connection:
            return await version_store.get_version(connection, app.app_id, name.model, name.number)


def _version_name(template: str, name: str, field: str = "name") -> _VersionName:
    parts = parse(template, name, field=field)
    text = parts["version"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(
            "RESOURCE_NAME_INVALID",
            f"{field} ends in a version number such as 3, not {text[:50]!r}",
            field_violations=[(field, "must end in a version number")],
        )
    return _VersionName(parts["model"], int(text))
