"""Commands about apps, keys and who one is."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from lensmith.cli.options import DEFAULT_DATA_DIR, DataDir, Json, Yes, confirm
from lensmith.cli.output import console, print_json, print_table
from lensmith.cli.session import Session
from lensmith.errors import NotFoundError, UnauthenticatedError, UnavailableError
from lensmith.types import Key

apps = typer.Typer(help="Apps, the tenants of the platform.", no_args_is_help=True)
keys = typer.Typer(help="Keys of the app.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.add_typer(apps, name="apps")
    app.add_typer(keys, name="keys")
    app.command()(configure)
    app.command()(whoami)
    app.command()(usage)


@apps.command("create")
def create_app(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Own id: small letters, digits and hyphens.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    base_model: Annotated[str, typer.Option(help="Base model; the best one installed by default.")] = "",
    use: Annotated[bool, typer.Option(help="Work in it from now on.")] = True,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Create an app with a key that may do everything in it. Needs the operator's key."""
    session: Session = context.obj
    with session.operator_client(data_dir) as client:
        if base_model and base_model not in (installed := [known.id for known in client.base_models.list()]):
            raise NotFoundError(
                "BASE_MODEL_NOT_FOUND", f"there is no base model {base_model!r}; installed are {', '.join(installed)}"
            )
        app, key = client.apps.create(name, description=description, base_model=base_model)
    if use and key.secret:
        saved = session.config().replace(url=client.url, key=key.secret, app=app.id).save()
    if as_json:
        print_json({"app": app, "key": key.key, "secret": key.secret})
        return
    console.print(f"created app [bold]{app.id}[/]")
    if key.secret:
        console.print(f"its key, shown this once: [bold]{key.secret}[/]", soft_wrap=True)
    if use and key.secret:
        console.print(f"[dim]saved in {saved}: the next commands work in {app.id}[/]")


@apps.command("list")
def list_apps(context: typer.Context, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False) -> None:
    """List all apps. Needs the operator's key."""
    with context.obj.operator_client(data_dir) as client:
        found = list(client.apps.list())
    if as_json:
        print_json(found)
        return
    rows = [(app.id, app.display_name, app.base_model, app.created_at) for app in found]
    print_table("", ["app", "name", "base model", "created"], rows, empty="there is no app yet")


@apps.command("use")
def use_app(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Own id of the app.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Work in an app from now on. With the operator's key, makes a key for it."""
    session: Session = context.obj
    config = session.config()
    if not _is_of(session, name):
        operator = Session(session.url, session.key, name)
        with operator.operator_client(data_dir) as client:
            made = client.keys.create(["All"], description="made by `lensmith apps use`")
        config = config.replace(url=client.url, key=made.secret)
    saved = config.replace(app=name).save()
    console.print(f"working in [bold]{name}[/] [dim](saved in {saved})[/]")


def _is_of(session: Session, app: str) -> bool:
    """Whether the key at hand is one of this app."""
    if not session.config().key:
        return False
    try:
        with session.client() as client:
            return client.whoami().app == app
    except (UnauthenticatedError, UnavailableError):
        # A key, or an address, of a platform that is gone.
        return False


@apps.command("delete")
def delete_app(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Own id of the app.")],
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete an app with everything in it."""
    confirm(f"Delete app {name} with all its pictures, annotations and models?", yes=yes)
    with context.obj.operator_client(data_dir) as client:
        client.apps.delete(name)
    console.print(f"deleted app [bold]{name}[/]")


@keys.command("create")
def create_key(
    context: typer.Context,
    scopes: Annotated[list[str], typer.Argument(help="Scopes, such as Predict, Search, Inputs:Add.")],
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    days: Annotated[float | None, typer.Option(min=0.01, help="Days until it expires; never by default.")] = None,
    as_json: Json = False,
) -> None:
    """Create a key. Its secret is shown once."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with context.obj.client() as client:
        key = client.keys.create(scopes, description=description, expires_at=expires_at)
    if as_json:
        print_json({"key": key.key, "secret": key.secret})
        return
    console.print(f"created key {key.key.uid} with {', '.join(key.key.scopes)}")
    console.print(f"its secret, shown this once: [bold]{key.secret}[/]", soft_wrap=True)


@keys.command("list")
def list_keys(context: typer.Context, as_json: Json = False) -> None:
    """List the keys of the app."""
    with context.obj.client() as client:
        found = list(client.keys.list())
    if as_json:
        print_json(found)
        return
    print_table("", ["!key", "!begins with", "scopes", "description", "last used", "expires"], map(_key_row, found))


def _key_row(key: Key) -> tuple[object, ...]:
    return key.uid, f"{key.prefix}…", ", ".join(key.scopes), key.description, key.last_used_at, key.expires_at


@keys.command("delete")
def delete_key(
    context: typer.Context, uid: Annotated[str, typer.Argument(help="As `keys list` shows it.")], yes: Yes = False
) -> None:
    """Delete a key: it stops working everywhere within a second."""
    confirm(f"Delete key {uid}?", yes=yes)
    with context.obj.client() as client:
        client.keys.delete(uid)
    console.print(f"deleted key {uid}")


@keys.command("scopes")
def list_scopes(context: typer.Context, as_json: Json = False) -> None:
    """List all scopes and what each allows."""
    with context.obj.client() as client:
        scopes = client.scopes()
    if as_json:
        print_json(scopes)
        return
    rows = [(name, ", ".join(m.rsplit("/", 1)[-1] for m in methods)) for name, methods in scopes.items()]
    print_table("", ["scope", "allows"], rows)


def configure(
    context: typer.Context,
    url: Annotated[str, typer.Option(prompt="Address of the platform", help="Address of the platform.")],
    key: Annotated[str, typer.Option(prompt="Secret of a key", hide_input=True, help="Secret of a key.")],
) -> None:
    """Save where the platform is and with which key to work."""
    session = Session(url, key, None)
    with session.client() as client:
        me = client.whoami()
    saved = session.config().replace(app=me.app or None).save()
    console.print(f"saved in {saved}: {'the operator' if me.operator else f'app {me.app}'} at {url}")


def whoami(context: typer.Context, as_json: Json = False) -> None:
    """Tell whose key is used and what it may do."""
    session: Session = context.obj
    with session.client() as client:
        me, url = client.whoami(), client.url
    if as_json:
        print_json(me)
        return
    rows = [
        ("platform", url),
        ("app", me.app or "all of them: this is the operator's key"),
        ("key", f"{me.key.uid} ({me.key.prefix}…) {me.key.description}"),
        ("may", ", ".join(me.effective_scopes)),
        ("expires", me.key.expires_at or "never"),
    ]
    print_table("", ["", ""], rows)


def usage(context: typer.Context, as_json: Json = False) -> None:
    """Show what the app has used in the last 30 days."""
    with context.obj.client() as client:
        rows = client.usage.query()
    if as_json:
        print_json(rows)
        return
    table = [(row.day, row.operation, row.model, row.key_uid, row.count) for row in rows]
    print_table("", ["!day", "!operation", "model", "!key", "#count"], table, empty="nothing has been used yet")
