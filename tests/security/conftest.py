"""The platform of the end-to-end tests, for the tests of its walls, and two apps in it."""

from tests.e2e.conftest import platform
from tests.security.tenants import tenants

__all__ = ["platform", "tenants"]
