"""Events: the envelope, and the subject that each kind has on the bus."""

import uuid
from collections.abc import Mapping

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.telemetry import traceparent

SUBJECTS: Mapping[str, str] = {
    "inputs_created": "inputs.created",
    "model_version_queued": "models.version_queued",
    "model_fine_tuning_queued": "models.fine_tuning_queued",
    "model_version_changed": "models.version_changed",
    "model_version_completed": "models.version_completed",
    "model_changed": "models.changed",
    "learning_curve_queued": "models.learning_curve_queued",
    "upgrade_changed": "models.upgrade_changed",
    "app_deleted": "apps.deleted",
    "app_space_changed": "apps.space_changed",
    "usage_recorded": "usage.recorded",
}
"""Subject on the bus of each payload of an event."""

FINE_TUNING_CONSUMER = "trainer--fine-tune"
"""Durable consumer of trainers that can fine-tune: trainer works for it, registry asks whether anybody does."""


def subject_of(event: Event) -> str:
    """Where an event is published.

    Raises:
        ValueError: the event has no payload.
    """
    payload = event.WhichOneof("payload")
    if payload is None:
        raise ValueError("An event without a payload tells nothing.")
    return SUBJECTS[payload]


def complete(event: Event) -> None:
    """Fill what the envelope lacks: id, time, and the trace of the work that made the change."""
    if not event.id:
        event.id = str(uuid.uuid4())
    if not event.traceparent:
        event.traceparent = traceparent()
    if not event.HasField("create_time"):
        event.create_time.GetCurrentTime()
