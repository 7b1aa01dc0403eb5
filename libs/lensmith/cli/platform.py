"""Commands that run the platform on this machine."""

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from lensmith.cli.options import DEFAULT_DATA_DIR, LOOPBACK, DataDir, Json
from lensmith.cli.output import cell, console, errors, print_table, safe
from lensmith.errors import InvalidInputError

if TYPE_CHECKING:
    from types import ModuleType

    from lensmith_stack.state import PartStatus


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    for command in (up, status, down, logs, migrate):
        app.command()(command)
    # Its options are the generator's own.
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=passed_on)(envoy_config)


def up(
    port: Annotated[int, typer.Option(help="The one public port.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web page that may call from a browser, https://host; may be repeated.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Run the whole platform on this machine. Ctrl-C stops it; data is kept."""
    commands = stack_commands()
    from lensmith_stack.composition import UpOptions

    if host not in LOOPBACK:
        errors.print(
            f"[yellow]open to the network:[/] keys and pictures travel unencrypted to {safe(host)}:{port}; "
            "put TLS in front of it",
            soft_wrap=True,
        )
    options = UpOptions(data_dir=data_dir, host=host, port=port, cors_origins=tuple(cors_origin or ()))
    begin = time.monotonic()
    code = commands.up(options, _say, detach=detach)
    if detach and not code:
        console.print(f"[dim]started in {time.monotonic() - begin:.1f} s; `lensmith down` stops it[/]")
    raise typer.Exit(code)


def status(data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False) -> None:
    """Show each part of the platform: its health, memory and port."""
    told = stack_commands().status(data_dir)
    if as_json:
        sys.stdout.write(told.to_json() + "\n")
    else:
        started = datetime.fromtimestamp(told.started, UTC) if told.pid else None
        console.print(f"[bold]{told.phase}[/] {safe(told.url)}" if told.pid else f"[bold]{told.phase}[/]")
        if told.error:
            console.print(safe(told.error), style="red")
        if told.pid:
            print_table(
                "", ["part", "state", "healthy", "#pid", "#memory", "#port", "#restarts"], map(_row, told.parts)
            )
            total = f"{told.total_memory_bytes / 1e6:.0f} MB"
            console.print(
                f"[dim]{total} in all, since {cell(started)}, data in {safe(told.data_dir)}[/]", soft_wrap=True
            )
        else:
            console.print("[dim]`lensmith up` starts it[/]")
    raise typer.Exit(0 if told.pid else 3)


def _row(part: "PartStatus") -> tuple[object, ...]:
    memory = f"{part.memory_bytes / 1e6:.0f} MB"
    return (
        part.name,
        part.state,
        "yes" if part.healthy else "no",
        part.pid,
        memory,
        part.port or "socket",
        part.restarts,
    )


def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the platform on this machine; data is kept."""
    raise typer.Exit(stack_commands().down(data_dir, _say))


def logs(
    part: Annotated[list[str] | None, typer.Argument(help="Parts as `status` names them; all by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines as they come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each part.")] = 20,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the logs of the platform's parts."""
    commands = stack_commands()
    from lensmith_stack.errors import StackError

    try:
        told = False
        for line in commands.logs(data_dir, part or (), lines=lines, follow=follow):
            told = True
            sys.stdout.write(line + "\n")
            if follow:
                sys.stdout.flush()
        if not told:
            errors.print(f"nothing is logged in {safe(str(data_dir))} yet", style="dim", soft_wrap=True)
    except StackError as error:
        raise InvalidInputError("LOG_NOT_FOUND", str(error)) from error


def migrate(
    check: Annotated[bool, typer.Option(help="Change nothing; fail when something is to be done.")] = False,
) -> None:
    """Bring the database up to date (LENSMITH_MIGRATE_POSTGRES_URL). In a cluster, the chart runs it."""
    stack_commands()
    from lensmith_platform.db.migrate import main

    raise typer.Exit(main(["--check"] if check else []))


def envoy_config(context: typer.Context) -> None:
    """Write Envoy's configuration, made from the API (--help shows its options)."""
    stack_commands()
    from lensmith_gateway.envoy_config import main

    raise typer.Exit(main(context.args))


def stack_commands() -> "ModuleType":
    """The commands of the one-machine platform, which the light client is installed without.

    Raises:
        InvalidInputError: `EXTRA_MISSING`.
    """
    try:
        from lensmith_stack import commands
    except ImportError as error:
        raise InvalidInputError(
            "EXTRA_MISSING",
            f"running the platform needs more than the client: pip install 'lensmith[stack]' ({error.name} is missing)",
        ) from error
    return commands


def _say(line: str) -> None:
    errors.print(safe(line), soft_wrap=True)
