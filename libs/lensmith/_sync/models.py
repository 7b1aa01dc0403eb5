# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.
"""Models, their versions, and base models."""

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from lensmith import _convert, _convert_versions, _evaluations, _training_settings, types
from lensmith._sync import exports
from lensmith._sync.transport import Transport, new_request_id
from lensmith.errors import InternalError, PreconditionError, UnavailableError, from_status
from lensmith.explanation_types import ExportedVersion
from lensmith.version_types import ModelCard, ModelVersionInput
from lensmith_api.v1 import base_model_service_pb2, model_service_pb2
from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceStub
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_service_pb2_grpc import ModelServiceStub

PAGE: Final = 1000
REPORT_SECONDS: Final = 120.0
WATCH_SECONDS: Final = 24 * 3600.0
UPLOAD_SECONDS: Final = 3600.0
CHUNK_BYTES: Final = 1024 * 1024
PACK_FILES: Final = ("card.json", "model.onnx", "labels.txt", "calibration.json")


class Models:
    """Models of one app. A model is named by its own id; a public one as `main/{model}`."""

    def __init__(self, transport: Transport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = ModelServiceStub(transport.channel)

    def create(
        self,
        model: str,
        type: types.ModelType,
        *,
        concepts: Sequence[str] = (),
        display_name: str = "",
        description: str = "",
        closed_environment: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
        training: types.TrainingSettings | None = None,
        retrain_after_annotations: int = 0,
    ) -> types.Model:
        """Creates a model. Without `concepts` it takes every concept of the app at the time of training.

        `training` says how its versions are trained, unless `train` says otherwise. With `retrain_after_annotations`
        it is trained by itself after so many new annotations of its concepts.
        """
        return _convert.model(
            self._transport.call(
                self._stub.CreateModel,
                model_service_pb2.CreateModelRequest(
                    parent=f"apps/{self._app}",
                    model_id=model,
                    model=Model(
                        type=_convert.MODEL_TYPE_TO_PROTO[type],
                        concepts=concepts,
                        display_name=display_name,
                        description=description,
                        closed_environment=closed_environment,
                        min_value=min_value,
                        max_value=max_value,
                        training=_training_settings.to_proto(training),
                        retrain_after_annotations=retrain_after_annotations,
                    ),
                    request_id=new_request_id(),
                ),
            )
        )

    def get(self, model: str) -> types.Model:
        """Returns one model."""
        return _convert.model(
            self._transport.call(
                self._stub.GetModel, model_service_pb2.GetModelRequest(name=model_name(self._app, model))
            )
        )

    def list(self, *, public: bool = False) -> Iterator[types.Model]:
        """Yields the models of the app, or the public ones, in order of their own id."""
        token = ""
        while True:
            page = self._transport.call(
                self._stub.ListModels,
                model_service_pb2.ListModelsRequest(
                    parent="apps/main" if public else f"apps/{self._app}", page_size=PAGE, page_token=token
                ),
            )
            for message in page.models:
                yield _convert.model(message)
            if not (token := page.next_page_token):
                return

    def set_concepts(self, model: str, concepts: Sequence[str]) -> types.Model:
        """Changes which concepts the next version learns."""
        return self._update(
            Model(name=model_name(self._app, model), concepts=concepts), _convert.mask(concepts=concepts)
        )

    def set_closed_environment(self, model: str, closed: bool) -> types.Model:
        """Says whether what is not annotated counts as negative in the next version; of multi-label models only."""
        message = Model(name=model_name(self._app, model), closed_environment=closed)
        return self._update(message, _convert.mask(closed_environment=closed))

    def set_training(self, model: str, training: types.TrainingSettings) -> types.Model:
        """Changes how the next versions are trained; what is None is then as the platform says."""
        message = Model(name=model_name(self._app, model), training=_training_settings.to_proto(training))
        return self._update(message, FieldMask(paths=["training"]))

    def promote(self, model: str, version: int) -> types.Model:
        """Puts a version into production and keeps it there."""
        message = Model(name=model_name(self._app, model), production_version=version)
        return self._update(message, _convert.mask(production_version=version))

    def rollback(self, model: str, version: int = 0) -> types.Model:
        """Puts a version into production that was there before, and keeps it there.

        Args:
            model: Own id of the model.
            version: Its number; 0: the one that was in production before the present one.

        Raises:
            PreconditionError: `NO_VERSION_BEFORE`, or the version is not ready.
        """
        request = model_service_pb2.RollbackModelRequest(
            name=model_name(self._app, model), version=version, request_id=new_request_id()
        )
        return _convert.model(self._transport.call(self._stub.RollbackModel, request))

    def retrain_after(self, model: str, annotations: int) -> types.Model:
        """Trains the model by itself after so many new annotations of its concepts; 0: never."""
        message = Model(name=model_name(self._app, model), retrain_after_annotations=annotations)
        return self._update(message, FieldMask(paths=["retrain_after_annotations"]))

    def unpin(self, model: str) -> types.Model:
        """Lets production follow the newest success again."""
        return self._update(Model(name=model_name(self._app, model), pinned=False), _convert.mask(pinned=False))

    def _update(self, model: Model, mask: FieldMask) -> types.Model:
        return _convert.model(
            self._transport.call(
                self._stub.UpdateModel,
                model_service_pb2.UpdateModelRequest(model=model, update_mask=mask),
            )
        )

    def delete(self, model: str, *, etag: str = "") -> None:
        """Deletes a model with its versions.

        Args:
            model: Own id of the model.
            etag: Of the model as it was seen; left out to delete it whatever became of it since.

        Raises:
            ConflictError: It was changed, or a version was begun, since it had this etag.
        """
        self._transport.call(
            self._stub.DeleteModel,
            model_service_pb2.DeleteModelRequest(name=model_name(self._app, model), etag=etag),
            repeatable=False,
        )

    def train(
        self, model: str, *, note: str = "", training: types.TrainingSettings | None = None
    ) -> types.ModelVersion:
        """Queues a new version. `watch` follows it. What `training` leaves open is as the model says.

        Raises:
            PreconditionError: The data is not fit to train on; the message says what is missing.
        """
        return _convert.model_version(
            self._transport.call(
                self._stub.TrainModel,
                model_service_pb2.TrainModelRequest(
                    name=model_name(self._app, model),
                    note=note,
                    request_id=new_request_id(),
                    training=_training_settings.to_proto(training),
                ),
            )
        )

    def get_version(self, model: str, version: int) -> types.ModelVersion:
        """Returns one version."""
        return _convert.model_version(
            self._transport.call(
                self._stub.GetModelVersion,
                model_service_pb2.GetModelVersionRequest(name=self._version_name(model, version)),
            )
        )

    def list_versions(self, model: str) -> Iterator[types.ModelVersion]:
        """Yields the versions of a model, newest first."""
        token = ""
        while True:
            page = self._transport.call(
                self._stub.ListModelVersions,
                model_service_pb2.ListModelVersionsRequest(
                    parent=model_name(self._app, model), page_size=PAGE, page_token=token
                ),
            )
            for message in page.model_versions:
                yield _convert.model_version(message)
            if not (token := page.next_page_token):
                return

    def watch(self, model: str, version: int) -> Iterator[types.ModelVersion]:
        """Yields a version whenever it changes; the last one yielded is in its last state.

        A watch that breaks off, because a part of the platform restarts, begins again by itself.
        """
        request = model_service_pb2.WatchModelVersionRequest(name=self._version_name(model, version))
        broken = 0
        while True:
            try:
                for event in self._transport.stream(self._stub.WatchModelVersion, request, timeout=WATCH_SECONDS):
                    broken = 0
                    if event.HasField("error"):
                        raise from_status(event.error)
                    if event.HasField("summary"):
                        yield _convert.model_version(event.summary.model_version)
                        return
                    yield _convert.model_version(event.item)
            except (UnavailableError, InternalError):
                broken += 1
                if broken > MOST_BROKEN_WATCHES:
                    raise
            # A read, repeated until the platform answers, is the pause before the next try.
            current = self.get_version(model, version)
            if current.state.final:
                yield current
                return

    def wait(self, model: str, version: int) -> types.ModelVersion:
        """Waits until a version is ready, failed or cancelled."""
        last = self.get_version(model, version)
        for current in self.watch(model, version):
            last = current
        return last

    def cancel(self, model: str, version: int) -> types.ModelVersion:
        """Stops a version that is not ready yet."""
        return _convert.model_version(
            self._transport.call(
                self._stub.CancelModelVersion,
                model_service_pb2.CancelModelVersionRequest(name=self._version_name(model, version)),
            )
        )

    def delete_version(self, model: str, version: int) -> None:
        """Deletes a version that is not in production."""
        self._transport.call(
            self._stub.DeleteModelVersion,
            model_service_pb2.DeleteModelVersionRequest(name=self._version_name(model, version)),
            repeatable=False,
        )

    def evaluation(self, model: str, version: int) -> types.Evaluation:
        """Returns the out-of-fold evaluation of a ready version."""
        return _evaluations.evaluation(
            self._transport.call(
                self._stub.GetEvaluation,
                model_service_pb2.GetEvaluationRequest(name=f"{self._version_name(model, version)}/evaluation"),
            )
        )

    def export(self, model: str, output: str | PathLike[str] | None = None, *, version: int = 0) -> ExportedVersion:
        """Saves a version as one archive that answers without the platform: ONNX, labels, card, example.

        Args:
            model: Own id of a model of the app; `main/{model}` for a public one.
            output: The file to write, replacing another; left out for one named for the version, here.
            version: Version to export; 0 for the one in production.

        Raises:
            PreconditionError: The version is not ready, or none is in production.
        """
        number = version or (self.get(model)).production_version
        if not number:
            raise PreconditionError("MODEL_HAS_NO_TRAINED_VERSION", f"{model} has no trained version yet: train it")
        request = model_service_pb2.ExportModelVersionRequest(name=self._version_name(model, number))
        parts = self._transport.stream(self._stub.ExportModelVersion, request, timeout=UPLOAD_SECONDS)
        return exports.save(parts, None if output is None else Path(output))

    def list_version_inputs(self, model: str, version: int) -> Iterator[ModelVersionInput]:
        """Yields the inputs that a version was trained on, in order of uid, as they were then.

        `version_types.inputs_sha256` of all of them is the version's `dataset_sha256`.
        """
        token = ""
        while True:
            request = model_service_pb2.ListModelVersionInputsRequest(
                parent=self._version_name(model, version), page_size=PAGE, page_token=token
            )
            page = self._transport.call(self._stub.ListModelVersionInputs, request)
            for message in page.inputs:
                yield _convert_versions.version_input(message)
            if not (token := page.next_page_token):
                return

    def card(self, model: str, version: int) -> ModelCard:
        """Returns all that is known of how a ready version came about."""
        request = model_service_pb2.GetModelCardRequest(name=f"{self._version_name(model, version)}/card")
        return _convert_versions.card(self._transport.call(self._stub.GetModelCard, request))

    def report(self, model: str, version: int, *, as_json: bool = False, pictures: bool = True) -> str:
        """Makes the report of a ready version: one page of HTML that needs nothing else, or the same as JSON.

        Args:
            model: Own id of the model.
            version: Its number.
            as_json: JSON rather than HTML.
            pictures: Whether to show pictures; without them it is small and quick.
        """
        query = {"format": "json" if as_json else "html", "pictures": "true" if pictures else "false"}
        path = f"/v1/{self._version_name(model, version)}/report"
        return self._transport.download(path, query, timeout=REPORT_SECONDS)

    def _version_name(self, model: str, version: int) -> str:
        return f"{model_name(self._app, model)}/versions/{version}"


class BaseModels:
    """Base models installed on the platform."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._stub = BaseModelServiceStub(transport.channel)

    def list(self) -> Iterator[types.BaseModel]:
        """Yields installed base models, best first."""
        token = ""
        while True:
            page = self._transport.call(
                self._stub.ListBaseModels,
                base_model_service_pb2.ListBaseModelsRequest(page_size=PAGE, page_token=token),
            )
            for message in page.base_models:
                yield _convert.base_model(message)
            if not (token := page.next_page_token):
                return

    def get(self, base_model: str) -> types.BaseModel:
        """Returns one base model."""
        return _convert.base_model(
            self._transport.call(
                self._stub.GetBaseModel,
                base_model_service_pb2.GetBaseModelRequest(name=f"baseModels/{base_model}"),
            )
        )

    def import_pack(self, folder: Path) -> types.BaseModel:
        """Installs a model pack. Only the operator may; installing the same pack again changes nothing."""
        return _convert.base_model(
            self._transport.send(self._stub.ImportBaseModel, _pack_parts(folder), timeout=UPLOAD_SECONDS)
        )

    def delete(self, base_model: str) -> None:
        """Removes a base model that no app uses."""
        self._transport.call(
            self._stub.DeleteBaseModel,
            base_model_service_pb2.DeleteBaseModelRequest(name=f"baseModels/{base_model}"),
            repeatable=False,
        )


MOST_BROKEN_WATCHES: Final = 5


def model_name(app: str, model: str) -> str:
    """Resource name of a model given by its own id, or as `{app}/{model}`."""
    owner, _, own = model.rpartition("/")
    return f"apps/{owner or app}/models/{own}"


def _pack_parts(folder: Path) -> Iterator[base_model_service_pb2.ImportBaseModelRequest]:
    for name in PACK_FILES:
        path = folder / name
        if not path.exists():
            continue
        yield base_model_service_pb2.ImportBaseModelRequest(file_name=name)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield base_model_service_pb2.ImportBaseModelRequest(chunk=chunk)
