"""Commands that say why a model answers as it does, and take a model away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lensmith import Client
from lensmith.cli.asking import Question, ask
from lensmith.cli.options import Json, check_target
from lensmith.cli.output import console, errors, print_json, print_table, safe
from lensmith.cli.pictures import file_of, label_text
from lensmith.errors import InvalidInputError, NotFoundError
from lensmith.explanation_types import ConceptExplanation, Explanation, Explanations

MAIN = "main/"
PNG = ".png"
_GENERAL = ("general", "main/general")


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command()(explain)
    app.command()(export)


def explain(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Own id of the model. Where the app has none of that name, a public one: general.")
    ],
    image: Annotated[str, typer.Argument(help="A file or a URL.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Draw the heat map over the picture, into this PNG; one for each concept."),
    ] = None,
    version: Annotated[int, typer.Option(min=0, help="Version to ask; the one in production by default.")] = 0,
    concept: Annotated[
        list[str] | None, typer.Option(help="Explain this concept; may be repeated. The likeliest by default.")
    ] = None,
    nearest: Annotated[int, typer.Option(min=0, max=32, help="Name so many training pictures that look like it.")] = 0,
    as_json: Json = False,
) -> None:
    """Show which parts of a picture a model's answer comes from, and what it looked like."""
    if output is not None:
        check_target(output, "the heat map")
        if output.suffix.lower() != PNG:
            named = output.with_suffix(PNG).name
            raise InvalidInputError("USAGE", f"heat maps are drawn as PNG: name the file {named}, not {output.name}")
    with context.obj.client() as client:
        answer = _explain(client, model, image, version, concept or [], overlay=output is not None, nearest=nearest)
        (found,) = answer.items
        files = {} if as_json else {item.id: file_of(client, item.id) for item in found.nearest}
    if as_json:
        print_json(_plain(image, answer))
    elif found.error is None:
        _print(image, answer, found, files)
    if found.error is not None:
        errors.print(f"[red]failed[/] {safe(image)}: {safe(str(found.error))}", soft_wrap=True)
        raise typer.Exit(1)
    if output is not None:
        for one in found.concepts:
            path = output if len(found.concepts) == 1 else _named(output, one)
            path.write_bytes(one.heat_map.overlay)
            if not as_json:
                console.print(f"drew [bold]{safe(str(path))}[/]", soft_wrap=True)


def _explain(
    client: Client, model: str, image: str, version: int, concepts: list[str], *, overlay: bool, nearest: int
) -> Explanations:
    if model in _GENERAL and not concepts:
        # What is certain of everything has no place in the picture; the most special concept does.
        _, (said,) = ask(client, Question(model, version, (), 0.0, 1), [image])
        concepts = [said.best.concept] if said.best else []
    try:
        return client.explain(
            model, [image], version=version, select_concepts=concepts, overlay=overlay, nearest=nearest
        )
    except NotFoundError as error:
        if error.reason != "MODEL_NOT_FOUND" or "/" in model:
            raise
        public = MAIN + model
        return client.explain(
            public, [image], version=version, select_concepts=concepts, overlay=overlay, nearest=nearest
        )


def _print(image: str, answer: Explanations, found: Explanation, files: Mapping[str, str]) -> None:
    rows = []
    for one in found.concepts:
        values, columns = one.heat_map.values, one.heat_map.columns
        row, column = divmod(max(range(len(values)), key=values.__getitem__), columns)
        where = f"row {row + 1} of {one.heat_map.rows}, column {column + 1} of {columns}"
        value = found.number if found.number is not None else one.concept.value
        rows.append((one.concept.display_name or one.concept.concept, value, where))
    print_table(image, ["concept", "#score", "strongest in"], rows)
    if found.nearest:
        near = [
            (files[item.id] or item.id, item.similarity, ", ".join(map(label_text, item.annotations)))
            for item in found.nearest
        ]
        print_table("it looked like these", ["!picture", "#similarity", "annotated"], near)
    if found.nearest_error is not None:
        errors.print(f"[yellow]no training pictures[/]: {safe(str(found.nearest_error))}", soft_wrap=True)
    console.print(f"[dim]{safe(answer.model_version)}, {answer.method}[/]", soft_wrap=True)


def _named(output: Path, one: ConceptExplanation) -> Path:
    """A file for each concept. Own ids may hold what file names must not."""
    concept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in one.concept.concept)
    return output.with_name(f"{output.stem}-{concept}{output.suffix}")


def _plain(image: str, answer: Explanations) -> dict[str, object]:
    """What a program wants to read: everything but the drawings."""
    (found,) = answer.items
    concepts = [
        {
            "concept": one.concept,
            "logit": one.logit,
            "rows": one.heat_map.rows,
            "columns": one.heat_map.columns,
            "values": one.heat_map.values,
            "region": one.heat_map.region,
        }
        for one in found.concepts
    ]
    return {
        "model_version": answer.model_version,
        "method": answer.method,
        "image": image,
        "number": found.number,
        "error": found.error,
        "concepts": concepts,
        "nearest": found.nearest,
        "nearest_error": found.nearest_error,
    }


def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Own id of the model; main/… for a public one.")],
    version: Annotated[int, typer.Option(min=0, help="Version to export; the one in production by default.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The zip file to write; named for the version by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Save a version as an archive that answers without the platform: ONNX, labels, card, example."""
    if output is not None:
        check_target(output, "the archive")
    with context.obj.client() as client:
        saved = client.models.export(model, output, version=version)
    if as_json:
        print_json({"path": str(saved.path), "size_bytes": saved.size_bytes, "sha256": saved.sha256})
        return
    console.print(
        f"saved [bold]{safe(str(saved.path))}[/], {saved.size_bytes / 1e6:.1f} MB; "
        "unpack it and run `python predict.py photo.jpg`",
        soft_wrap=True,
    )
