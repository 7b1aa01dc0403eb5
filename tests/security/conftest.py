"""The platform of the end-to-end tests, for the tests of its walls."""

from tests.e2e.conftest import platform

__all__ = ["platform"]
