"""What is told of how a version came about, from messages to values."""

from lensmith import _convert, _evaluations
from lensmith.version_types import ModelCard, ModelVersionInput
from lensmith_api.v1 import model_card_pb2, model_version_input_pb2


def version_input(message: model_version_input_pb2.ModelVersionInput) -> ModelVersionInput:
    """An input that a version was trained on."""
    return ModelVersionInput(
        id=_convert.last_part(message.input),
        uid=message.uid,
        sha256=message.sha256,
        annotations=tuple(_convert.annotation(item) for item in message.annotations),
        fold=message.fold if message.HasField("fold") else None,
    )


def card(message: model_card_pb2.ModelCard) -> ModelCard:
    """A card."""
    return ModelCard(
        name=message.name,
        version=_convert.model_version(message.model_version),
        model=_convert.model(message.model) if message.HasField("model") else None,
        display_names=tuple(message.display_names),
        base_model=_convert.base_model(message.base_model) if message.HasField("base_model") else None,
        evaluation=_evaluations.evaluation(message.evaluation) if message.HasField("evaluation") else None,
        cautions=tuple(message.cautions),
    )
