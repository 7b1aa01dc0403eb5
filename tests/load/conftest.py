"""Loads go to the platform whose parts were killed before."""

import pytest

from tests.platform_process import PlatformProcess


@pytest.fixture(scope="session")
def platform(shaken_platform: PlatformProcess) -> PlatformProcess:
    """The platform that is loaded."""
    return shaken_platform
