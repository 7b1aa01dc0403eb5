"""Commands about inputs, concepts and annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lensmith import Client, labels
from lensmith.cli.asking import most_special
from lensmith.cli.options import Json, Yes, confirm
from lensmith.cli.output import console, counted, errors, print_json, print_table, safe
from lensmith.cli.progress import counting_progress
from lensmith.errors import InvalidInputError, LensmithError
from lensmith.importer import FILE, ImportReport, Journal, import_files
from lensmith.labels import LabelledFile
from lensmith.types import Annotation, InputStatus

concepts = typer.Typer(help="Concepts: the words of the app's taxonomy.", no_args_is_help=True)
inputs = typer.Typer(help="Pictures of the app.", no_args_is_help=True)
SHOWN_FAILURES = 20


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command("import")(import_folder)
    app.add_typer(inputs, name="inputs")
    app.add_typer(concepts, name="concepts")
    app.command()(annotate)


def import_folder(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with pictures.")],
    labels_from: Annotated[
        str, typer.Option(help="`folders`: the subfolder is the label; `none`; or a CSV file with image, labels.")
    ] = "folders",
    number: Annotated[
        list[str] | None, typer.Option(help="Column of the CSV file that holds numbers to learn; may be repeated.")
    ] = None,
    test: Annotated[bool, typer.Option(help="Keep the pictures out of training.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until all are ready to train on.")] = True,
    again: Annotated[bool, typer.Option(help="Send what an earlier import brought in, too.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a folder of pictures in, with labels. Broken off, it goes on where it stopped."""
    label = _labels(folder, labels_from, number or [])
    files = [LabelledFile(path, tuple(label(path))) for path in labels.pictures(folder)]
    if not files:
        raise InvalidInputError("FOLDER_EMPTY", f"there are no pictures in {folder}")
    if labels_from == "folders" and (loose := sum(not item.annotations for item in files)):
        errors.print(
            f"[yellow]without label:[/] {counted(loose, 'picture')} directly in {safe(str(folder))}; "
            "the name of a subfolder would be their label",
            soft_wrap=True,
        )
    with context.obj.client() as client:
        journal = Journal.of(client, folder)
        if again:
            journal.forget()
        report = _import(client, files, journal, test=test)
        if wait:
            wait_until_ready(client)
    _print_report(report, as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


def _import(client: Client, files: Sequence[LabelledFile], journal: Journal, *, test: bool) -> ImportReport:
    with journal, counting_progress() as progress:
        task = progress.add_task("importing", total=len(files))
        try:
            return import_files(client, files, journal, lambda count: progress.advance(task, count), test=test)
        except KeyboardInterrupt:
            errors.print("interrupted: the same command goes on where it stopped")
            raise


def _labels(folder: Path, source: str, numbers: Sequence[str]) -> labels.Labels:
    if source == "folders":
        return labels.from_folders(folder)
    if source == "none":
        return lambda _: ()
    if not Path(source).is_file():
        raise InvalidInputError("USAGE", f"--labels-from is `folders`, `none` or a CSV file; there is no file {source}")
    return labels.from_table(Path(source), numbers)


def wait_until_ready(client: Client) -> None:
    """Shows how many inputs still wait to be embedded, until none does."""
    counts = client.inputs.counts()
    total = counts.pending
    with counting_progress() as progress:
        task = progress.add_task("embedding", total=total)
        while counts.pending:
            progress.update(task, completed=max(0, total - counts.pending))
            try:
                counts = client.inputs.wait_until_ready(timeout=0.5)
            except LensmithError as error:
                if error.reason != "INPUTS_PENDING":
                    raise
                counts = client.inputs.counts()
        progress.update(task, completed=total)


def print_failed(report: ImportReport) -> None:
    """Shows which files an import refused, and why."""
    for path, error in report.failed[:SHOWN_FAILURES]:
        errors.print(f"[red]failed[/] {safe(str(path))}: {safe(str(error))}", soft_wrap=True)
    if len(report.failed) > SHOWN_FAILURES:
        errors.print(f"… and {len(report.failed) - SHOWN_FAILURES} more")


def _print_report(report: ImportReport, *, as_json: bool) -> None:
    if as_json:
        failed = [{"file": str(path), "reason": error.reason, "message": str(error)} for path, error in report.failed]
        print_json({
            "created": report.created, "duplicates": report.duplicates, "skipped": report.skipped, "failed": failed,
        })  # fmt: skip
        return
    print_failed(report)
    parts = [f"[bold]{report.created}[/] new"]
    parts += [f"{report.duplicates} the app had already"] if report.duplicates else []
    parts += [f"{report.skipped} brought in before (--again sends them again)"] if report.skipped else []
    parts += [f"[red]{len(report.failed)} failed[/]"] if report.failed else []
    console.print("pictures: " + ", ".join(parts))


@inputs.command("counts")
def count_inputs(context: typer.Context, as_json: Json = False) -> None:
    """Count inputs by status."""
    with context.obj.client() as client:
        counts = client.inputs.counts()
    if as_json:
        print_json(counts)
        return
    print_table("", ["#pending", "#ready", "#failed"], [(counts.pending, counts.ready, counts.failed)])


@inputs.command("list")
def list_inputs(
    context: typer.Context,
    status: Annotated[InputStatus | None, typer.Option(help="Only those of this status.")] = None,
    concept: Annotated[str, typer.Option(help="Only those annotated with this concept.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 50,
    as_json: Json = False,
) -> None:
    """List inputs, newest first."""
    found = []
    with context.obj.client() as client:
        for item in client.inputs.list(status=status, concept=concept):
            found.append(item)
            if len(found) == limit:
                break
    if as_json:
        print_json(found)
        return
    rows = [
        (
            item.id,
            item.metadata.get(FILE, ""),
            item.status,
            f"{item.width}×{item.height}",
            _said(item.annotations),
            item.error or "",
        )
        for item in found
    ]
    columns = ["!input", "file", "status", "#size", "annotations", "error"]
    print_table("", columns, rows, empty="there are no such inputs")


@inputs.command("show")
def show_input(
    context: typer.Context,
    input_id: Annotated[str, typer.Argument(help="Own id or uid.")],
    as_json: Json = False,
) -> None:
    """Show one input, its annotations and what the public model General saw in it."""
    with context.obj.client() as client:
        item = client.inputs.get(input_id)
    if as_json:
        print_json(item)
        return
    facts = [
        ("input", item.id),
        ("uid", item.uid),
        ("file", item.metadata.get(FILE, "")),
        ("status", item.status),
        ("error", item.error or ""),
        ("picture", f"{item.width}×{item.height}, {item.mime_type}, {item.size_bytes} bytes"),
        ("annotations", _said(item.annotations)),
        ("test", "kept out of training" if item.test else ""),
    ]
    print_table("", ["", ""], [(name, value) for name, value in facts if value])
    seen = [(one.display_name, one.concept, one.value) for one in most_special(item.general_concepts, 0)]
    if seen:
        print_table(f"seen by {item.general_version}", ["name", "!concept", "#score"], seen)


@inputs.command("delete")
def delete_inputs(
    context: typer.Context, ids: Annotated[list[str], typer.Argument(help="Own ids or uids.")], yes: Yes = False
) -> None:
    """Delete inputs."""
    confirm(f"Delete {len(ids)} inputs?", yes=yes)
    with context.obj.client() as client:
        failures = client.inputs.delete(ids)
    _print_failures(ids, failures, "deleted")


@concepts.command("list")
def list_concepts(
    context: typer.Context,
    contains: Annotated[str, typer.Option(help="Only those that contain this text.")] = "",
    as_json: Json = False,
) -> None:
    """List concepts with how many inputs carry each."""
    with context.obj.client() as client:
        found = list(client.concepts.list(contains))
    if as_json:
        print_json(found)
        return
    rows = [(c.id, c.display_name, c.positive_count, c.negative_count, c.number_count) for c in found]
    columns = ["concept", "name", "#positive", "#negative", "#numbers"]
    print_table("", columns, rows, empty="there are no such concepts")


@concepts.command("create")
def create_concepts(context: typer.Context, ids: Annotated[list[str], typer.Argument(help="Own ids.")]) -> None:
    """Create concepts; those that exist stay as they are."""
    with context.obj.client() as client:
        created = client.concepts.create(ids)
    console.print(f"{len(created)} concepts: " + safe(", ".join(concept.id for concept in created)))


@concepts.command("delete")
def delete_concepts(
    context: typer.Context, ids: Annotated[list[str], typer.Argument(help="Own ids.")], yes: Yes = False
) -> None:
    """Delete concepts with their annotations."""
    confirm(f"Delete {len(ids)} concepts with their annotations?", yes=yes)
    with context.obj.client() as client:
        failures = client.concepts.delete(ids)
    _print_failures(ids, failures, "deleted")


def annotate(
    context: typer.Context,
    input_id: Annotated[str, typer.Argument(help="Own id or uid of the input.")],
    said: Annotated[list[str], typer.Argument(help="`dog` positive, `!dog` negative, `size=3.5` a number.")],
    remove: Annotated[bool, typer.Option(help="Remove what is said about these concepts instead.")] = False,
) -> None:
    """Say what an input shows."""
    with context.obj.client() as client:
        if remove:
            failures = client.annotations.remove({input_id: [text.lstrip("!") for text in said]})
        else:
            failures = client.annotations.merge({input_id: [_annotation(text) for text in said]})
    _print_failures([input_id], [failures.get(input_id)], "annotated")


def _annotation(text: str) -> Annotation:
    concept, separator, number = text.partition("=")
    if not separator:
        return Annotation(text.removeprefix("!"), positive=not text.startswith("!"))
    try:
        return Annotation(concept, number=float(number))
    except ValueError as error:
        raise InvalidInputError("USAGE", f"{number!r} in {text!r} is not a number") from error


def _said(annotations: Sequence[Annotation]) -> str:
    return ", ".join(
        f"{a.concept}={a.number:g}" if a.number is not None else a.concept if a.positive else f"!{a.concept}"
        for a in annotations
    )


def _print_failures(ids: Sequence[str], failures: Sequence[LensmithError | None], done: str) -> None:
    failed = [(name, error) for name, error in zip(ids, failures, strict=True) if error]
    for name, error in failed:
        errors.print(f"[red]failed[/] {safe(name)}: {safe(str(error))}", soft_wrap=True)
    console.print(f"{done} {len(ids) - len(failed)}")
    if failed:
        raise typer.Exit(1)
