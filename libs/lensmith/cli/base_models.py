"""Commands about base models."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.options import DEFAULT_DATA_DIR, DataDir, Json
from lensmith.cli.output import console, print_json, print_table, safe
from lensmith.errors import InvalidInputError

base_models = typer.Typer(help="Networks that models are trained on top of.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.add_typer(base_models, name="base-models")


@base_models.command("list")
def list_base_models(context: typer.Context, as_json: Json = False) -> None:
    """List installed base models, best first."""
    with context.obj.client() as client:
        found = list(client.base_models.list())
    if as_json:
        print_json(found)
        return
    rows = [
        (b.id, b.version, b.dimensions, b.input_side, f"{b.size_bytes / 1e6:.1f} MB", b.licence, b.description)
        for b in found
    ]
    columns = ["base model", "version", "#dimensions", "#pixels", "#size", "licence", "what it is"]
    print_table("", columns, rows, empty="no base model is installed")


@base_models.command("import")
def import_base_model(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Model pack, or a network's folder to make one of.")
    ],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Install a model pack. Needs the operator's key. What packs look like stands in docs/model-packs.md."""
    with tempfile.TemporaryDirectory() as scratch, context.obj.operator_client(data_dir) as client:
        installed = client.base_models.import_pack(as_pack(folder, Path(scratch)))
    if as_json:
        print_json(installed)
        return
    console.print(f"installed base model [bold]{safe(installed.id)}[/] {installed.version}")
    console.print(f"[dim]licence {safe(installed.licence)}; from {safe(installed.source)}[/]")


def as_pack(folder: Path, scratch: Path) -> Path:
    """A folder that is a model pack: `folder` itself, or one made of the network in it, in `scratch`.

    Raises:
        InvalidInputError: `PACK_INVALID`: it is neither. `EXTRA_MISSING`: making one needs more than the client.
    """
    try:
        card = json.loads((folder / "card.json").read_text())
    except (OSError, ValueError) as error:
        raise InvalidInputError("PACK_INVALID", f"{folder} holds no card.json that can be read: {error}") from error
    # Only the card of a pack says which version of the format it has.
    if isinstance(card, dict) and "format" in card:
        return folder
    try:
        from lensmith_vision.errors import PackError
        from lensmith_vision.pack_builder import build_pack, read_source
    except ImportError as error:
        raise InvalidInputError(
            "EXTRA_MISSING", f"{folder} is no model pack; making one of it needs: pip install 'lensmith[packs]'"
        ) from error
    try:
        source = read_source(folder)
        pack = scratch / source.id
        build_pack(source, pack)
    except PackError as error:
        raise InvalidInputError("PACK_INVALID", f"{folder}: {error}") from error
    return pack
