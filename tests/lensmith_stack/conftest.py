"""Fixtures for tests that start and kill servers of their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmith_stack.files import make_private_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A closed, empty directory that stands where Postgres' system user can reach it."""
    # Not pytest's own temporary directory: that one is closed, and root's Postgres runs as another user.
    with tempfile.TemporaryDirectory(prefix="lensmith-") as scratch:
        Path(scratch).chmod(0o711)
        yield make_private_directory(Path(scratch) / "data")
