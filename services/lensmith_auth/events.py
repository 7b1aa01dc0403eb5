"""What auth listens to: the operations that services report."""

from datetime import date
from uuid import UUID

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_auth.usage_store import UsageCount, UsageStore
from lensmith_platform.db import Database


class UsageRecorder:
    """Adds reported operations to the day's counts; a repeated event adds nothing."""

    def __init__(self, worker: Database) -> None:
        self._worker = worker

    async def __call__(self, event: Event) -> None:
        """Handle `usage.recorded`."""
        counts = [
            UsageCount(
                app_id=entry.app_id,
                day=date.fromisoformat(entry.day),
                operation=entry.operation,
                model=entry.model,
                key_uid=entry.key_uid,
                count=entry.count,
            )
            for entry in event.usage_recorded.entries
        ]
        async with self._worker.transaction(None) as connection:
            await UsageStore(connection).add_once(UUID(event.id), counts)
