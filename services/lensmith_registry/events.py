"""What registry listens to, and what it looks after by itself."""

from __future__ import annotations

import logging
from uuid import UUID

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_platform.blobs import Blobs
from lensmith_platform.bus import Bus
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import NotFoundError
from lensmith_registry import (
    changes,
    learning_curve_store,
    network_store,
    request_store,
    store,
    suggestion_store,
    version_purge_store,
    version_state_store,
    version_store,
)
from lensmith_registry.networks import network_prefix
from lensmith_registry.version_purge_store import Purgeable

__all__ = ["Caretaker"]

_BATCH = 100
_LOOKED_THROUGH = 10
"""How many times longer than on other work it is waited for suggestions: those of many pictures take minutes."""
_LOG = logging.getLogger(__name__)


class Caretaker:
    """Handlers of events and of what is due from time to time. Each may run twice, and on several processes at once.

    Args:
        database: Of the workers' role, which sees every app.
        blobs: Where heads lie.
        bus: Where serving is told.
        silent_seconds: After how long without a heartbeat the bus is told of a version again.
        grace_seconds: How long deleted models keep their bytes.
    """

    def __init__(
        self, database: Database, blobs: Blobs, bus: Bus, *, silent_seconds: float, grace_seconds: float
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._bus = bus
        self._silent_seconds = silent_seconds
        self._grace_seconds = grace_seconds

    async def finish_version(self, event: Event) -> None:
        """Tell serving of a version whose head is stored, and only then call it READY."""
        app_id, uid = event.app_id, UUID(event.model_version_completed.version_uid)
        async with self._database.transaction(None) as connection:
            try:
                row = await version_store.version_by_uid(connection, app_id, uid)
            except NotFoundError:
                return
        if row.state != "TRAINING" or row.completed_at is None:
            return
        # Published here and not through the outbox: READY must not overtake it.
        await self._bus.publish(changes.model_changed_event(app_id, row.model))
        async with self._database.transaction(None) as connection:
            if await version_state_store.make_ready(connection, app_id, uid):
                await changes.version_changed(connection, app_id, uid)

    async def delete_app(self, event: Event) -> None:
        """Bury everything of an app that is gone."""
        async with self._database.transaction(None) as connection:
            for model in await store.delete_models_of_app(connection, event.app_id):
                await changes.model_changed(connection, event.app_id, model)

    async def announce_unfinished(self) -> None:
        """Tell the bus again of versions that nobody has worked on for too long."""
        async with self._database.transaction(None) as connection:
            for version in await version_state_store.unfinished(connection, self._silent_seconds, _BATCH):
                queued = changes.fine_tuning_queued if version.fine_tuning else changes.version_queued
                announce = changes.version_completed if version.completed else queued
                await announce(connection, version.app_id, version.uid)
                _LOG.warning("version %s waits for too long; the bus is told again", version.uid)

    async def announce_learning_curves(self) -> None:
        """Tell the bus again of learning curves that have waited for too long."""
        async with self._database.transaction(None) as connection:
            waiting = await learning_curve_store.announce_waiting(connection, self._silent_seconds, _BATCH)
            for app_id, uid in waiting:
                await changes.learning_curve_queued(connection, app_id, uid)

    async def announce_suggestions(self) -> None:
        """Tell the bus again of versions whose data was not looked through, for whoever tried gave up."""
        async with self._database.transaction(None) as connection:
            silent = _LOOKED_THROUGH * self._silent_seconds
            for app_id, uid in await suggestion_store.announce_waiting(connection, silent, _BATCH):
                await changes.version_completed(connection, app_id, uid)

    async def purge(self) -> None:
        """Remove the bytes and rows of what was deleted long enough ago, and old request ids."""
        while True:
            async with self._database.transaction(None) as connection:
                candidates = await version_purge_store.purge_candidates(connection, self._grace_seconds, _BATCH)
            # Bytes before rows: a row that is still there is found again by the next round.
            await self._blobs.delete([key for candidate in candidates for key in candidate.blobs])
            for candidate in candidates:
                if candidate.has_network:
                    await self._delete_networks(candidate.app_id, candidate.uid)
                if candidate.contested:
                    await self._delete_unnamed(candidate)
            async with self._database.transaction(None) as connection:
                for candidate in candidates:
                    await version_purge_store.remove_version(connection, candidate.app_id, candidate.id)
            if len(candidates) < _BATCH:
                break
        await self._purge_networks()
        async with self._database.transaction(None) as connection:
            await store.purge_models(connection, self._grace_seconds)
            await request_store.purge_requests(connection, self._grace_seconds)

    async def _purge_networks(self) -> None:
        """Remove the networks of versions that failed, were cancelled, or kept the head that they had before."""
        after = (0, 0)
        while True:
            async with self._database.transaction(None) as connection:
                left = await network_store.left_behind(connection, after, _BATCH)
            for network in left:
                await self._delete_networks(network.app_id, network.version_uid)
            async with self._database.transaction(None) as connection:
                for network in left:
                    await network_store.forget(connection, network)
            if len(left) < _BATCH:
                return
            after = (left[-1].app_id, left[-1].version_id)

    async def _delete_networks(self, app_id: int, version_uid: UUID) -> None:
        await self._blobs.delete(list(await self._blobs.list(network_prefix(app_id, str(version_uid)))))

    async def _delete_unnamed(self, candidate: Purgeable) -> None:
        """Delete what a trainer sent after another one had taken its version."""
        keys: list[str] = []
        for kind in ("heads", "evaluations", "snapshots"):
            keys += await self._blobs.list(f"{kind}/{candidate.app_id}/{candidate.uid}/")
        await self._blobs.delete([key for key in keys if key != candidate.scores])
