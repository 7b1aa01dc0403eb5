"""Where the servers' programs lie."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from lensmith_stack.errors import MissingProgramError


def script(name: str) -> Path:
    """A program that a wheel puts beside the interpreter, or else one on PATH.

    Raises:
        MissingProgramError: it is in neither place.
    """
    found = shutil.which(
        name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    )
    if found is None:
        raise MissingProgramError(name)
    return Path(found)


def package_directory(package: str) -> Path:
    """Directory of an installed package, found without importing it.

    Raises:
        MissingProgramError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingProgramError(package)
    return Path(spec.origin).parent
