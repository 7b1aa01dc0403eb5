"""Commands that move apps to better base models."""

from typing import Annotated

import typer

from lensmith import Client
from lensmith.cli.apps import apps
from lensmith.cli.base_models import base_models
from lensmith.cli.options import DEFAULT_DATA_DIR, DataDir, Json
from lensmith.cli.output import console, counted, print_json, print_table, safe
from lensmith.cli.progress import fraction_progress
from lensmith.cli.session import Session
from lensmith.errors import InvalidInputError, NotFoundError, PreconditionError
from lensmith.types import ModelUpgradeOutcome, Upgrade, UpgradeState

STATE_STYLE = {UpgradeState.DONE: "green", UpgradeState.FAILED: "red", UpgradeState.CANCELLED: "yellow"}
EMBEDDED = 0.8
"""Part of the bar that stands for embedding."""


def add_to(app: typer.Typer) -> None:
    """Adds these commands to those about apps and base models."""
    apps.command("upgrade")(upgrade)
    base_models.command("upgrade-apps")(upgrade_apps)


def upgrade(
    context: typer.Context,
    to: Annotated[str, typer.Option(metavar="BASE_MODEL", help="Base model; the best one installed by default.")] = "",
    force: Annotated[bool, typer.Option(help="Switch models too that became clearly worse.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it is done.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the newest upgrade instead of starting one.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop the one that runs.")] = False,
    as_json: Json = False,
) -> None:
    """Move the app to a better base model: pictures are embedded anew, models trained anew, and then all is switched.

    Meanwhile predictions go on, by the versions before.
    """
    if ((status or cancel) and (to or force)) or (status and cancel):
        raise InvalidInputError("USAGE", "--status and --cancel go with nothing but --watch and --json")
    with context.obj.client() as client:
        current = _newest(client) if status or cancel else client.upgrades.start(to, force=force)
        if cancel:
            current = client.upgrades.cancel(current.number)
        if watch and not current.state.final:
            current = follow(client, current)
    if as_json:
        print_json(current)
    else:
        print_upgrade(current)
    if watch and current.state is UpgradeState.FAILED:
        raise typer.Exit(1)


def upgrade_apps(
    context: typer.Context,
    start: Annotated[bool, typer.Option("--start", help="Start them, instead of only telling which could.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Tell which apps are on a base model that is not the best one, and move them. Needs the operator's key."""
    session: Session = context.obj
    with session.operator_client(data_dir) as client:
        names = [app.id for app in client.apps.list()]
    rows = []
    for name in names:
        with Session(session.url, session.key, name).operator_client(data_dir) as client:
            if row := _considered(client, start=start):
                rows.append(row)
    if as_json:
        print_json(rows)
        return
    columns = ["app", "base model", "best one", "upgrade"]
    print_table("", columns, [tuple(row.values()) for row in rows], empty="every app is on the best base model")
    if not start and any(not row["upgrade"] for row in rows):
        console.print("[dim]`lensmith base-models upgrade-apps --start` moves them[/]")


def _considered(client: Client, *, start: bool) -> dict[str, str] | None:
    """What there is to tell about one app; None where there is nothing."""
    check = client.upgrades.check()
    if check.base_model is None or check.best_base_model is None or not (check.upgradable or check.running):
        return None
    told = f"number {check.running} runs" if check.running else ""
    if start and not check.running:
        try:
            told = f"number {client.upgrades.start().number} started"
        except PreconditionError as error:
            # Somebody else was first.
            told = str(error)
    return {
        "app": client.app,
        "base_model": f"{check.base_model.id} {check.base_model.version}",
        "best_base_model": f"{check.best_base_model.id} {check.best_base_model.version}",
        "upgrade": told,
    }


def _newest(client: Client) -> Upgrade:
    for newest in client.upgrades.list():
        return newest
    raise NotFoundError("UPGRADE_NOT_FOUND", f"app {client.app} was never upgraded")


def follow(client: Client, current: Upgrade) -> Upgrade:
    """Shows how an upgrade goes until it is done; returns it in its last state."""
    with fraction_progress() as progress:
        task = progress.add_task(f"to {current.base_model}", total=1.0, doing=current.state)
        for seen in client.upgrades.watch(current.number):
            current = seen
            doing = str(current.error) if current.error and not current.state.final else _doing(current)
            progress.update(task, completed=_fraction(current), doing=doing)
    return current


def _fraction(current: Upgrade) -> float:
    if current.state.final:
        return 1.0
    if current.state is UpgradeState.EMBEDDING:
        return EMBEDDED * current.embedded_input_count / max(current.input_count, 1)
    done = [model for model in current.models if model.outcome not in _UNDECIDED]
    return EMBEDDED + (1 - EMBEDDED) * len(done) / max(len(current.models), 1)


_UNDECIDED = (ModelUpgradeOutcome.WAITING, ModelUpgradeOutcome.TRAINING)


def _doing(current: Upgrade) -> str:
    if current.state is UpgradeState.EMBEDDING:
        return f"{current.embedded_input_count} of {counted(current.input_count, 'picture')}"
    return current.state


def print_upgrade(current: Upgrade) -> None:
    """Shows how an upgrade stands."""
    state = f"[{STATE_STYLE.get(current.state, 'bold')}]{current.state}[/]"
    console.print(
        f"upgrade {current.number} from {safe(current.from_base_model)} to "
        f"[bold]{safe(current.base_model)}[/] is {state}"
    )
    if current.message:
        console.print(f"  {safe(current.message)}", soft_wrap=True)
    elif current.error:
        console.print(f"  held up: {safe(str(current.error))}", soft_wrap=True)
    if not current.state.final:
        console.print(f"  {_doing(current)}; predictions go on by the versions before")
    if current.failed_input_count:
        told = f"{counted(current.failed_input_count, 'picture')} cannot be embedded by {current.base_model}"
        console.print(f"  {safe(told)}", style="yellow")
    if current.models:
        rows = [
            (
                m.model,
                m.outcome,
                m.from_version,
                m.to_version or None,
                m.figure,
                m.before,
                m.after,
                m.reason,
            )
            for m in current.models
        ]
        columns = ["model", "outcome", "#from version", "#to version", "figure", "#before", "#after", "why"]
        print_table("", columns, rows)
