"""Commands about base models."""

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lensmith.cli.options import DEFAULT_DATA_DIR, DataDir, Json, Yes, confirm
from lensmith.cli.output import console, errors, print_json, print_table, safe
from lensmith.cli.progress import bytes_progress
from lensmith.config import cache_folder
from lensmith.errors import InvalidInputError, PreconditionError
from lensmith.packs import hub
from lensmith.packs.conversion import VIEWS, Wishes, convert, is_ready, own_id, settle_version, shipped, with_views
from lensmith.packs.download import Report
from lensmith.packs.sources import DownloadFolder, fetch_url, is_hub_name, is_url, local_folder, without_suffix
from lensmith.packs.starts import is_timm_name, timm_network
from lensmith.packs.summary import PackSummary, is_permissive, summary_of
from lensmith.types import BaseModel

base_models = typer.Typer(help="Networks that models are trained on top of.", no_args_is_help=True)

BaseModelArgument = Annotated[str, typer.Argument(metavar="BASE_MODEL", help="Id of the base model.")]
Views = Annotated[
    int,
    typer.Option(help="8: look at each picture eight times, at eight to ten times the cost; a base model of its own."),
]


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.add_typer(base_models, name="base-models")


@base_models.command("list")
def list_base_models(context: typer.Context, data_dir: DataDir = DEFAULT_DATA_DIR, as_json: Json = False) -> None:
    """List installed base models, best first: an app without a choice of its own gets the first."""
    # Before there is an app, its operator is the only one who has a key for the platform of this machine.
    with context.obj.operator_client(data_dir) as client:
        found = list(client.base_models.list())
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.id,
            each.version,
            each.dimensions,
            f"{each.input_side} px",
            each.views,
            _size(each.size_bytes),
            each.rank,
            "default" if place == 0 else "",
            each.licence,
            each.description,
        )
        for place, each in enumerate(found)
    ]
    columns = ["!base model", "version", "#dim", "#input", "#views", "#size", "#rank", "", "licence", "what it is"]
    print_table("", columns, rows, empty="no base model is installed")


@base_models.command("show")
def show_base_model(
    context: typer.Context,
    base_model: BaseModelArgument,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: Json = False,
) -> None:
    """Show everything about a base model."""
    with context.obj.operator_client(data_dir) as client:
        found = client.base_models.get(base_model)
        default = next(iter(client.base_models.list()), found).id == found.id
    if as_json:
        print_json(found)
        return
    rows = [
        ("id", found.id),
        ("version", found.version),
        ("name", found.display_name),
        ("what it is", found.description),
        ("licence", found.licence),
        ("source", found.source),
        ("dimensions", found.dimensions),
        ("input", f"{found.input_side} px"),
        ("views", found.views),
        ("space", found.space),
        ("size", _size(found.size_bytes)),
        ("sha256", found.sha256),
        ("rank", f"{found.rank}, the default of new apps" if default else found.rank),
        ("public model", found.model or None),
        ("installed", found.created_at),
    ]
    print_table("", ["", ""], rows)


@base_models.command("import")
def import_base_model(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or archive of a model pack or of a network; URL of an archive or of a pack's card.json; "
            "the name of a published network: hf:OWNER/NAME[@REVISION][:FILE.onnx]; of one of timm: "
            "timm:NAME[:FILE.safetensors]; or of one that ships with Lensmith: starter."
        ),
    ],
    sha256: Annotated[
        str, typer.Option(help="What the archive, or else the ONNX file, must have as its SHA-256.")
    ] = "",
    name: Annotated[str, typer.Option(help="Id of the base model, where it is no ready pack.")] = "",
    rank: Annotated[
        int | None,
        typer.Option(help="Place among the installed, where it is no ready pack: the highest is the default."),
    ] = None,
    views: Views = 1,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Install a base network. Needs the operator's key.

    What breaks off while it is fetched goes on when the command is repeated. A network that is no model pack yet is
    made one, which needs `lensmith[packs]`. docs/model-packs.md says what packs look like.
    """
    sha256 = sha256.lower()
    _require_sense(sha256, name, views)
    consent = Consent(yes)
    kept = DownloadFolder(cache_folder(), source)
    with tempfile.TemporaryDirectory() as scratch, context.obj.operator_client(data_dir) as client:
        # Told at once, not after a long download: without the platform nothing can be installed.
        installed = {each.id: each for each in client.base_models.list()}
        folder, wishes = _obtain(source, kept, Path(scratch), sha256, Wishes(name, rank, views=views), consent)
        pack = _as_pack(folder, Path(scratch) / "made", wishes)
        known = installed.get(summary_of(pack).id)
        # One that was made here, from whatever, counts its versions here.
        if (pack == folder and not is_timm_name(source)) or settle_version(pack, known):
            _ask(summary_of(pack), consent, described=not as_json)
            result = client.base_models.import_pack(pack)
        else:
            result = client.base_models.get(summary_of(pack).id)
        best = next(iter(client.base_models.list()), result)
    kept.clear()
    if as_json:
        print_json(result)
        return
    _tell(result, best, changed=known is None or (known.version, known.sha256) != (result.version, result.sha256))


def _require_sense(sha256: str, name: str, views: int) -> None:
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise InvalidInputError("CHECKSUM_INVALID", "--sha256 takes 64 hexadecimal digits")
    if name and name != own_id(name):
        raise InvalidInputError(
            "NAME_INVALID", f"--name takes small letters, digits and hyphens, such as {own_id(name)}"
        )
    if views not in (1, VIEWS):
        raise InvalidInputError("VIEWS_INVALID", f"--views takes 1 or {VIEWS}")


@base_models.command("delete")
def delete_base_model(
    context: typer.Context, base_model: BaseModelArgument, data_dir: DataDir = DEFAULT_DATA_DIR, yes: Yes = False
) -> None:
    """Remove a base model that no app uses. Needs the operator's key."""
    with context.obj.operator_client(data_dir) as client:
        found = client.base_models.get(base_model)
        confirm(f"Remove base model {found.id} {found.version}?", yes=yes)
        client.base_models.delete(found.id)
    console.print(f"removed base model [bold]{safe(found.id)}[/]")


class Consent:
    """Asks about a licence, once.

    Args:
        given: Whether the answer was given with the command.
    """

    def __init__(self, given: bool) -> None:
        self._given = given

    def ask(self, licence: str, what: str) -> None:
        """Asks where a licence is not known to be permissive.

        Raises:
            typer.Abort: The answer was no.
            PreconditionError: `LICENCE_NOT_ACCEPTED`: there is nobody to ask.
        """
        if self._given or is_permissive(licence):
            return
        told = f"{what} has the licence {licence!r}" if licence and licence != "unknown" else f"{what} names no licence"
        if not sys.stdin.isatty():
            raise PreconditionError("LICENCE_NOT_ACCEPTED", f"{told}; --yes accepts it", metadata={"licence": licence})
        errors.print(f"[yellow]{safe(told)}[/]", soft_wrap=True)
        typer.confirm("May it be used here?", abort=True, err=True)
        self._given = True


def installable(folder: Path, scratch: Path) -> Path:
    """The folder of a pack: `folder` itself, or one made in `scratch` of the network in it.

    Raises:
        InvalidInputError: `PACK_INVALID`: it is neither. `EXTRA_MISSING`: making one needs more than the client.
    """
    return _as_pack(folder, scratch, Wishes(called=folder.resolve().name))


def _obtain(
    source: str, kept: DownloadFolder, scratch: Path, sha256: str, wishes: Wishes, consent: Consent
) -> tuple[Path, Wishes]:
    """Gets the files of a source, and what the source says that the files do not."""
    if is_hub_name(source):
        publication = hub.look_up(hub.parse_name(source))
        if sha256:
            publication = publication.demanding(sha256)
        if publication.graph:
            # Before the download: a licence that will not do need not be waited for.
            consent.ask(publication.licence, publication.name.repository)
        with _downloading(source) as report:
            folder = hub.fetch(publication, kept.path / publication.commit, report)
        return folder, replace(
            wishes,
            called=publication.name.own_name,
            licence=publication.licence,
            source=publication.source,
            graph=publication.graph,
        )
    if is_timm_name(source):
        if wishes.views > 1:
            # Id and rank are those of the pack that is made of it.
            return timm_network(source, scratch / "timm", sha256, Wishes()), wishes
        return timm_network(source, scratch / "timm", sha256, wishes), Wishes()
    if is_url(source):
        with _downloading(source) as report:
            folder = fetch_url(source, kept.path, scratch / "unpacked", sha256, report)
        return folder, replace(wishes, called=without_suffix(source), source=source)
    ships = None if Path(source).exists() else shipped(source)
    folder = ships or local_folder(source, scratch / "unpacked", sha256)
    return folder, replace(wishes, called=without_suffix(str(Path(source).resolve())))


def _as_pack(folder: Path, scratch: Path, wishes: Wishes) -> Path:
    if wishes.views > 1:
        single = folder if is_ready(folder) else convert(folder, scratch, replace(wishes, id="", rank=None))
        return with_views(single, scratch, wishes)
    if not is_ready(folder):
        return convert(folder, scratch, wishes)
    if wishes.id or wishes.rank is not None:
        raise InvalidInputError(
            "PACK_READY", "a ready pack has its name and rank in its card: --name and --rank cannot change them"
        )
    return folder


@contextmanager
def _downloading(source: str) -> Iterator[Report]:
    with bytes_progress() as progress:
        task = progress.add_task(safe(source.rpartition("/")[2]), total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _ask(pack: PackSummary, consent: Consent, *, described: bool) -> None:
    if described:
        _describe(pack)
    consent.ask(pack.licence, pack.display_name)


def _describe(pack: PackSummary) -> None:
    rows: Sequence[tuple[str, object]] = [
        ("base model", f"{pack.id} {pack.version}"),
        ("what it is", pack.description or pack.display_name),
        ("licence", pack.licence),
        ("source", pack.source),
        ("size", _size(pack.size_bytes)),
        ("input", " x ".join(str(side) for side in pack.input_size)),
        ("views", pack.views),
        ("dimensions", pack.dimensions),
        ("classifier", "comes with it as a public model" if pack.names_concepts else "none"),
    ]
    print_table("", ["", ""], rows)


def _tell(base_model: BaseModel, best: BaseModel, *, changed: bool) -> None:
    """Says what was done, and who profits from it."""
    named = f"base model [bold]{safe(base_model.id)}[/] {safe(base_model.version)}"
    if not changed:
        console.print(f"{named} is installed already; nothing was changed")
        return
    console.print(f"installed {named}")
    if best.id == base_model.id:
        told = (
            "new apps use it from now on; `lensmith base-models upgrade-apps` tells which others could, and moves them"
        )
    else:
        told = (
            f"new apps use {best.id}, which ranks higher; `lensmith apps create NAME --base-model {base_model.id}` "
            f"makes one that uses this one, `lensmith apps upgrade --to {base_model.id}` moves one"
        )
    console.print(f"[dim]{safe(told)}[/]", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"
