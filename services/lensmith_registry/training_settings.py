"""Settings of training: what may be asked for, and what a version is trained with when nothing was said."""

from __future__ import annotations

from lensmith_api.v1.training_settings_pb2 import (
    EvaluationMethod,
    HeadTier,
    ThresholdAim,
    TrainingMode,
    TrainingSettings,
)
from lensmith_platform.errors import InvalidInputError

__all__ = ["check", "check_together", "fine_tunes", "resolve"]


def check(settings: TrainingSettings, kind: str, field: str) -> None:
    """Refuse settings that a model of a type cannot be trained with.

    Args:
        settings: What was asked for.
        kind: Type of the model.
        field: Where they stand in the request.

    Raises:
        InvalidInputError: `TRAINING_SETTINGS_INVALID`; the violation names the field.
    """
    if settings.tier not in HeadTier.values():
        raise _invalid(f"{field}.tier", f"must be one of {', '.join(HeadTier.keys()[1:])}")
    if settings.tier == HeadTier.HEAD_TIER_KERNEL and kind != "multi_class":
        raise _invalid(f"{field}.tier", "HEAD_TIER_KERNEL is for multi-class models only")
    if settings.evaluation not in EvaluationMethod.values():
        raise _invalid(f"{field}.evaluation", f"must be one of {', '.join(EvaluationMethod.keys()[1:])}")
    _check_mode(settings, field)
    aim = settings.thresholds.WhichOneof("aim")
    if aim is None:
        return
    if kind == "regression":
        raise _invalid(f"{field}.thresholds", "a regression model has no thresholds")
    if aim == "best_f1":
        if not settings.thresholds.best_f1:
            raise _invalid(f"{field}.thresholds.best_f1", "must be true where it is given; name another aim instead")
        return
    part = float(getattr(settings.thresholds, aim))
    # Not a number fails every comparison, so it is refused too.
    if not 0 < part <= 1:
        raise _invalid(f"{field}.thresholds.{aim}", "must be above 0 and at most 1")


def check_together(settings: TrainingSettings, field: str) -> None:
    """Refuse resolved settings of which one part cannot be had with another, whether model or call named it.

    Args:
        settings: As `resolve` put them together.
        field: Where they stand in the request.

    Raises:
        InvalidInputError: `TRAINING_SETTINGS_INVALID`; the violation names the field.
    """
    if settings.max_epochs and not fine_tunes(settings):
        raise _invalid(f"{field}.max_epochs", "is for fine-tuning only")


def _check_mode(settings: TrainingSettings, field: str) -> None:
    if settings.mode not in TrainingMode.values():
        raise _invalid(f"{field}.mode", f"must be one of {', '.join(TrainingMode.keys()[1:])}")
    if settings.max_epochs and settings.mode == TrainingMode.TRAINING_MODE_HEAD:
        raise _invalid(f"{field}.max_epochs", "is for fine-tuning only")


def resolve(of_model: TrainingSettings, of_call: TrainingSettings, kind: str) -> TrainingSettings:
    """Put the settings of a call, of a model and of the platform together, in this order of weight."""
    settings = TrainingSettings(
        tier=HeadTier.HEAD_TIER_AUTO,
        evaluation=EvaluationMethod.EVALUATION_METHOD_OUT_OF_FOLD,
        mode=TrainingMode.TRAINING_MODE_HEAD,
    )
    if kind != "regression":
        settings.thresholds.CopyFrom(ThresholdAim(best_f1=True))
    settings.MergeFrom(of_model)
    settings.MergeFrom(of_call)
    if of_call.mode == TrainingMode.TRAINING_MODE_HEAD:
        # A head for once, of a model that is fine-tuned otherwise.
        settings.ClearField("max_epochs")
    return settings


def fine_tunes(settings: TrainingSettings) -> bool:
    """Tell whether the whole network is to learn."""
    return settings.mode == TrainingMode.TRAINING_MODE_FINE_TUNE


def _invalid(field: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        "TRAINING_SETTINGS_INVALID", f"{field} {why}", field_violations=[(field, why)], metadata={"field": field}
    )
