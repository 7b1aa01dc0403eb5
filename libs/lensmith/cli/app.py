"""The command `lensmith`: options before the command, the groups of commands, and how errors are shown."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from lensmith.cli import (
    apps,
    base_models,
    dataset,
    demo,
    evaluations,
    explaining,
    inference,
    models,
    platform,
    suggestions,
    upgrades,
    versions,
)
from lensmith.cli.output import errors, print_error
from lensmith.cli.session import Session
from lensmith.errors import InvalidInputError, LensmithError, PreconditionError

app = typer.Typer(
    name="lensmith",
    help="Teach computers to see by your own taxonomy.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
platform.add_to(app)
demo.add_to(app)
apps.add_to(app)
dataset.add_to(app)
models.add_to(app)
versions.add_to(app)
evaluations.add_to(app)
suggestions.add_to(app)
inference.add_to(app)
explaining.add_to(app)
base_models.add_to(app)
upgrades.add_to(app)


def _print_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"lensmith {version('lensmith')}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="Address of the platform, http://127.0.0.1:8080 by default.")] = None,
    key: Annotated[str | None, typer.Option(help="Secret of a key; better kept in LENSMITH_KEY.")] = None,
    use_app: Annotated[str | None, typer.Option("--app", help="App to work in.")] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Teach computers to see by your own taxonomy.

    What is not given here comes from LENSMITH_URL, LENSMITH_KEY and LENSMITH_APP, and then from `lensmith configure`.
    """
    context.obj = Session(url=url, key=key, app=use_app)


def main() -> None:
    """Runs the command line. Exit status: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    try:
        app()
    except LensmithError as error:
        print_error(error)
        sys.exit(2 if isinstance(error, InvalidInputError) and error.reason == "USAGE" else 1)
    except KeyboardInterrupt:
        errors.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe went away, as `| head` does; nobody is left to be told.
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print_error(PreconditionError("FILE_UNUSABLE", f"{error.filename}: {error.strerror}"))
        sys.exit(1)
