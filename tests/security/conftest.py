"""Two apps in the platform of the end-to-end tests, for the tests of its walls."""

from tests.security.tenants import tenants

__all__ = ["tenants"]
