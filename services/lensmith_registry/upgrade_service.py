"""UpgradeService: moving apps to better base models, over gRPC."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from lensmith_api.v1 import upgrade_service_pb2_grpc
from lensmith_api.v1.upgrade_pb2 import Upgrade
from lensmith_api.v1.upgrade_service_pb2 import (
    CancelUpgradeRequest,
    CheckUpgradeRequest,
    CheckUpgradeResponse,
    CreateUpgradeRequest,
    GetUpgradeRequest,
    ListUpgradesRequest,
    ListUpgradesResponse,
    WatchUpgradeRequest,
    WatchUpgradeResponse,
    WatchUpgradeSummary,
)
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import (
    AlreadyExistsError,
    InvalidInputError,
    LensmithError,
    PreconditionError,
    to_status,
)
from lensmith_platform.principal import AppRef, addressed_app, current_call
from lensmith_platform.resource_names import parse
from lensmith_registry import base_model_store, model_upgrade_store, request_store, upgrade_store
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.converters import base_model_to_proto, upgrade_to_proto
from lensmith_registry.upgrade_store import UpgradeRow
from lensmith_registry.upgrader import abandon
from lensmith_registry.watch import Sight, Watchers, watch

__all__ = ["UpgradeServicer"]

_UPGRADE = "apps/{app}/upgrades/{upgrade}"
_METHOD = "CreateUpgrade"
_LAST_NUMBER = 2**31 - 1


@dataclass(frozen=True)
class _Choice:
    """The base model of an app, and the one to move it to."""

    before: BaseModelRow
    after: BaseModelRow


class UpgradeServicer(upgrade_service_pb2_grpc.UpgradeServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        pager: Makes and reads page tokens.
        watchers: Where news of upgrades arrives.
        watch_poll_seconds: How often a watch looks without news.
    """

    def __init__(self, database: Database, pager: Pager, watchers: Watchers, watch_poll_seconds: float) -> None:
        self._database = database
        self._pager = pager
        self._watchers = watchers
        self._watch_poll_seconds = watch_poll_seconds

    async def CheckUpgrade(self, request: CheckUpgradeRequest, context: object) -> CheckUpgradeResponse:
        """Tell which base model an app has, and whether a better one is installed."""
        app = addressed_app()
        async with self._database.transaction(app.app_id) as connection:
            has = await base_model_store.base_model_of_app(connection, app.app_id)
            best = await base_model_store.best_base_model(connection)
            running = await upgrade_store.running_number(connection, app.app_id)
        return CheckUpgradeResponse(
            base_model=None if has is None else base_model_to_proto(has),
            best_base_model=None if best is None else base_model_to_proto(best),
            upgradable=has is not None and best is not None and _is_better(best, has),
            running=f"apps/{app.name}/upgrades/{running}" if running else "",
        )

    async def CreateUpgrade(self, request: CreateUpgradeRequest, context: object) -> Upgrade:
        """Start an upgrade, or return the one that an earlier call with the same request_id started."""
        call, app = current_call(), addressed_app()
        fingerprint = hashlib.sha256(f"{request.base_model}\0{request.force}".encode()).digest()
        async with self._database.transaction(app.app_id) as connection:
            earlier = await request_store.requested_uid(
                connection, app.app_id, _METHOD, request.request_id, fingerprint
            )
            if earlier is not None:
                return await _shown(connection, await upgrade_store.upgrade_by_uid(connection, app.app_id, earlier))
            choice = await _choice(connection, app, request.base_model)
            row = await upgrade_store.insert_upgrade(
                connection, app, choice.before, choice.after, force=request.force, actor=call.principal.actor
            )
            first = await request_store.insert_request(
                connection, app.app_id, _METHOD, request.request_id, fingerprint, row.uid
            )
            if not first:
                raise AlreadyExistsError("REQUEST_ID_REUSED", "this request_id was used for another upgrade")
            return await _shown(connection, row)

    async def GetUpgrade(self, request: GetUpgradeRequest, context: object) -> Upgrade:
        """Return one upgrade."""
        app = addressed_app()
        async with self._database.transaction(app.app_id) as connection:
            row = await upgrade_store.get_upgrade(connection, app.app_id, _number(request.name))
            return await _shown(connection, row)

    async def ListUpgrades(self, request: ListUpgradesRequest, context: object) -> ListUpgradesResponse:
        """List upgrades, newest first."""
        app = addressed_app()
        size = self._pager.size(request.page_size)
        fingerprint = f"upgrades/{app.app_id}"
        position = self._pager.decode(request.page_token, fingerprint)
        before = int(str(position[0])) if position else _LAST_NUMBER
        async with self._database.transaction(app.app_id) as connection:
            rows = await upgrade_store.list_upgrades(connection, app.app_id, before, size + 1)
            shown = [await _shown(connection, row) for row in rows[:size]]
        token = self._pager.encode((rows[size - 1].number,), fingerprint) if len(rows) > size else ""
        return ListUpgradesResponse(upgrades=shown, next_page_token=token)

    async def WatchUpgrade(self, request: WatchUpgradeRequest, context: object) -> AsyncIterator[WatchUpgradeResponse]:
        """Stream an upgrade whenever it changes, until its last state."""
        app = addressed_app()
        async with self._database.transaction(app.app_id) as connection:
            row = await upgrade_store.get_upgrade(connection, app.app_id, _number(request.name))

        async def look() -> Sight[Upgrade]:
            async with self._database.transaction(app.app_id) as connection:
                now = await upgrade_store.upgrade_by_uid(connection, app.app_id, row.uid)
                return Sight(await _shown(connection, now), now.revision, now.ended)

        async for seen in watch(self._watchers, row.uid, look, self._watch_poll_seconds):
            if isinstance(seen, LensmithError):
                yield WatchUpgradeResponse(error=to_status(seen))
                return
            yield WatchUpgradeResponse(item=seen.shown)
            if seen.ended:
                yield WatchUpgradeResponse(summary=WatchUpgradeSummary(upgrade=seen.shown))

    async def CancelUpgrade(self, request: CancelUpgradeRequest, context: object) -> Upgrade:
        """Stop an upgrade that has not switched yet."""
        app = addressed_app()
        async with self._database.transaction(app.app_id) as connection:
            found = await upgrade_store.get_upgrade(connection, app.app_id, _number(request.name))
            row = await upgrade_store.lock_upgrade(connection, app.app_id, found.id)
            if row.state in ("EMBEDDING", "TRAINING"):
                await abandon(connection, row, "CANCELLED", None)
            elif row.state != "CANCELLED":
                raise PreconditionError(
                    "UPGRADE_ENDED",
                    f"{row.name} cannot be cancelled: it is {row.state}",
                    metadata={"state": row.state},
                )
            return await _shown(connection, await upgrade_store.upgrade_by_uid(connection, app.app_id, row.uid))


async def _choice(connection: Connection, app: AppRef, wanted: str) -> _Choice:
    """Say from where to where an app moves.

    Raises:
        NotFoundError: The base model is not installed.
        PreconditionError: UPGRADE_NOT_NEEDED: the app has it already, or has the best one.
    """
    before = await base_model_store.resolve_space(connection, app.app_id, app.base_model)
    if wanted:
        name = parse("baseModels/{base_model}", wanted, field="base_model")["base_model"]
        after = await base_model_store.get_base_model(connection, name)
    else:
        after = await base_model_store.best_base_model(connection) or before
    if after.space == before.space or not (wanted or _is_better(after, before)):
        raise PreconditionError(
            "UPGRADE_NOT_NEEDED",
            f"apps/{app.name} is on {before.name} version {before.version} already"
            + ("" if wanted else ", and no better base model is installed"),
            metadata={"base_model": before.name},
        )
    return _Choice(before, after)


def _is_better(base: BaseModelRow, than: BaseModelRow) -> bool:
    newer = base.name == than.name and base.version > than.version
    return base.space != than.space and (base.rank > than.rank or newer)


async def _shown(connection: Connection, row: UpgradeRow) -> Upgrade:
    return upgrade_to_proto(row, await model_upgrade_store.models_of(connection, row))


def _number(name: str) -> int:
    text = parse(_UPGRADE, name)["upgrade"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidInputError(
            "RESOURCE_NAME_INVALID",
            f"name ends in the number of an upgrade such as 3, not {text[:50]!r}",
            field_violations=[("name", "must end in the number of an upgrade")],
        )
    return int(text)
