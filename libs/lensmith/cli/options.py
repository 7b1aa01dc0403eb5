"""Options that several commands take."""

import os
from pathlib import Path
from typing import Annotated

import typer

from lensmith.errors import PreconditionError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DataDir = Annotated[
    Path,
    typer.Option(envvar="LENSMITH_DATA_DIR", help="Where the platform of this machine keeps its data."),
]
DEFAULT_DATA_DIR = Path("~/.lensmith")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine for itself."""


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something is lost.

    Raises:
        typer.Abort: The answer was no.
    """
    if not yes:
        typer.confirm(question, abort=True)


def check_target(target: Path, what: str) -> None:
    """Holds that a file can be written, before anything is computed that nothing could take.

    Raises:
        PreconditionError: `OUTPUT_NOT_WRITABLE`.
    """
    if not target.parent.is_dir():
        why = f"there is no folder {target.parent}"
    elif target.is_dir():
        why = f"{target} is a folder"
    elif not os.access(target if target.exists() else target.parent, os.W_OK):
        why = f"{target} may not be written"
    else:
        return
    raise PreconditionError("OUTPUT_NOT_WRITABLE", f"{what} cannot be written: {why}")
