"""Commands about models and their versions."""

from contextlib import suppress
from typing import Annotated

import typer

from lensmith import Client
from lensmith.cli.figures import print_evaluation
from lensmith.cli.options import Json, Yes, confirm
from lensmith.cli.output import (
    console,
    counted,
    print_findings,
    print_indented,
    print_json,
    print_table,
    safe,
    summary_text,
)
from lensmith.cli.progress import fraction_progress, learning_progress
from lensmith.cli.session import Session
from lensmith.cli.training_options import (
    BestF1,
    MaxEpochs,
    MinPrecision,
    MinRecall,
    Mode,
    TestOn,
    Tier,
    answers_by,
    described,
)
from lensmith.errors import ForbiddenError, InvalidInputError, LensmithError, NotFoundError, PreconditionError
from lensmith.types import Evaluation, Model, ModelType, ModelVersion, TrainingMode, TrainingSettings, VersionState

models = typer.Typer(help="Models and their versions.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(help="Own id of the model.")]
VersionArgument = Annotated[int, typer.Argument(min=1, help="Number of the version.")]
PLAIN = "plain"
"""The base model that ships with the platform and has learnt nothing."""
STATE_STYLE = {VersionState.READY: "green", VersionState.FAILED: "red", VersionState.CANCELLED: "yellow"}


def add_to(app: typer.Typer) -> None:
    """Adds these commands."""
    app.command()(train)
    app.command()(watch)
    app.add_typer(models, name="models")


@models.command("create")
def create_model(
    context: typer.Context,
    model: ModelArgument,
    type: Annotated[ModelType, typer.Option(help="What it answers.")],
    concept: Annotated[list[str] | None, typer.Option(help="Concept to learn; all of the app by default.")] = None,
    closed: Annotated[bool, typer.Option(help="Multi-label: what is not annotated counts as negative.")] = False,
    min_value: Annotated[float | None, typer.Option(help="Regression: smallest number to answer.")] = None,
    max_value: Annotated[float | None, typer.Option(help="Regression: largest number to answer.")] = None,
    retrain_after: Annotated[
        int, typer.Option(min=0, help="Train by itself after so many new annotations; 0: never.")
    ] = 0,
) -> None:
    """Create a model."""
    with context.obj.client() as client:
        client.models.create(
            model,
            type,
            concepts=concept or (),
            closed_environment=closed,
            min_value=min_value,
            max_value=max_value,
            retrain_after_annotations=retrain_after,
        )
    console.print(f"created model [bold]{safe(model)}[/]")


@models.command("list")
def list_models(
    context: typer.Context,
    public: Annotated[bool, typer.Option(help="The public ones instead of the app's.")] = False,
    as_json: Json = False,
) -> None:
    """List models."""
    with context.obj.client() as client:
        found = list(client.models.list(public=public))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"main/{m.id}" if public else m.id,
            m.type,
            len(m.concepts) or "all",
            m.production_version or None,
            m.latest_version,
        )
        for m in found
    ]
    print_table("", ["model", "type", "#concepts", "#production", "#latest"], rows, empty="there are no models yet")
    for m in found:
        if m.retrain_after_annotations:
            console.print(f"{safe(m.id)} is trained after {counted(m.retrain_after_annotations, 'new annotation')}")
        if m.retrain_error:
            console.print(f"{safe(m.id)} could not be trained by itself: {safe(str(m.retrain_error))}", style="yellow")


@models.command("versions")
def list_versions(context: typer.Context, model: ModelArgument, as_json: Json = False) -> None:
    """List the versions of a model, newest first."""
    with context.obj.client() as client:
        found = list(client.models.list_versions(model))
    if as_json:
        print_json(found)
        return
    rows = [
        (
            v.number,
            v.state,
            "yes" if v.production else "",
            v.input_count,
            summary_text(v.summary),
            answers_by(v),
            v.created_at,
            v.note,
        )
        for v in found
    ]
    columns = ["#version", "state", "production", "#pictures", "held out", "answers by", "made", "note"]
    print_table("", columns, rows, empty="it has no versions yet: `lensmith train` makes one")


@models.command("configure")
def configure(
    context: typer.Context,
    model: ModelArgument,
    tier: Tier = None,
    best_f1: BestF1 = False,
    min_precision: MinPrecision = None,
    min_recall: MinRecall = None,
    test_on: TestOn = None,
    mode: Mode = None,
    max_epochs: MaxEpochs = None,
) -> None:
    """Say how the next versions are trained; what is left out is as the platform says."""
    settings = TrainingSettings(tier, best_f1, min_precision, min_recall, test_on, mode, max_epochs)
    with context.obj.client() as client:
        client.models.set_training(model, settings)
    how = "as the platform does: nothing is chosen any more" if settings == TrainingSettings() else "so"
    console.print(f"from now on [bold]{safe(model)}[/] is trained {how}")


@models.command("promote")
def promote(context: typer.Context, model: ModelArgument, version: VersionArgument) -> None:
    """Put a version into production and keep it there."""
    with context.obj.client() as client:
        client.models.promote(model, version)
    console.print(f"version {version} of [bold]{safe(model)}[/] answers from now on, also when newer ones are trained")


@models.command("unpin")
def unpin(context: typer.Context, model: ModelArgument) -> None:
    """Let production follow the newest success again."""
    with context.obj.client() as client:
        number = client.models.unpin(model).production_version
    answers = f"version {number} of [bold]{safe(model)}[/] answers" if number else "no version answers yet"
    console.print(f"{answers}, until a newer one is ready")


@models.command("cancel")
def cancel(context: typer.Context, model: ModelArgument, version: VersionArgument) -> None:
    """Stop a version that is not ready yet."""
    with context.obj.client() as client:
        stopped = client.models.cancel(model, version)
    console.print(f"version {version} of [bold]{safe(model)}[/] is {stopped.state}")


@models.command("delete")
def delete_model(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version.")] = None,
    yes: Yes = False,
) -> None:
    """Delete a model with all its versions, or one version."""
    what = f"version {version} of {model}" if version else f"model {model} with all its versions"
    confirm(f"Delete {what}?", yes=yes)
    with context.obj.client() as client:
        if version:
            client.models.delete_version(model, version)
        else:
            client.models.delete(model)
    console.print(f"deleted {safe(what)}")


def train(
    context: typer.Context,
    model: ModelArgument,
    type: Annotated[
        ModelType | None, typer.Option(help="What it answers; makes the model where there is none.")
    ] = None,
    concept: Annotated[list[str] | None, typer.Option(help="Concept to learn; all of the app by default.")] = None,
    closed: Annotated[bool, typer.Option(help="Multi-label: what is not annotated counts as negative.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until it is done.")] = False,
    note: Annotated[str, typer.Option(help="Note to keep with the version.")] = "",
    tier: Tier = None,
    best_f1: BestF1 = False,
    min_precision: MinPrecision = None,
    min_recall: MinRecall = None,
    test_on: TestOn = None,
    mode: Mode = None,
    max_epochs: MaxEpochs = None,
    as_json: Json = False,
) -> None:
    """Train a new version of a model on everything annotated so far."""
    session: Session = context.obj
    settings = TrainingSettings(tier, best_f1, min_precision, min_recall, test_on, mode, max_epochs)
    with session.client() as client:
        before, changed = ensure_model(client, model, type, concept or [], closed=closed)
        try:
            version = client.models.train(model, note=note, training=settings)
        except (PreconditionError, InvalidInputError, ForbiddenError):
            # What was refused changes nothing, or a misspelt concept would stand in the way of every training after.
            undo(client, model, before, changed)
            raise
        if watch:
            version = follow(client, model, version)
        elif not as_json:
            console.print(f"version {version.number} of [bold]{safe(model)}[/] is {version.state}")
            print_findings(version.findings)
        evaluation = client.models.evaluation(model, version.number) if version.state is VersionState.READY else None
    _finish(version, evaluation, as_json=as_json)


def ensure_model(
    client: Client, model: str, kind: ModelType | None, concepts: list[str], *, closed: bool = False
) -> tuple[Model | None, Model]:
    """Makes the model where there is none; changes which concepts it learns where it is there.

    Returns:
        The model as it was, None where there was none; and as it is.

    Raises:
        InvalidInputError: `MODEL_TYPE_MISSING`, or `MODEL_TYPE_OTHER`: it exists and is of another type.
    """
    try:
        found = client.models.get(model)
    except NotFoundError as error:
        if error.reason != "MODEL_NOT_FOUND":
            raise
        if kind is None:
            raise InvalidInputError(
                "MODEL_TYPE_MISSING",
                f"there is no model {model} yet: say what it shall answer with --type {' | '.join(ModelType)}",
            ) from error
        if kind is ModelType.REGRESSION and len(concepts) != 1:
            raise InvalidInputError(
                "USAGE", "a regression learns the numbers of one concept: say which with --concept"
            ) from error
        return None, client.models.create(model, kind, concepts=concepts, closed_environment=closed)
    if kind and found.type is not kind:
        raise InvalidInputError("MODEL_TYPE_OTHER", f"model {model} is {found.type}; a type cannot be changed")
    changed = found
    if concepts and tuple(concepts) != found.concepts:
        changed = client.models.set_concepts(model, concepts)
    if closed and not found.closed_environment:
        changed = client.models.set_closed_environment(model, closed)
    return found, changed


def undo(client: Client, model: str, before: Model | None, changed: Model) -> None:
    """Makes a model what it was before `ensure_model`."""
    if before is None:
        # By its etag: what somebody else trained or changed meanwhile stays. A key that may not delete leaves it, too.
        with suppress(LensmithError):
            client.models.delete(model, etag=changed.etag)
        return
    if changed.concepts != before.concepts:
        client.models.set_concepts(model, before.concepts)
    if changed.closed_environment != before.closed_environment:
        client.models.set_closed_environment(model, before.closed_environment)


def follow(client: Client, model: str, version: ModelVersion) -> ModelVersion:
    """Shows how training goes until it is done, epoch by epoch where a network learns; returns its last state."""
    fine_tunes = version.training.mode is TrainingMode.FINE_TUNE
    with learning_progress() if fine_tunes else fraction_progress() as progress:
        task = progress.add_task(f"training {model} version {version.number}", total=1.0, doing="queued")
        told = ""
        try:
            for current in client.models.watch(model, version.number):
                version = current
                doing = version.progress or version.stage or version.state
                if version.stage == "fine_tuning" and version.progress != told:
                    told = version.progress
                    progress.console.print(f"  [dim]{safe(told)}[/]")
                if version.stage == "fine_tuning":
                    doing = "fine-tuning"
                progress.update(task, completed=1.0 if version.state.final else version.fraction, doing=doing)
        except KeyboardInterrupt:
            progress.console.print(
                f"interrupted: the training goes on; `lensmith watch {safe(model)}` follows it, "
                f"`lensmith models cancel {safe(model)} {version.number}` stops it",
                soft_wrap=True,
            )
            raise
    return version


def watch(
    context: typer.Context,
    model: ModelArgument,
    version: Annotated[int | None, typer.Option(min=1, help="The newest by default.")] = None,
    as_json: Json = False,
) -> None:
    """Follow a training until it is done."""
    with context.obj.client() as client:
        number = version or client.models.get(model).latest_version
        if not number:
            raise InvalidInputError("MODEL_HAS_NO_TRAINED_VERSION", f"model {model} has no version yet")
        done = follow(client, model, client.models.get_version(model, number))
        evaluation = client.models.evaluation(model, number) if done.state is VersionState.READY else None
    _finish(done, evaluation, as_json=as_json)


def _finish(version: ModelVersion, evaluation: Evaluation | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"version": version, "evaluation": evaluation})
    elif version.state.final:
        print_version(version, evaluation)
    if version.state is VersionState.FAILED:
        raise typer.Exit(1)


def print_version(version: ModelVersion, evaluation: Evaluation | None) -> None:
    """Shows how a training ended."""
    state = f"[{STATE_STYLE.get(version.state, 'bold')}]{version.state}[/]"
    took = ""
    if version.started_at and version.ended_at:
        took = f" after {(version.ended_at - version.started_at).total_seconds():.1f} s"
    verb = "" if version.state is VersionState.FAILED else "is "
    ready = version.state is VersionState.READY
    trained = f", trained on {counted(version.input_count, 'picture')}" if ready else ""
    console.print(f"version {version.number} {verb}{state}{took}{trained}")
    if version.error:
        print_indented(str(version.error), style="red")
    if ready and (how := described(version.training, version.tier)):
        console.print(f"  {how}")
    if version.network_space:
        console.print(f"  {answers_by(version)}, the space {version.network_space}")
    if version.base_model == PLAIN:
        console.print("  hint: `plain` has learnt nothing; `lensmith base-models import` installs a network that has")
    print_findings(version.findings)
    if evaluation:
        print_evaluation(evaluation)
