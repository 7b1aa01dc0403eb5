"""Errors of files that say which file the user gave."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def told_of(target: Path) -> Iterator[None]:
    """Names this file in whatever goes wrong with the one that is written in its place; a full disk names none.

    Raises:
        OSError: The same one, of the file that was asked for.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            # A timeout is an OSError too, and no matter of files.
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
