"""SQL of operations by day. A store works in the transaction of the connection it is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from lensmith_platform.db import Connection

__all__ = ["UsageCount", "UsageStore"]


@dataclass(frozen=True)
class UsageCount:
    """Operations of one app, day, kind, model and key."""

    app_id: int
    day: date
    operation: str
    model: str
    key_uid: str
    count: int


class UsageStore:
    """Operations by day."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add_once(self, event_id: UUID, counts: Sequence[UsageCount]) -> bool:
        """Add counts unless this event was added before; say whether it did."""
        fresh = await self._connection.fetchval(
            "INSERT INTO processed_events (id, consumer) VALUES ($1, 'auth--record-usage') "
            "ON CONFLICT DO NOTHING RETURNING true",
            event_id,
        )
        if not fresh:
            return False
        await self._connection.executemany(
            "INSERT INTO usage AS u (app_id, day, operation, model, key_uid, count) VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT ON CONSTRAINT usage_pkey DO UPDATE SET count = u.count + excluded.count",
            # Sorted, so that two events with the same rows cannot lock each other out.
            sorted((c.app_id, c.day, c.operation, c.model, c.key_uid, c.count) for c in counts),
        )
        return True

    async def query(self, app_id: int, first: date, last: date) -> list[UsageCount]:
        """The counts of an app from `first` to `last`, both included."""
        rows = await self._connection.fetch(
            "SELECT app_id, day, operation, model, key_uid, count FROM usage "
            "WHERE app_id = $1 AND day BETWEEN $2 AND $3 ORDER BY day, operation, model, key_uid",
            app_id,
            first,
            last,
        )
        return [UsageCount(**dict(row)) for row in rows]
