"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

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
