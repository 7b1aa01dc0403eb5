"""Between protos and the SDK's types: moving apps to other base models."""

from lensmith import types
from lensmith._convert import base_model, error, last_part, moment, optional
from lensmith_api.v1 import upgrade_pb2, upgrade_service_pb2

_STATES = {
    upgrade_pb2.UPGRADE_STATE_UNSPECIFIED: types.UpgradeState.EMBEDDING,
    upgrade_pb2.UPGRADE_STATE_EMBEDDING: types.UpgradeState.EMBEDDING,
    upgrade_pb2.UPGRADE_STATE_TRAINING: types.UpgradeState.TRAINING,
    upgrade_pb2.UPGRADE_STATE_SWITCHING: types.UpgradeState.SWITCHING,
    upgrade_pb2.UPGRADE_STATE_DONE: types.UpgradeState.DONE,
    upgrade_pb2.UPGRADE_STATE_FAILED: types.UpgradeState.FAILED,
    upgrade_pb2.UPGRADE_STATE_CANCELLED: types.UpgradeState.CANCELLED,
}
_OUTCOMES = {
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_UNSPECIFIED: types.ModelUpgradeOutcome.WAITING,
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_WAITING: types.ModelUpgradeOutcome.WAITING,
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_TRAINING: types.ModelUpgradeOutcome.TRAINING,
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_TRAINED: types.ModelUpgradeOutcome.TRAINED,
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_UPGRADED: types.ModelUpgradeOutcome.UPGRADED,
    upgrade_pb2.MODEL_UPGRADE_OUTCOME_KEPT: types.ModelUpgradeOutcome.KEPT,
}


def _model_upgrade(message: upgrade_pb2.ModelUpgrade) -> types.ModelUpgrade:
    return types.ModelUpgrade(
        model=last_part(message.model),
        outcome=_OUTCOMES[message.outcome],
        from_version=message.from_version,
        to_version=message.to_version,
        figure=message.figure,
        before=optional(message, "before"),
        after=optional(message, "after"),
        reason=message.reason,
    )


def upgrade(message: upgrade_pb2.Upgrade) -> types.Upgrade:
    """An upgrade."""
    return types.Upgrade(
        name=message.name,
        number=int(last_part(message.name)),
        state=_STATES[message.state],
        error=error(message.error),
        from_base_model=last_part(message.from_base_model),
        base_model=last_part(message.base_model),
        force=message.force,
        input_count=message.input_count,
        embedded_input_count=message.embedded_input_count,
        failed_input_count=message.failed_input_count,
        models=tuple(_model_upgrade(item) for item in message.models),
        message=message.message,
        actor=message.actor,
        created_at=moment(message.create_time),
        switched_at=moment(message.switch_time),
        ended_at=moment(message.end_time),
    )


def upgrade_check(message: upgrade_service_pb2.CheckUpgradeResponse) -> types.UpgradeCheck:
    """Whether an app can be upgraded."""
    return types.UpgradeCheck(
        base_model=base_model(message.base_model) if message.HasField("base_model") else None,
        best_base_model=base_model(message.best_base_model) if message.HasField("best_base_model") else None,
        upgradable=message.upgradable,
        running=int(last_part(message.running) or 0),
    )
