"""One platform for all end-to-end tests of a process."""

from collections.abc import Iterator

import pytest

from tests.platform_process import PlatformProcess, platform_process


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformProcess]:
    """The whole platform, running."""
    with platform_process(tmp_path_factory.mktemp("platform")) as running:
        yield running
