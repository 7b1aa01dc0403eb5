"""News that registry tells: each event is written in the transaction of the change."""

from __future__ import annotations

from uuid import UUID

from lensmith_api.internal.v1.events_pb2 import (
    AppSpaceChanged,
    Event,
    LearningCurveQueued,
    ModelChanged,
    ModelVersionChanged,
    ModelVersionCompleted,
    ModelVersionQueued,
    UpgradeChanged,
)
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.outbox import publish

__all__ = [
    "fine_tuning_queued",
    "learning_curve_queued",
    "model_changed",
    "model_changed_event",
    "space_changed_event",
    "upgrade_changed",
    "version_changed",
    "version_completed",
    "version_queued",
]


def model_changed_event(app_id: int, model: str, version: int = 0) -> Event:
    """Say that serving must forget what it knew of a model, and make a version ready: 0 the one in production."""
    return Event(app_id=app_id, model_changed=ModelChanged(model=model, version=version))


async def model_changed(connection: Connection, app_id: int, model: str, version: int = 0) -> None:
    """Tell serving to forget what it knew of a model, and to make a version ready: 0 the one in production."""
    await publish(connection, model_changed_event(app_id, model, version))


async def version_queued(connection: Connection, app_id: int, uid: UUID) -> None:
    """Tell trainers that a version waits."""
    await publish(connection, Event(app_id=app_id, model_version_queued=ModelVersionQueued(version_uid=str(uid))))


async def fine_tuning_queued(connection: Connection, app_id: int, uid: UUID) -> None:
    """Tell trainers that fine-tune that a version waits whose whole network is to learn."""
    await publish(connection, Event(app_id=app_id, model_fine_tuning_queued=ModelVersionQueued(version_uid=str(uid))))


async def version_changed(connection: Connection, app_id: int, uid: UUID) -> None:
    """Wake whoever watches a version."""
    await publish(connection, Event(app_id=app_id, model_version_changed=ModelVersionChanged(version_uid=str(uid))))


def space_changed_event(app_id: int, space: str) -> Event:
    """Say that an app has another base model."""
    return Event(app_id=app_id, app_space_changed=AppSpaceChanged(space=space))


async def upgrade_changed(connection: Connection, app_id: int, uid: UUID) -> None:
    """Wake whoever watches an upgrade."""
    await publish(connection, Event(app_id=app_id, upgrade_changed=UpgradeChanged(upgrade_uid=str(uid))))


async def learning_curve_queued(connection: Connection, app_id: int, uid: UUID) -> None:
    """Tell trainers that the learning curve of a version is wanted."""
    await publish(connection, Event(app_id=app_id, learning_curve_queued=LearningCurveQueued(version_uid=str(uid))))


async def version_completed(connection: Connection, app_id: int, uid: UUID) -> None:
    """Say that a version's head is stored, so that serving gets told."""
    await publish(connection, Event(app_id=app_id, model_version_completed=ModelVersionCompleted(version_uid=str(uid))))
