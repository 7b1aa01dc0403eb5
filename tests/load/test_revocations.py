"""A deleted key stops in every service within a second, also when the news cannot travel."""

import asyncio
import io
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Final

import httpx
import pytest
from PIL import Image

from lensmith import AsyncClient
from lensmith.errors import LensmithError, UnauthenticatedError
from lensmith.types import ModelType
from lensmith_stack.commands import status
from lensmith_stack.state import PartStatus
from tests.platform_process import PlatformProcess
from tests.polling import until

pytestmark = [pytest.mark.xdist_group("chaos"), pytest.mark.timeout(180)]

PATIENCE_SECONDS: Final = 10.0
"""Generous, because a machine that is busy is no wrong answer; the time that was needed is in the output."""

MODEL: Final = "model"
Record = Callable[[str, object], None]
Probe = Callable[[AsyncClient, str], Awaitable[object]]


def _pixel() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 10, 10)).save(file, "PNG")
    return file.getvalue()


async def _auth(client: AsyncClient, secret: str) -> None:
    await client.whoami()


async def _dataset(client: AsyncClient, secret: str) -> None:
    await client.inputs.counts()


async def _registry(client: AsyncClient, secret: str) -> None:
    await client.models.get(MODEL)


async def _inference(client: AsyncClient, secret: str) -> None:
    await client.embed([_pixel()])


async def _gateway(client: AsyncClient, secret: str) -> None:
    async with httpx.AsyncClient(base_url=client.url, headers={"Authorization": f"Key {secret}"}) as http:
        answer = await http.post(f"/v1/apps/{client.app}/uploads", files={"file": ("red.png", _pixel())})
    if answer.status_code == 401:
        raise UnauthenticatedError("KEY_UNKNOWN", answer.text)


PROBES: Final[dict[str, Probe]] = {
    "auth": _auth,
    "dataset": _dataset,
    "registry": _registry,
    "inference": _inference,
    "gateway": _gateway,
}
"""A call that each service answers to a key that may do everything."""


async def test_a_deleted_key_stops_in_every_service_when_the_bus_runs(
    platform: PlatformProcess, record_property: Record
) -> None:
    measured = await _stopped_after(platform, nullcontext())
    record_property("measured", f"bus running: {_said(measured)}")


async def test_a_deleted_key_stops_in_every_service_when_the_bus_is_killed(
    platform: PlatformProcess, record_property: Record
) -> None:
    measured = await _stopped_after(platform, _bus_kept_dead(platform))
    record_property("measured", f"bus killed: {_said(measured)}")


async def test_a_deleted_key_stops_in_every_service_when_the_bus_is_frozen(
    platform: PlatformProcess, record_property: Record
) -> None:
    # Connections stay open and nothing comes through: worse than a server that is gone.
    measured = await _stopped_after(platform, _bus_frozen(platform))
    record_property("measured", f"bus frozen: {_said(measured)}")


async def _stopped_after(platform: PlatformProcess, outage: AbstractAsyncContextManager[None]) -> dict[str, float]:
    """Deletes a key that every service has in its cache; seconds from the answer to the first refusal, by service.

    The outage begins just before, while every service still trusts its cache.
    """
    app = f"keys-{uuid.uuid4().hex[:8]}"
    async with AsyncClient(platform.url, platform.operator_key) as operator:
        _, owner_key = await operator.apps.create(app)
    async with AsyncClient(platform.url, owner_key.secret, app) as owner:
        await owner.models.create(MODEL, ModelType.MULTI_CLASS)
        doomed = await owner.keys.create(["All"])
        async with AsyncClient(platform.url, doomed.secret, app) as client:
            for probe in PROBES.values():
                await probe(client, doomed.secret)
            async with outage:
                await owner.keys.delete(doomed.key.uid)
                gone = time.monotonic()
                refused = [_until_refused(probe, client, doomed.secret) for probe in PROBES.values()]
                moments = await asyncio.wait_for(asyncio.gather(*refused), PATIENCE_SECONDS)
                # The others' keys go on, whatever became of the bus.
                await owner.inputs.counts()
    return {service: moment - gone for service, moment in zip(PROBES, moments, strict=True)}


async def _until_refused(probe: Probe, client: AsyncClient, secret: str) -> float:
    while True:
        try:
            await probe(client, secret)
        except UnauthenticatedError:
            return time.monotonic()
        except LensmithError:
            # A service that has lost its bus may be away for a moment, but must not take the key again.
            continue


@asynccontextmanager
async def _bus_kept_dead(platform: PlatformProcess) -> AsyncIterator[None]:
    """Kills NATS now, and as often as it is brought back."""

    async def kill() -> None:
        pid = (await _bus(platform)).pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def keep_killing() -> None:
        while True:
            await kill()
            await asyncio.sleep(0.05)

    before = (await _bus(platform)).restarts
    await kill()
    killing = asyncio.create_task(keep_killing())
    try:
        yield
    finally:
        killing.cancel()
        await asyncio.wait([killing])
        await _until_bus(platform, lambda bus: bus.restarts > before and bus.healthy)


@asynccontextmanager
async def _bus_frozen(platform: PlatformProcess) -> AsyncIterator[None]:
    pid = (await _bus(platform)).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        await _until_bus(platform, lambda bus: bus.healthy)


async def _bus(platform: PlatformProcess) -> PartStatus:
    told = await asyncio.to_thread(status, platform.data_dir)
    return next(part for part in told.parts if part.name == "nats")


async def _until_bus(platform: PlatformProcess, condition: Callable[[PartStatus], bool]) -> None:
    async def holds() -> bool:
        return condition(await _bus(platform))

    await until(holds, seconds=60)


def _said(measured: dict[str, float]) -> str:
    return "a deleted key is refused after " + ", ".join(
        f"{seconds * 1000:.0f} ms by {service}" for service, seconds in measured.items()
    )
