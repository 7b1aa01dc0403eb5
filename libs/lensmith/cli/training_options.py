"""Options that say how a model is trained."""

from typing import Annotated

import typer

from lensmith.types import EvaluationMethod, HeadTier, ModelVersion, TrainingMode, TrainingSettings, VersionState

Tier = Annotated[
    HeadTier | None,
    typer.Option(
        help="Kind of head: linear costs kilobytes, kernel megabytes; auto takes kernel where it wins a point."
    ),
]
BestF1 = Annotated[bool, typer.Option("--best-f1", help="Choose thresholds for the best F1 score, the default.")]
MinPrecision = Annotated[
    float | None, typer.Option(help="Choose thresholds so that this part (0 to 1) of what is marked is right.")
]
MinRecall = Annotated[
    float | None, typer.Option(help="Choose thresholds so that this part (0 to 1) of what is there is marked.")
]
TestOn = Annotated[
    EvaluationMethod | None,
    typer.Option(help="Test on every picture out of its fold, on those marked test, or on one fifth."),
]
Mode = Annotated[TrainingMode | None, typer.Option(help="Train a head (seconds) or the whole network (minutes).")]
MaxEpochs = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Most passes over the pictures while fine-tuning.")
]


def described(settings: TrainingSettings, tier: HeadTier | None) -> str:
    """How a version was trained, in a few words."""
    aim = "thresholds for the best F1"
    if settings.min_precision is not None:
        aim = f"thresholds for a precision of {settings.min_precision:g}"
    elif settings.min_recall is not None:
        aim = f"thresholds for a recall of {settings.min_recall:g}"
    elif not settings.best_f1:
        aim = ""
    kind = f"{tier} head" if tier else ""
    return ", ".join(part for part in (kind, aim) if part)


def answers_by(version: ModelVersion) -> str:
    """What a version looks at pictures with, in a few words: the base model of the app, or a network of its own."""
    if version.network_space:
        return f"its own network, {version.network_size_bytes / 1e6:.1f} MB"
    return version.base_model if version.state is VersionState.READY else ""
