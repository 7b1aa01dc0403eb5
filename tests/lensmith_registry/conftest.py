"""Registry on its real servers."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.lensmith_registry.rig import Rig, rig_of

MakeRig = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture
def make_rig(tmp_path: Path, database, nats_url: str, s3) -> MakeRig:
    """Starts registry with settings of the test's own."""
    urls = (database.url("registry"), database.url("registry", worker=True), database.admin_url)
    return lambda **settings: rig_of(tmp_path, urls, nats_url, s3.url, **settings)


@pytest.fixture
async def rig(make_rig: MakeRig) -> AsyncIterator[Rig]:
    """Registry with its default settings."""
    async with make_rig() as running_rig:
        yield running_rig
