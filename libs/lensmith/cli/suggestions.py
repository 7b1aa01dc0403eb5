"""`lensmith fix`: what to fix in the data of a model, and what to label next."""

from collections.abc import Sequence
from typing import Annotated

import typer

from lensmith import Client
from lensmith.cli.options import Json
from lensmith.cli.output import console, counted, print_json, print_table, safe
from lensmith.cli.pictures import file_of
from lensmith.cli.progress import waiting
from lensmith.errors import InvalidInputError
from lensmith.suggestion_types import (
    DecidedSuggestion,
    Suggestion,
    SuggestionAction,
    SuggestionKind,
    SuggestionState,
)

TITLES = {
    SuggestionKind.WRONG_LABEL: "Labels that may be wrong",
    SuggestionKind.CONFUSED_CONCEPTS: "Concepts that are taken for each other",
    SuggestionKind.FEW_IMAGES: "Concepts with too few pictures",
    SuggestionKind.DUPLICATE: "Copies that contradict each other, or are tested on",
    SuggestionKind.OUTLIER: "Pictures unlike all others of their concept",
    SuggestionKind.LABEL_NEXT: "Pictures to label next",
}
SHOWN = 20
SHOWN_OTHERS = 3
MOST_NUMBERS = 10_000
WAIT_SECONDS = 60.0


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("fix")(fix)


def fix(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Own id of the model.")],
    version: Annotated[int, typer.Option(help="Version; the newest one that is ready by default.")] = 0,
    kind: Annotated[SuggestionKind | None, typer.Option(help="Only this kind.")] = None,
    concept: Annotated[str, typer.Option(help="Only what is about this concept.")] = "",
    accept: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Do what these suggest, such as `1,2,5-9`; see --remove, --dismiss.")
    ] = "",
    accept_all: Annotated[
        bool,
        typer.Option(
            "--accept-all",
            help="The same for all open ones of --kind; of wrong labels for those that need no look, where the less "
            "sure ones are taken away, not replaced.",
        ),
    ] = False,
    min_score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --accept-all: only those so sure, and all of them as asked."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the labels in doubt away instead.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Say that all is right as it is instead.")] = False,
    merge_into: Annotated[
        str, typer.Option(metavar="CONCEPT", help="With --accept of two confused concepts: make them this one instead.")
    ] = "",
    every: Annotated[bool, typer.Option("--every", help="Show all of them, decided ones too.")] = False,
    as_json: Json = False,
) -> None:
    """Show what to fix in the data of a model and which pictures to label next; do it in one go.

    The next `lensmith train` learns from what was fixed.
    """
    instead = [remove, dismiss, bool(merge_into)].count(True)
    if (accept and accept_all) or instead > 1 or (instead and not (accept or accept_all)):
        raise InvalidInputError(
            "USAGE", "give --accept or --accept-all, and with it one of --remove, --dismiss, --merge-into or none"
        )
    if merge_into and (accept_all or len(_numbers(accept)) != 1):
        raise InvalidInputError("USAGE", "--merge-into needs --accept with the number of one suggestion")
    if accept_all and kind is None:
        raise InvalidInputError("USAGE", "--accept-all needs --kind: what is fixed at once should be of one kind")
    action = SuggestionAction.REMOVE_LABELS if remove else SuggestionAction.APPLY
    action = SuggestionAction.DISMISS if dismiss else action
    with context.obj.client() as client:
        if merge_into:
            decided = client.suggestions.merge(model, _numbers(accept)[0], merge_into, version)
            _print_decided([decided], as_json=as_json)
        elif accept:
            _print_decided(client.suggestions.accept(model, _numbers(accept), version, action=action), as_json=as_json)
        elif accept_all and kind is not None:
            decided = client.suggestions.accept_all(
                model, kind, version, concept=concept, min_score=min_score, action=action
            )
            _print_decided(decided, as_json=as_json)
        else:
            _show(client, model, version, kind, concept, every=every, as_json=as_json)


def _show(
    client: Client,
    model: str,
    version: int,
    kind: SuggestionKind | None,
    concept: str,
    *,
    every: bool,
    as_json: bool,
) -> None:
    with waiting("looking through the pictures"):
        overview = client.suggestions.wait(model, version, timeout=WAIT_SECONDS)
    state = None if every else SuggestionState.OPEN
    found = list(client.suggestions.list(model, version, kind=kind, concept=concept, state=state))
    if as_json:
        print_json({"pending": overview.pending, "counts": overview.counts, "suggestions": found})
        return
    if overview.pending:
        console.print("the data is still being looked through; ask again in a moment", style="yellow")
        return
    for one in SuggestionKind:
        _print_kind(client, one, [row for row in found if row.kind is one], every=every)
    if found:
        _print_hints(model, found)
    else:
        console.print(f"nothing to fix was found{f' about {safe(concept)}' if concept else ''}", style="green")


def _print_kind(client: Client, kind: SuggestionKind, rows: list[Suggestion], *, every: bool) -> None:
    if not rows:
        return
    shown = rows if every else rows[:SHOWN]
    table: dict[str, list[object]] = {
        "##": [row.number for row in shown],
        "!picture": [row.input for row in shown],
        "what": [f"{file}: {row.message}" if (file := file_of(client, row.input)) else row.message for row in shown],
        "#score": [f"{row.score:.2f}" for row in shown],
        "!see also": ["\n".join(file_of(client, one) or one for one in _others(row)) for row in shown],
        "state": [row.state if every else "" for row in shown],
    }
    # A column of nothing would only push the others together.
    told = {name: cells for name, cells in table.items() if any(cells)}
    print_table(f"{TITLES[kind]} ({kind}, {len(rows)})", list(told), zip(*told.values(), strict=True))
    if len(rows) > len(shown):
        console.print(f"  … and {len(rows) - len(shown)} more: --every", style="dim")
    console.print()


def _others(row: Suggestion) -> list[str]:
    """Some pictures that a suggestion speaks of besides."""
    return [*row.related_inputs, *(asked.input for asked in row.inputs_to_label)][:SHOWN_OTHERS]


def _print_hints(model: str, found: list[Suggestion]) -> None:
    takes = SuggestionAction.APPLY
    first = next((row for row in found if takes in row.actions and row.state is SuggestionState.OPEN), None)
    if first is None:
        return
    name = safe(model)
    if first.kind is SuggestionKind.LABEL_NEXT:
        # All at once, nobody would have looked, and the model would teach itself.
        does, dismisses = "labels the picture with what the model takes it for: look first", "asks for it no more"
    else:
        does, dismisses = "does what a suggestion says", "says that it is right as it is"
    console.print(f"[dim]lensmith fix {name} --accept {first.number}[/]  {does}")
    if first.kind is not SuggestionKind.LABEL_NEXT:
        what = "does all that are sure" if first.kind is SuggestionKind.WRONG_LABEL else "does all of a kind"
        console.print(f"[dim]lensmith fix {name} --kind {first.kind} --accept-all[/]  {what}")
    console.print(f"[dim]lensmith fix {name} --accept {first.number} --dismiss[/]  {dismisses}")


def _print_decided(decided: Sequence[DecidedSuggestion], *, as_json: bool) -> None:
    if as_json:
        print_json(decided)
        return
    done = [one for one in decided if one.error is None]
    removed = sum(1 for one in done if one.action is SuggestionAction.REMOVE_LABELS)
    instead = f", {counted(removed, 'label')} taken away" if removed else ""
    console.print(f"{counted(len(done), 'suggestion')} done{instead}")
    left = [(one.name.rsplit("/", 1)[-1], str(one.error)) for one in decided if one.error is not None]
    if left:
        print_table(f"{counted(len(left), 'suggestion')} left alone", ["##", "why"], left)
    asked = {number for one in done for number in one.label_next}
    if asked:
        console.print(f"[dim]{counted(len(asked), 'picture')} to label for it are on the list: --kind label-next[/]")
    if any(one.action is not SuggestionAction.DISMISS and not one.label_next for one in done):
        console.print("[dim]train again to learn from it[/]")
    if left:
        raise typer.Exit(1)


def _numbers(text: str) -> list[int]:
    """`1,2,5-9` as numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInputError("USAGE", f"{part!r} is no number of a suggestion, nor a range such as 5-9")
        numbers += range(int(first), int(last or first) + 1)
        if len(numbers) > MOST_NUMBERS:
            raise InvalidInputError("USAGE", f"at most {MOST_NUMBERS} suggestions at once; see --accept-all")
    return numbers
