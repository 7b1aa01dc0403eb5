"""Messages to values and back."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from lensmith import _training_settings, types
from lensmith.errors import InvalidInputError, LensmithError, from_status
from lensmith_api.v1 import (
    annotation_pb2,
    app_pb2,
    base_model_pb2,
    concept_pb2,
    concept_score_pb2,
    inference_service_pb2,
    input_pb2,
    input_service_pb2,
    key_pb2,
    key_service_pb2,
    model_pb2,
    model_version_pb2,
    usage_service_pb2,
)

URL = re.compile(r"https?://", re.IGNORECASE)


def last_part(name: str) -> str:
    """The own id in a resource name; empty stays empty."""
    return name.rsplit("/", 1)[-1]


def moment(value: Timestamp) -> datetime | None:
    """A timestamp in UTC; None where none was set."""
    return value.ToDatetime(tzinfo=UTC) if value.seconds or value.nanos else None


def timestamp(value: datetime) -> Timestamp:
    """A moment (in local time when it names no zone) as a timestamp."""
    result = Timestamp()
    result.FromDatetime(value.astimezone(UTC))
    return result


def error(status: Status) -> LensmithError | None:
    """The error in a per-item status; None when OK."""
    return from_status(status) if status.code else None


def optional(message: Message, field: str) -> float | None:
    """The number in an optional field; None when unset."""
    return float(getattr(message, field)) if message.HasField(field) else None


def mask(**values: object) -> FieldMask:
    """Mask of the fields that were given."""
    return FieldMask(paths=[name for name, value in values.items() if value is not None])


def app(message: app_pb2.App) -> types.App:
    """An app."""
    return types.App(
        id=last_part(message.name),
        uid=message.uid,
        display_name=message.display_name,
        description=message.description,
        base_model=message.base_model,
        created_at=moment(message.create_time),
    )


def key(message: key_pb2.Key) -> types.Key:
    """A key."""
    return types.Key(
        uid=message.uid,
        prefix=message.prefix,
        description=message.description,
        scopes=tuple(message.scopes),
        expires_at=moment(message.expire_time),
        last_used_at=moment(message.last_used_time),
        created_at=moment(message.create_time),
    )


def identity(message: key_service_pb2.WhoAmIResponse) -> types.Identity:
    """Whose key this is."""
    return types.Identity(
        app=last_part(message.app),
        key=key(message.key),
        effective_scopes=tuple(message.effective_scopes),
        operator=message.operator,
    )


def concept(message: concept_pb2.Concept) -> types.Concept:
    """A concept."""
    return types.Concept(
        id=last_part(message.name),
        display_name=message.display_name,
        description=message.description,
        positive_count=message.positive_count,
        negative_count=message.negative_count,
        number_count=message.number_count,
    )


def image(source: types.ImageSource) -> input_pb2.Image:
    """A picture as it is sent: a URL as it is, a file or bytes with their content.

    Raises:
        InvalidInputError: `FILE_UNREADABLE`.
    """
    if isinstance(source, bytes):
        return input_pb2.Image(content=source)
    if isinstance(source, str) and URL.match(source):
        return input_pb2.Image(url=source)
    try:
        return input_pb2.Image(content=Path(source).read_bytes())
    except OSError as cause:
        raise InvalidInputError("FILE_UNREADABLE", f"cannot read {source}: {cause.strerror}") from cause


def annotation_to_proto(value: types.Annotation) -> annotation_pb2.Annotation:
    """An annotation as it is sent."""
    if value.number is not None:
        return annotation_pb2.Annotation(concept=value.concept, number=value.number)
    return annotation_pb2.Annotation(concept=value.concept, positive=value.positive)


def annotation(message: annotation_pb2.Annotation) -> types.Annotation:
    """An annotation."""
    number = message.number if message.WhichOneof("value") == "number" else None
    return types.Annotation(concept=message.concept, positive=message.positive or number is not None, number=number)


def new_input_to_proto(value: types.NewInput) -> input_service_pb2.NewInput:
    """A picture to add as it is sent."""
    return input_service_pb2.NewInput(
        input_id=value.id,
        image=image(value.image),
        metadata=struct(value.metadata) if value.metadata else None,
        test=value.test,
        annotations=[annotation_to_proto(item) for item in value.annotations],
    )


def struct(value: Mapping[str, types.Json]) -> Struct:
    """JSON as it is sent."""
    return ParseDict(dict(value), Struct())


INPUT_STATUS = {
    input_pb2.INPUT_STATUS_UNSPECIFIED: types.InputStatus.PENDING,
    input_pb2.INPUT_STATUS_PENDING: types.InputStatus.PENDING,
    input_pb2.INPUT_STATUS_READY: types.InputStatus.READY,
    input_pb2.INPUT_STATUS_FAILED: types.InputStatus.FAILED,
}
INPUT_STATUS_TO_PROTO = {status: number for number, status in INPUT_STATUS.items()}


def input_(message: input_pb2.Input) -> types.Input:
    """An input."""
    return types.Input(
        id=last_part(message.name),
        uid=message.uid,
        status=INPUT_STATUS[message.status],
        error=error(message.error),
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        mime_type=message.mime_type,
        width=message.width,
        height=message.height,
        metadata=MessageToDict(message.metadata),
        test=message.test,
        annotations=tuple(annotation(item) for item in message.annotations),
        created_at=moment(message.create_time),
        general_concepts=tuple(concept_score(item) for item in message.general_concepts),
        general_version=message.general_version,
    )


def concept_score(message: concept_score_pb2.ConceptScore) -> types.ConceptScore:
    """How likely one concept is."""
    return types.ConceptScore(
        concept=message.concept,
        display_name=message.display_name,
        value=message.value,
        predicted=message.predicted,
    )


def input_result(message: input_service_pb2.CreateInputResult) -> types.InputResult:
    """What became of one picture to add."""
    failure = error(message.status)
    return types.InputResult(
        input=None if failure else input_(message.input), duplicate=message.duplicate, error=failure
    )


def base_model(message: base_model_pb2.BaseModel) -> types.BaseModel:
    """A base model."""
    return types.BaseModel(
        id=last_part(message.name),
        version=message.version,
        display_name=message.display_name,
        description=message.description,
        space=message.space,
        dimensions=message.dimensions,
        input_side=message.input_side,
        views=max(1, message.views),
        licence=message.licence,
        source=message.source,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        rank=message.rank,
        model=message.model.removeprefix("apps/").replace("/models/", "/"),
        created_at=moment(message.create_time),
    )


MODEL_TYPE = {
    model_pb2.MODEL_TYPE_MULTI_CLASS: types.ModelType.MULTI_CLASS,
    model_pb2.MODEL_TYPE_MULTI_LABEL: types.ModelType.MULTI_LABEL,
    model_pb2.MODEL_TYPE_REGRESSION: types.ModelType.REGRESSION,
}
MODEL_TYPE_TO_PROTO = {kind: number for number, kind in MODEL_TYPE.items()}


def model(message: model_pb2.Model) -> types.Model:
    """A model."""
    return types.Model(
        name=message.name,
        id=last_part(message.name),
        display_name=message.display_name,
        description=message.description,
        type=MODEL_TYPE[message.type],
        concepts=tuple(message.concepts),
        closed_environment=message.closed_environment,
        negative_concept=message.negative_concept,
        min_value=optional(message, "min_value"),
        max_value=optional(message, "max_value"),
        production_version=message.production_version,
        pinned=message.pinned,
        latest_version=message.latest_version,
        imported=message.imported,
        created_at=moment(message.create_time),
        training=_training_settings.from_proto(message.training),
        retrain_after_annotations=message.retrain_after_annotations,
        retrain_error=error(message.retrain_error),
        etag=message.etag,
    )


VERSION_STATE = {
    model_version_pb2.MODEL_VERSION_STATE_UNSPECIFIED: types.VersionState.QUEUED,
    model_version_pb2.MODEL_VERSION_STATE_QUEUED: types.VersionState.QUEUED,
    model_version_pb2.MODEL_VERSION_STATE_TRAINING: types.VersionState.TRAINING,
    model_version_pb2.MODEL_VERSION_STATE_READY: types.VersionState.READY,
    model_version_pb2.MODEL_VERSION_STATE_FAILED: types.VersionState.FAILED,
    model_version_pb2.MODEL_VERSION_STATE_CANCELLED: types.VersionState.CANCELLED,
}
SEVERITY = {
    model_version_pb2.FINDING_SEVERITY_UNSPECIFIED: types.Severity.HINT,
    model_version_pb2.FINDING_SEVERITY_HINT: types.Severity.HINT,
    model_version_pb2.FINDING_SEVERITY_WARNING: types.Severity.WARNING,
    model_version_pb2.FINDING_SEVERITY_ERROR: types.Severity.ERROR,
}


def finding(message: model_version_pb2.Finding) -> types.Finding:
    """A finding."""
    return types.Finding(
        reason=message.reason,
        severity=SEVERITY[message.severity],
        message=message.message,
        concept=message.concept,
    )


def summary(message: model_version_pb2.EvaluationSummary) -> types.EvaluationSummary:
    """The figures of an evaluation that fit in one line."""
    return types.EvaluationSummary(
        accuracy=optional(message, "accuracy"),
        macro_f1=optional(message, "macro_f1"),
        macro_precision=optional(message, "macro_precision"),
        macro_recall=optional(message, "macro_recall"),
        r2=optional(message, "r2"),
        mean_absolute_error=optional(message, "mean_absolute_error"),
    )


def model_version(message: model_version_pb2.ModelVersion) -> types.ModelVersion:
    """A version."""
    return types.ModelVersion(
        name=message.name,
        number=message.number,
        state=VERSION_STATE[message.state],
        error=error(message.error),
        fraction=message.progress.fraction,
        stage=message.progress.stage,
        progress=message.progress.message,
        base_model=last_part(message.base_model),
        concepts=tuple(message.concepts),
        thresholds=tuple(message.thresholds),
        input_count=message.input_count,
        findings=tuple(finding(item) for item in message.findings),
        summary=summary(message.summary),
        note=message.note,
        production=message.production,
        upgrade=int(last_part(message.upgrade) or 0),
        created_at=moment(message.create_time),
        started_at=moment(message.start_time),
        ended_at=moment(message.end_time),
        training=_training_settings.from_proto(message.training),
        tier=_training_settings.TIER.get(message.tier),
        dataset_sha256=message.dataset_sha256,
        network_space=message.network_space,
        network_size_bytes=message.network_size_bytes,
    )


def prediction(message: inference_service_pb2.Prediction) -> types.Prediction:
    """The answer about one picture."""
    return types.Prediction(
        id=message.id,
        concepts=tuple(concept_score(item) for item in message.concepts),
        number=optional(message, "number"),
        error=error(message.status),
        unfamiliar=types.Unfamiliarity(message.unfamiliar.value, message.unfamiliar.predicted)
        if message.HasField("unfamiliar")
        else None,
        interval=types.PredictionInterval(message.interval.low, message.interval.high, message.interval.coverage)
        if message.HasField("interval")
        else None,
    )


def embedding(message: inference_service_pb2.Embedding) -> types.Embedding:
    """The vector of one picture."""
    return types.Embedding(id=message.id, vector=tuple(message.vector), error=error(message.status))


def usage_row(message: usage_service_pb2.UsageRow) -> types.UsageRow:
    """Operations of one kind on one day."""
    return types.UsageRow(
        day=message.day,
        operation=message.operation,
        model=message.model,
        key_uid=message.key_uid,
        count=message.count,
    )
