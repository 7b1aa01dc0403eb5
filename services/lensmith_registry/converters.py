"""Between rows and protobuf messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from google.protobuf.json_format import MessageToDict, ParseDict, SerializeToJsonError
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.model_version_pb2 import (
    EvaluationSummary,
    Finding,
    FindingSeverity,
    ModelVersion,
    ModelVersionState,
    TrainingProgress,
)
from lensmith_api.v1.training_settings_pb2 import HeadTier, ThresholdAim, TrainingSettings
from lensmith_api.v1.upgrade_pb2 import ModelUpgrade, ModelUpgradeOutcome, Upgrade, UpgradeState
from lensmith_platform import timestamps
from lensmith_platform.errors import InvalidInputError
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.model_upgrade_store import ModelUpgradeRow
from lensmith_registry.store import ModelRow
from lensmith_registry.upgrade_store import UpgradeRow
from lensmith_registry.version_store import Json, VersionRow
from lensmith_vision import preflight as vision_preflight

__all__ = [
    "MODEL_TYPES",
    "base_model_to_proto",
    "finding_to_proto",
    "json_from_message",
    "json_from_messages",
    "message_from_json",
    "model_to_proto",
    "upgrade_to_proto",
    "version_to_proto",
]

MODEL_TYPES: dict[str, ModelType.ValueType] = {
    "multi_class": ModelType.MODEL_TYPE_MULTI_CLASS,
    "multi_label": ModelType.MODEL_TYPE_MULTI_LABEL,
    "regression": ModelType.MODEL_TYPE_REGRESSION,
}

_SEVERITIES = dict(FindingSeverity.items())

_Message = TypeVar("_Message", bound=Message)


def model_to_proto(row: ModelRow) -> Model:
    """Show a model to callers."""
    definition = row.definition
    return Model(
        name=row.name,
        uid=str(row.uid),
        display_name=definition.display_name or row.model,
        description=definition.description,
        type=MODEL_TYPES[definition.type],
        concepts=definition.concepts,
        closed_environment=definition.closed_environment,
        negative_concept=definition.negative_concept,
        min_value=definition.min_value,
        max_value=definition.max_value,
        production_version=row.production_version,
        pinned=row.pinned,
        latest_version=row.latest_version,
        imported=row.imported,
        create_time=timestamps.to_proto(row.created_at),
        update_time=timestamps.to_proto(row.updated_at),
        etag=row.etag,
        training=message_from_json(definition.training, TrainingSettings()),
        retrain_after_annotations=definition.retrain_after_annotations,
        retrain_error=None if row.retrain_error is None else message_from_json(row.retrain_error, Status()),
    )


def version_to_proto(row: VersionRow) -> ModelVersion:
    """Show a version to callers."""
    findings = row.findings if isinstance(row.findings, list) else []
    return ModelVersion(
        name=row.name,
        uid=str(row.uid),
        number=row.number,
        state=ModelVersionState.Value(f"MODEL_VERSION_STATE_{row.state}"),
        error=None if row.error is None else message_from_json(row.error, Status()),
        progress=TrainingProgress(fraction=row.fraction, stage=row.stage, message=row.progress_message),
        space=row.space,
        network_space=row.network_space,
        network_size_bytes=row.network_bytes,
        base_model=f"baseModels/{row.base_model}",
        concepts=row.concepts,
        thresholds=row.thresholds,
        input_count=row.input_count,
        dataset_sha256=row.dataset_sha256,
        findings=[_finding(finding) for finding in findings],
        summary=None if row.summary is None else message_from_json(row.summary, EvaluationSummary()),
        note=row.note,
        production=row.production,
        create_time=timestamps.to_proto(row.created_at),
        start_time=timestamps.to_proto(row.started_at),
        end_time=timestamps.to_proto(row.ended_at),
        upgrade=f"apps/{row.app_name}/upgrades/{row.upgrade}" if row.upgrade else "",
        training=message_from_json(row.training, TrainingSettings()),
        threshold_aim=_threshold_aim(row),
        update_time=timestamps.to_proto(row.updated_at),
        update_actor=row.updated_by,
        etag=row.etag,
        has_evaluation_scores=bool(row.out_of_fold) and row.state == "READY",
        tier=HeadTier.Value(f"HEAD_TIER_{row.tier.upper()}") if row.tier else HeadTier.HEAD_TIER_UNSPECIFIED,
    )


def _finding(document: Json) -> Finding:
    """Read a finding back by its fields: as any message it would take ten times longer, and there is one a concept."""
    said = document if isinstance(document, dict) else {}
    return Finding(
        reason=str(said.get("reason", "")),
        severity=_SEVERITIES.get(str(said.get("severity")), FindingSeverity.FINDING_SEVERITY_UNSPECIFIED),
        message=str(said.get("message", "")),
        concept=str(said.get("concept", "")),
    )


def _threshold_aim(row: VersionRow) -> ThresholdAim | None:
    """What the thresholds were last chosen for; None where they were given one by one, or there are none."""
    if row.threshold_aim is None:
        aim = message_from_json(row.training, TrainingSettings()).thresholds
    else:
        aim = message_from_json(row.threshold_aim, ThresholdAim())
    return aim if aim.WhichOneof("aim") else None


def base_model_to_proto(row: BaseModelRow) -> BaseModel:
    """Show a base model to callers."""
    return BaseModel(
        name=f"baseModels/{row.name}",
        version=str(row.version),
        display_name=row.display_name,
        description=row.description,
        space=row.space,
        dimensions=row.dimensions,
        input_side=row.input_side,
        views=row.views,
        licence=row.licence,
        source=row.source,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        rank=row.rank,
        model=f"apps/main/models/{row.model}" if row.model else "",
        create_time=timestamps.to_proto(row.created_at),
    )


def upgrade_to_proto(row: UpgradeRow, models: Sequence[ModelUpgradeRow]) -> Upgrade:
    """Show an upgrade to callers."""
    return Upgrade(
        name=row.name,
        uid=str(row.uid),
        state=UpgradeState.Value(f"UPGRADE_STATE_{row.state}"),
        error=None if row.error is None else message_from_json(row.error, Status()),
        from_base_model=f"baseModels/{row.from_base_model}",
        from_space=row.from_space,
        base_model=f"baseModels/{row.base_model}",
        space=row.space,
        force=row.force,
        input_count=row.input_count,
        embedded_input_count=row.embedded_input_count,
        failed_input_count=row.failed_input_count,
        models=[
            ModelUpgrade(
                model=f"apps/{row.app_name}/models/{model.model}",
                outcome=ModelUpgradeOutcome.Value(f"MODEL_UPGRADE_OUTCOME_{model.outcome}"),
                from_version=model.from_version,
                to_version=model.to_version,
                figure=model.figure,
                before=model.before,
                after=model.after,
                reason=model.reason,
            )
            for model in models
        ],
        message=row.message,
        actor=row.actor,
        create_time=timestamps.to_proto(row.created_at),
        switch_time=timestamps.to_proto(row.switched_at),
        end_time=timestamps.to_proto(row.ended_at),
    )


def finding_to_proto(finding: vision_preflight.Finding) -> Finding:
    """Turn a finding of the vision library into the API's."""
    return Finding(
        reason=finding.reason,
        severity=FindingSeverity.Value(f"FINDING_SEVERITY_{finding.severity.value}"),
        message=finding.message,
        concept=finding.concept or "",
    )


def json_from_message(message: Message) -> Json:
    """Turn a message into what a jsonb column keeps.

    Raises:
        InvalidInputError: MESSAGE_INVALID: it holds details of a type that nobody knows, or what JSON cannot say.
    """
    try:
        return cast(Json, MessageToDict(message, preserving_proto_field_name=True))
    except (TypeError, DecodeError, SerializeToJsonError) as error:
        raise InvalidInputError("MESSAGE_INVALID", f"{message.DESCRIPTOR.name} cannot be kept: {error}") from error


def json_from_messages(messages: Sequence[Message]) -> Json:
    """Turn messages into what a jsonb column keeps."""
    return [json_from_message(message) for message in messages]


def message_from_json(document: Json, into: _Message) -> _Message:
    """Read a message back from a jsonb column; fields that a later version wrote are passed over."""
    return ParseDict(cast("dict[str, object]", document), into, ignore_unknown_fields=True)
