"""Moving an app to a better base model."""

from collections.abc import AsyncIterator

from lensmith import _convert_upgrades, types
from lensmith._async.models import MOST_BROKEN_WATCHES, PAGE, WATCH_SECONDS
from lensmith._async.transport import AsyncTransport, new_request_id
from lensmith.errors import InternalError, UnavailableError, from_status
from lensmith_api.v1 import upgrade_service_pb2
from lensmith_api.v1.upgrade_service_pb2_grpc import UpgradeServiceStub


class AsyncUpgrades:
    """Upgrades of one app. They are numbered: 1, 2, 3 and so on."""

    def __init__(self, transport: AsyncTransport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = UpgradeServiceStub(transport.channel)

    async def check(self) -> types.UpgradeCheck:
        """Tells which base model the app has, and whether a better one is installed."""
        return _convert_upgrades.upgrade_check(
            await self._transport.call(
                self._stub.CheckUpgrade, upgrade_service_pb2.CheckUpgradeRequest(parent=f"apps/{self._app}")
            )
        )

    async def start(self, base_model: str = "", *, force: bool = False) -> types.Upgrade:
        """Starts moving the app to a base model, the best one installed by default. `watch` follows it.

        Predictions go on meanwhile, by the versions before; inputs and annotations may be added.

        Args:
            base_model: Own id of the base model.
            force: Switch models too that became clearly worse.

        Raises:
            PreconditionError: `UPGRADE_NOT_NEEDED`, or `UPGRADE_RUNNING`.
        """
        return _convert_upgrades.upgrade(
            await self._transport.call(
                self._stub.CreateUpgrade,
                upgrade_service_pb2.CreateUpgradeRequest(
                    parent=f"apps/{self._app}",
                    base_model=f"baseModels/{base_model}" if base_model else "",
                    force=force,
                    request_id=new_request_id(),
                ),
            )
        )

    async def get(self, number: int) -> types.Upgrade:
        """Returns one upgrade."""
        return _convert_upgrades.upgrade(
            await self._transport.call(
                self._stub.GetUpgrade, upgrade_service_pb2.GetUpgradeRequest(name=self._name(number))
            )
        )

    async def list(self) -> AsyncIterator[types.Upgrade]:
        """Yields the upgrades of the app, newest first."""
        token = ""
        while True:
            page = await self._transport.call(
                self._stub.ListUpgrades,
                upgrade_service_pb2.ListUpgradesRequest(parent=f"apps/{self._app}", page_size=PAGE, page_token=token),
            )
            for message in page.upgrades:
                yield _convert_upgrades.upgrade(message)
            if not (token := page.next_page_token):
                return

    async def watch(self, number: int) -> AsyncIterator[types.Upgrade]:
        """Yields an upgrade whenever it changes; the last one yielded is in its last state.

        A watch that breaks off, because a part of the platform restarts, begins again by itself.
        """
        request = upgrade_service_pb2.WatchUpgradeRequest(name=self._name(number))
        broken = 0
        while True:
            try:
                async for event in self._transport.stream(self._stub.WatchUpgrade, request, timeout=WATCH_SECONDS):
                    broken = 0
                    if event.HasField("error"):
                        raise from_status(event.error)
                    if event.HasField("summary"):
                        yield _convert_upgrades.upgrade(event.summary.upgrade)
                        return
                    yield _convert_upgrades.upgrade(event.item)
            except (UnavailableError, InternalError):
                broken += 1
                if broken > MOST_BROKEN_WATCHES:
                    raise
            # A read, repeated until the platform answers, is the pause before the next try.
            current = await self.get(number)
            if current.state.final:
                yield current
                return

    async def wait(self, number: int) -> types.Upgrade:
        """Waits until an upgrade is done, failed or cancelled."""
        last = await self.get(number)
        async for current in self.watch(number):
            last = current
        return last

    async def cancel(self, number: int) -> types.Upgrade:
        """Stops an upgrade that has not switched yet; everything stays as it was before."""
        return _convert_upgrades.upgrade(
            await self._transport.call(
                self._stub.CancelUpgrade, upgrade_service_pb2.CancelUpgradeRequest(name=self._name(number))
            )
        )

    def _name(self, number: int) -> str:
        return f"apps/{self._app}/upgrades/{number}"
