"""Commands about how good versions are: figures, thresholds, comparisons, and what more images would bring."""

from itertools import islice
from typing import Annotated

import typer

from lensmith.cli.figures import (
    print_changed_inputs,
    print_comparison,
    print_evaluated_inputs,
    print_evaluation,
    print_learning_curve,
)
from lensmith.cli.models import ModelArgument, models
from lensmith.cli.options import Json
from lensmith.cli.output import console, print_json, safe
from lensmith.cli.pictures import file_of
from lensmith.cli.progress import waiting
from lensmith.cli.training_options import BestF1, MinPrecision, MinRecall
from lensmith.cli.versions import in_production
from lensmith.errors import InvalidInputError

Version = Annotated[int | None, typer.Option(min=1, help="The one in production by default.")]
Threshold = Annotated[
    list[str] | None,
    typer.Option(help="From which score on a concept counts as there: 0.7 for all, or glass=0.7; can be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command()(evaluate)
    app.command()(compare)
    app.command("learning-curve")(learning_curve)


def evaluate(
    context: typer.Context,
    model: ModelArgument,
    version: Version = None,
    threshold: Threshold = None,
    best_f1: BestF1 = False,
    min_precision: MinPrecision = None,
    min_recall: MinRecall = None,
    wrong: Annotated[int, typer.Option(min=0, help="Also list so many pictures that were answered wrongly.")] = 0,
    curves: Annotated[
        bool, typer.Option("--curves", help="With --json: also the precision-recall and ROC curves.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how good a version is on pictures that it was not fitted on, also as it would be at other thresholds."""
    if curves and not as_json:
        raise InvalidInputError("USAGE", "--curves needs --json: curves are for programs to draw")
    with context.obj.client() as client:
        number = in_production(client, model, version)
        evaluation = client.evaluations.get(
            model,
            number,
            thresholds=_thresholds(threshold),
            min_precision=min_precision,
            min_recall=min_recall,
            best_f1=best_f1,
        )
        inputs = list(islice(client.evaluations.inputs(model, number, wrong_only=True), wrong)) if wrong else []
        files = {} if as_json else {one.input: file_of(client, one.input) for one in inputs}
        drawn = {"curves": client.evaluations.curves(model, number)} if curves else {}
    if as_json:
        listed = {"wrong": inputs} if wrong else {}
        print_json({"evaluation": evaluation, **listed, **drawn} if wrong or curves else evaluation)
        return
    print_evaluation(evaluation)
    if wrong:
        print_evaluated_inputs(inputs, files)


def compare(
    context: typer.Context,
    model: ModelArgument,
    first: Annotated[int, typer.Argument(min=1, help="Number of a version.")],
    other: Annotated[int, typer.Argument(min=1, help="Number of the version to compare with it.")],
    changed: Annotated[int, typer.Option(min=0, help="Also list so many pictures that changed.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare two versions on the pictures that both were tested on."""
    with context.obj.client() as client:
        compared = client.evaluations.compare(model, first, other)
        inputs = list(islice(client.evaluations.changed_inputs(model, first, other), changed)) if changed else []
        files = {} if as_json else {one.other.input: file_of(client, one.other.input) for one in inputs}
    if as_json:
        print_json({"comparison": compared, "changed": inputs} if changed else compared)
        return
    print_comparison(compared)
    if inputs:
        print_changed_inputs(inputs, files)


def learning_curve(
    context: typer.Context,
    model: ModelArgument,
    version: Version = None,
    again: Annotated[bool, typer.Option("--again", help="Compute it anew, from the data as it is now.")] = False,
    as_json: Json = False,
) -> None:
    """Find out what more pictures would bring."""
    with context.obj.client() as client:
        number = in_production(client, model, version)
        if again:
            client.evaluations.compute_learning_curve(model, number)
        with waiting("training on parts of the pictures"):
            curve = client.evaluations.wait_learning_curve(model, number)
    if as_json:
        print_json(curve)
    else:
        print_learning_curve(curve)
    if curve.error is not None:
        raise typer.Exit(1)


@models.command("thresholds")
def set_thresholds(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    threshold: Threshold = None,
    best_f1: BestF1 = False,
    min_precision: MinPrecision = None,
    min_recall: MinRecall = None,
    as_json: Json = False,
) -> None:
    """Change from which score on a version's concepts count as there; nothing is trained for that."""
    with context.obj.client() as client:
        changed = client.evaluations.set_thresholds(
            model,
            version,
            _thresholds(threshold),
            min_precision=min_precision,
            min_recall=min_recall,
            best_f1=best_f1,
        )
    if as_json:
        print_json(changed)
        return
    shown = ", ".join(f"{name} {value:.3f}" for name, value in zip(changed.concepts, changed.thresholds, strict=True))
    console.print(f"thresholds of version {version}: {safe(shown)}")


@models.command("note")
def set_note(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    note: Annotated[str, typer.Argument(help="What to remember about it.")],
) -> None:
    """Change the note of a version."""
    with context.obj.client() as client:
        client.evaluations.set_note(model, version, note)
    console.print(f"version {version} of [bold]{safe(model)}[/]: {safe(note)}")


def _thresholds(given: list[str] | None) -> float | dict[str, float] | None:
    """Read `0.7`, or `glass=0.7` several times.

    Raises:
        InvalidInputError: `USAGE`.
    """
    if not given:
        return None
    named = [text.rpartition("=") for text in given]
    try:
        values = {concept: float(value) for concept, _, value in named}
    except ValueError as error:
        raise InvalidInputError(
            "USAGE", "a threshold is a number such as 0.7, or a concept and one: glass=0.7"
        ) from error
    if "" in values and len(given) > 1:
        raise InvalidInputError("USAGE", "give one threshold for all concepts, or name the concept of each: glass=0.7")
    return values.get("", values)
