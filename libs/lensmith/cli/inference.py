"""Commands that ask models."""

import time
from typing import Annotated

import typer

from lensmith.cli.asking import Question, ask
from lensmith.cli.options import Json
from lensmith.cli.output import console, counted, errors, print_json, print_table, safe
from lensmith.types import ConceptScore, Prediction


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command()(predict)
    app.command()(embed)


def predict(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Own id of the model. Where the app has none of that name, a public one: general.")
    ],
    images: Annotated[list[str], typer.Argument(help="Files and URLs.")],
    version: Annotated[int, typer.Option(min=0, help="Version to ask; the one in production by default.")] = 0,
    concept: Annotated[list[str] | None, typer.Option(help="Answer only this concept; may be repeated.")] = None,
    min_value: Annotated[float, typer.Option(min=0, max=1, help="Leave out scores below this.")] = 0.0,
    max_concepts: Annotated[int, typer.Option(min=0, help="Most concepts for a picture; 0 for all.")] = 3,
    as_json: Json = False,
) -> None:
    """Ask a model about pictures."""
    begin = time.perf_counter()
    question = Question(model, version, concept or (), min_value, max_concepts)
    with context.obj.client() as client:
        asked, answers = ask(client, question, images)
    if as_json:
        items = [{"image": image, "prediction": answer} for image, answer in zip(images, answers, strict=True)]
        print_json({"model_version": asked, "predictions": items})
    else:
        print_predictions(images, answers)
        seconds = time.perf_counter() - begin
        below = any(not one.predicted for answer in answers for one in answer.concepts)
        told = "; in brackets: below the threshold of the concept" if below else ""
        took = f"{safe(asked)}, {counted(len(images), 'picture')} in {seconds:.2f} s"
        console.print(f"[dim]{took}{told}[/]", soft_wrap=True)
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


def print_predictions(images: list[str], answers: list[Prediction]) -> None:
    """Shows answers, a line a picture, and then why some failed."""
    both = list(zip(images, answers, strict=True))
    rows = [(image, *_answer(answer), _unfamiliar(answer)) for image, answer in both]
    columns = ["picture", "answer", "#score", "then", ""]
    # A column of nothing would only push the others together.
    most = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    print_table("", columns[:most], [row[:most] for row in rows])
    for image, answer in both:
        if answer.error:
            errors.print(f"[red]failed[/] {safe(image)}: {safe(str(answer.error))}", soft_wrap=True)


def _answer(answer: Prediction) -> tuple[object, object, object]:
    if answer.error:
        return "failed", None, ""
    if answer.number is not None:
        between = ""
        if answer.interval:
            between = (
                f"{answer.interval.low:.2f} to {answer.interval.high:.2f} in {answer.interval.coverage:.0%} of cases"
            )
        return f"{answer.number:.2f}", None, between
    if answer.best is None:
        return "nothing above --min-value", None, ""
    best = answer.best
    then = ", ".join(_marked(item, f" {item.value:.2f}") for item in answer.concepts[1:])
    return _marked(best), best.value, then


def _marked(item: ConceptScore, score: str = "") -> str:
    """What is told of a concept, in brackets where it does not count as there."""
    told = f"{item.display_name or item.concept}{score}"
    return told if item.predicted else f"({told})"


def _unfamiliar(answer: Prediction) -> str:
    """Whether the model may know nothing of what the picture shows."""
    return "unlike its training pictures" if answer.unfamiliar and answer.unfamiliar.predicted else ""


def embed(
    context: typer.Context,
    images: Annotated[list[str], typer.Argument(help="Files and URLs, at most 128.")],
    base_model: Annotated[str, typer.Option(help="Base model; the app's own by default.")] = "",
) -> None:
    """Turn pictures into vectors, as JSON."""
    with context.obj.client() as client:
        answer = client.embed(images, base_model=base_model)
    items = [{"image": image, "embedding": item} for image, item in zip(images, answer.items, strict=True)]
    print_json({"space": answer.space, "embeddings": items})
    if any(item.error for item in answer.items):
        raise typer.Exit(1)
