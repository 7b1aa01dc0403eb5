"""Training settings to messages and back."""

from lensmith import types
from lensmith.errors import InvalidInputError
from lensmith_api.v1 import training_settings_pb2 as pb

TIER = {
    pb.HEAD_TIER_AUTO: types.HeadTier.AUTO,
    pb.HEAD_TIER_LINEAR: types.HeadTier.LINEAR,
    pb.HEAD_TIER_KERNEL: types.HeadTier.KERNEL,
}
TIER_TO_PROTO = {tier: number for number, tier in TIER.items()}
EVALUATION = {
    pb.EVALUATION_METHOD_OUT_OF_FOLD: types.EvaluationMethod.OUT_OF_FOLD,
    pb.EVALUATION_METHOD_TEST_SET: types.EvaluationMethod.TEST_SET,
    pb.EVALUATION_METHOD_SPLIT: types.EvaluationMethod.SPLIT,
}
EVALUATION_TO_PROTO = {method: number for number, method in EVALUATION.items()}
MODE = {
    pb.TRAINING_MODE_HEAD: types.TrainingMode.HEAD,
    pb.TRAINING_MODE_FINE_TUNE: types.TrainingMode.FINE_TUNE,
}
MODE_TO_PROTO = {mode: number for number, mode in MODE.items()}


def to_proto(value: types.TrainingSettings | None) -> pb.TrainingSettings | None:
    """Settings as they are sent.

    Raises:
        InvalidInputError: `TRAINING_SETTINGS_INVALID`: they name several aims for the thresholds.
    """
    if value is None:
        return None
    message = pb.TrainingSettings(
        tier=TIER_TO_PROTO[value.tier] if value.tier else pb.HEAD_TIER_UNSPECIFIED,
        evaluation=EVALUATION_TO_PROTO[value.evaluation] if value.evaluation else pb.EVALUATION_METHOD_UNSPECIFIED,
        mode=MODE_TO_PROTO[value.mode] if value.mode else pb.TRAINING_MODE_UNSPECIFIED,
        max_epochs=value.max_epochs or 0,
    )
    named = []
    if value.best_f1:
        named.append("best_f1")
        message.thresholds.best_f1 = True
    if value.min_precision is not None:
        named.append("min_precision")
        message.thresholds.min_precision = value.min_precision
    if value.min_recall is not None:
        named.append("min_recall")
        message.thresholds.min_recall = value.min_recall
    if len(named) > 1:
        raise InvalidInputError("TRAINING_SETTINGS_INVALID", f"give one of {', '.join(named)}, not several")
    return message


def from_proto(message: pb.TrainingSettings) -> types.TrainingSettings:
    """Settings."""
    aim = message.thresholds
    return types.TrainingSettings(
        tier=TIER.get(message.tier),
        best_f1=aim.best_f1,
        min_precision=aim.min_precision if aim.HasField("min_precision") else None,
        min_recall=aim.min_recall if aim.HasField("min_recall") else None,
        evaluation=EVALUATION.get(message.evaluation),
        mode=MODE.get(message.mode),
        max_epochs=message.max_epochs or None,
    )
