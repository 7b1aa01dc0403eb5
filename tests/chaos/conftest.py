"""One platform for all tests that shake it."""

import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Final

import pytest

from lensmith import AsyncClient
from tests.chaos.workload import Pictures, Workload
from tests.platform_process import PlatformProcess, platform_process

RETRIES: Final = 30
"""As many as fit into the minute that one call of a client may take."""


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """The whole platform, running."""
    # A trainer that was killed keeps its version for as long as its lease: short, so that the test is.
    settings = {"LENSMITH_REGISTRY_LEASE_SECONDS": "6", "LENSMITH_REGISTRY_RECONCILE_SECONDS": "2"}
    with platform_process(tmp_path_factory.mktemp("platform"), **settings) as running:
        yield running


@pytest.fixture
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Pictures without end."""
    return Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
async def workload(platform: PlatformProcess, pictures: Pictures) -> AsyncIterator[Workload]:
    """A customer with an app and a first trained version."""
    app = f"app-{uuid.uuid4().hex[:8]}"
    async with AsyncClient(platform.url, platform.operator_key) as operator:
        _, key = await operator.apps.create(app)
    async with AsyncClient(platform.url, key.secret, app, retries=RETRIES) as client:
        workload = Workload(client, pictures)
        await workload.prepare()
        yield workload
