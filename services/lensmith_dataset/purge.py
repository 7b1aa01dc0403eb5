"""Removing what was deleted: bytes after their grace period, everything of a deleted app, old request ids."""

from datetime import timedelta

import structlog

from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_dataset.settings import DatasetSettings
from lensmith_dataset.store import apps, blobs, indexing, spaces
from lensmith_platform.blobs import Blobs, blob_key
from lensmith_platform.db.unit_of_work import Database

_LOG = structlog.get_logger(__name__)

_BLOBS_AT_ONCE = 200
_ROWS_AT_ONCE = 5000
_SWEEP_HOURS = 1.0
"""How long calls that were under way when their app was deleted may still add rows, by a wide margin."""


class Purge:
    """Removes what is not needed any more. Every step may be repeated, and several processes may purge at once.

    Args:
        database: of the worker role.
        files: where the bytes are.
        settings: how long things are kept.
    """

    def __init__(self, database: Database, files: Blobs, settings: DatasetSettings) -> None:
        self._database = database
        self._files = files
        self._settings = settings

    async def run_once(self) -> None:
        """Remove all whose time is over now."""
        async with self._database.transaction(None) as connection:
            deleted = await apps.recently_deleted(connection, _SWEEP_HOURS)
        for app_id in deleted:
            await self._delete_rows(app_id)
        while await self._purge_blobs():
            pass
        while await self._remove_retired():
            pass
        await self._forget_requests()

    async def delete_app(self, event: Event) -> None:
        """Remove everything of a deleted app (`apps.deleted`)."""
        async with self._database.transaction(event.app_id) as connection:
            await apps.mark_deleted(connection, event.app_id, event.app_deleted.app_uid)
        await self._delete_rows(event.app_id)
        while await self._purge_blobs():
            pass
        _LOG.info("app_purged", app_id=event.app_id)

    async def _delete_rows(self, app_id: int) -> None:
        async def delete_some() -> int:
            async with self._database.transaction(app_id) as connection:
                return await apps.delete_rows(connection, app_id, _ROWS_AT_ONCE)

        while await self._database.retry(delete_some):
            pass

    async def _purge_blobs(self) -> bool:
        """Purge some blobs; return whether there may be more."""
        lease = timedelta(seconds=self._settings.purge_lease_seconds)
        async with self._database.transaction(None) as connection:
            claimed = await blobs.claim_purgeable(connection, self._settings.deletion_grace, lease, _BLOBS_AT_ONCE)
            uids = await apps.uids(connection, sorted({app_id for app_id, _ in claimed}))
        if not claimed:
            return False
        await self._files.delete([blob_key(uids[app_id], sha256.hex()) for app_id, sha256 in claimed])
        async with self._database.transaction(None) as connection:
            await blobs.forget(connection, claimed)
        _LOG.info("blobs_purged", blobs=len(claimed))
        return len(claimed) == _BLOBS_AT_ONCE

    async def _remove_retired(self) -> bool:
        """Delete some vectors of spaces that apps have left; return whether there may be more."""
        async with self._database.transaction(None) as connection:
            return await spaces.remove_retired(connection, _ROWS_AT_ONCE)

    async def _forget_requests(self) -> None:
        age = timedelta(hours=self._settings.request_id_hours)
        rows = _ROWS_AT_ONCE
        while rows == _ROWS_AT_ONCE:
            async with self._database.transaction(None) as connection:
                rows = await indexing.forget_requests(connection, age, _ROWS_AT_ONCE)
