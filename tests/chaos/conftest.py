"""A customer of the platform whose parts are killed."""

import uuid
from collections.abc import AsyncIterator
from typing import Final

import pytest

from lensmith import AsyncClient
from tests.chaos.workload import Pictures, Workload
from tests.platform_process import PlatformProcess

RETRIES: Final = 30
"""As many as fit into the minute that one call of a client may take."""


@pytest.fixture(scope="session")
def platform(shaken_platform: PlatformProcess) -> PlatformProcess:
    """The platform whose parts are killed."""
    return shaken_platform


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
