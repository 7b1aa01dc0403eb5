"""Commands about how a version came about and which one answers, and the report."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from lensmith import Client
from lensmith.cli.explaining import MAIN
from lensmith.cli.models import ModelArgument, models
from lensmith.cli.options import Json, check_target
from lensmith.cli.output import console, counted, print_indented, print_json, print_table, safe
from lensmith.cli.pdf import find_browser, print_to_pdf
from lensmith.cli.pictures import label_text
from lensmith.cli.progress import waiting
from lensmith.cli.training_options import answers_by
from lensmith.errors import InternalError, InvalidInputError, LensmithError, NotFoundError
from lensmith.version_types import inputs_sha256

Version = Annotated[int | None, typer.Option(min=1, help="The one in production by default.")]
LOOK_SECONDS = 30.0
TERMINAL = Path("-")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command()(rollback)
    app.command()(report)


def rollback(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int | None, typer.Argument(min=1, help="The one that answered before by default.")] = None,
) -> None:
    """Let a version answer that answered before, and keep it there."""
    with context.obj.client() as client:
        changed = client.models.rollback(model, version or 0)
    console.print(
        f"version {changed.production_version} of [bold]{safe(model)}[/] answers again, also when newer ones are "
        f"trained; `lensmith models unpin {safe(model)}` lets it follow them"
    )


def report(
    context: typer.Context,
    model: ModelArgument,
    version: Version = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; `-` for the terminal. MODEL-VERSION.html by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON for programs.")] = False,
    pdf: Annotated[bool, typer.Option(help="As PDF, printed by Chromium or Chrome, which must be installed.")] = False,
    pictures: Annotated[bool, typer.Option(help="Show pictures; without them it is small and quick.")] = True,
) -> None:
    """Make the report of a version: how good it is in plain words, what to fix, pictures it got right and wrong."""
    if pdf and as_json:
        raise InvalidInputError("USAGE", "--pdf and --json cannot be had together")
    if output == TERMINAL and pdf:
        raise InvalidInputError("USAGE", "--pdf is written to a file, not to the terminal")
    # Whatever stands in the way is said before a minute is spent on a report that nothing can take.
    if output is not None and output != TERMINAL:
        check_target(output, "the report")
    browser = find_browser() if pdf else ""
    with context.obj.client() as client:
        model, number = _with_public(client, model, version)
        suffix = "json" if as_json else "pdf" if pdf else "html"
        target = output or Path(f"{model.rpartition('/')[2]}-{number}.{suffix}")
        if target != TERMINAL:
            check_target(target, "the report")
        with waiting("looking through the pictures"), suppress(LensmithError):
            # A version that is seconds old is still being looked through, and what to fix is half of the report.
            client.suggestions.wait(model, number, timeout=LOOK_SECONDS)
        with waiting("making the report"):
            text = client.models.report(model, number, as_json=as_json, pictures=pictures)
    if target == TERMINAL:
        sys.stdout.write(text)
        return
    if pdf:
        print_to_pdf(text, target, browser)
    else:
        target.write_text(text, encoding="utf-8")
    console.print(f"version {number} of [bold]{safe(model)}[/]: see {safe(str(target))}")


def _with_public(client: Client, model: str, version: int | None) -> tuple[str, int]:
    """Name a model and its version, a public one where the app has none of that name."""
    try:
        return model, in_production(client, model, version)
    except NotFoundError as error:
        if error.reason != "MODEL_NOT_FOUND" or "/" in model:
            raise
        public = MAIN + model
        try:
            return public, in_production(client, public, version)
        except NotFoundError:
            raise error from None


def in_production(client: Client, model: str, version: int | None) -> int:
    """Returns the number of a version: the one given, or the one in production.

    Raises:
        InvalidInputError: `MODEL_HAS_NO_TRAINED_VERSION`.
    """
    number = version or client.models.get(model).production_version
    if not number:
        raise InvalidInputError("MODEL_HAS_NO_TRAINED_VERSION", f"model {model} has no trained version yet")
    return number


@models.command("inputs")
def list_inputs(
    context: typer.Context,
    model: ModelArgument,
    version: Version = None,
    verify: Annotated[bool, typer.Option(help="Only hold the list against the version's hash.")] = False,
    as_json: Json = False,
) -> None:
    """List the pictures that a version was trained on, as they were labelled then."""
    with context.obj.client() as client:
        number = in_production(client, model, version)
        expected = client.models.get_version(model, number).dataset_sha256
        found = list(client.models.list_version_inputs(model, number))
    same = inputs_sha256(found) == expected
    if as_json:
        print_json({"dataset_sha256": expected, "verified": same, "inputs": found})
    elif not verify:
        rows = [(item.id, ", ".join(map(label_text, item.annotations)), item.fold, item.sha256[:12]) for item in found]
        print_table("", ["!picture", "labels", "#fold", "SHA-256"], rows)
    if not same:
        raise InternalError("DATASET_SHA256_MISMATCH", f"the list of version {number} is not what it was trained on")
    if not as_json:
        console.print(f"{counted(len(found), 'picture')}, whose list has the hash of version {number}: {expected}")


@models.command("card")
def show_card(context: typer.Context, model: ModelArgument, version: Version = None, as_json: Json = False) -> None:
    """Show all that is known of how a version came about."""
    with context.obj.client() as client:
        card = client.models.card(model, in_production(client, model, version))
    if as_json:
        print_json(card)
        return
    base = card.base_model
    rows = [
        ("version", card.version.number),
        ("concepts", ", ".join(card.display_names)),
        ("pictures", card.version.input_count),
        ("data (SHA-256)", card.version.dataset_sha256),
        ("base model", f"{base.id} {base.version}" if base else None),
        ("licence of the base model", base.licence if base else None),
        ("head", card.version.tier),
        ("answers by", answers_by(card.version) or None),
        ("trained", card.version.created_at),
        ("note", card.version.note or None),
    ]
    print_table("", ["", ""], rows)
    for caution in card.cautions:
        print_indented(caution)


@models.command("retrain-after")
def retrain_after(
    context: typer.Context,
    model: ModelArgument,
    annotations: Annotated[int, typer.Argument(min=0, help="New annotations; 0: never by itself.")],
) -> None:
    """Train a model by itself after so many new annotations of its concepts."""
    with context.obj.client() as client:
        client.models.retrain_after(model, annotations)
    when = f"after {counted(annotations, 'new annotation')}" if annotations else "only when it is told to"
    console.print(f"[bold]{safe(model)}[/] is trained {when}")
