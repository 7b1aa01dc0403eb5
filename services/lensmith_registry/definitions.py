"""What a model may be: the rules that hold when one is created or changed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.training_settings_pb2 import TrainingSettings
from lensmith_platform.errors import InvalidInputError
from lensmith_registry import training_settings
from lensmith_registry.converters import MODEL_TYPES, json_from_message, message_from_json
from lensmith_registry.store import ModelDefinition
from lensmith_vision.targets import MAX_NUMBER

__all__ = ["MASK_PATHS", "definition_of", "with_changes"]

MASK_PATHS = frozenset(
    {
        "display_name",
        "description",
        "concepts",
        "closed_environment",
        "min_value",
        "max_value",
        "production_version",
        "pinned",
        "training",
        "retrain_after_annotations",
    }
)
"""Fields of a model that an update may name."""

_CONCEPT = re.compile(r"[^/\x00-\x1f\x7f]{1,128}")
_TYPES = {number: name for name, number in MODEL_TYPES.items()}


def definition_of(model_id: str, model: Model) -> ModelDefinition:
    """Take the definition out of a request that creates a model.

    Raises:
        InvalidInputError: It breaks a rule; the violation names the field.
    """
    kind = _TYPES.get(model.type)
    if kind is None:
        raise _invalid("MODEL_TYPE_INVALID", "model.type", f"must be one of {', '.join(sorted(MODEL_TYPES))}")
    definition = ModelDefinition(
        display_name=model.display_name,
        description=model.description,
        type=kind,
        concepts=tuple(model.concepts),
        closed_environment=model.closed_environment,
        negative_concept=f"not-{model_id}" if kind == "multi_label" else "",
        min_value=model.min_value if model.HasField("min_value") else None,
        max_value=model.max_value if model.HasField("max_value") else None,
        training=json_from_message(model.training),
        retrain_after_annotations=model.retrain_after_annotations,
    )
    _check(definition)
    return definition


def with_changes(definition: ModelDefinition, model: Model, paths: Sequence[str]) -> ModelDefinition:
    """Return a definition with the fields that a mask names taken from a request.

    Args:
        definition: As it stands.
        model: The new values.
        paths: The fields, of `MASK_PATHS`.

    Raises:
        InvalidInputError: The result breaks a rule.
    """
    low = model.min_value if model.HasField("min_value") else None
    high = model.max_value if model.HasField("max_value") else None
    changed = replace(
        definition,
        display_name=model.display_name if "display_name" in paths else definition.display_name,
        description=model.description if "description" in paths else definition.description,
        concepts=tuple(model.concepts) if "concepts" in paths else definition.concepts,
        closed_environment=model.closed_environment if "closed_environment" in paths else definition.closed_environment,
        min_value=low if "min_value" in paths else definition.min_value,
        max_value=high if "max_value" in paths else definition.max_value,
        training=json_from_message(model.training) if "training" in paths else definition.training,
        retrain_after_annotations=(
            model.retrain_after_annotations
            if "retrain_after_annotations" in paths
            else definition.retrain_after_annotations
        ),
    )
    _check(changed)
    return changed


def _check(definition: ModelDefinition) -> None:
    _check_concepts(definition)
    settings = message_from_json(definition.training, TrainingSettings())
    training_settings.check(settings, definition.type, "model.training")
    together = training_settings.resolve(settings, TrainingSettings(), definition.type)
    training_settings.check_together(together, "model.training")
    if definition.closed_environment and definition.type != "multi_label":
        raise _invalid("MODEL_INVALID", "model.closed_environment", "only a multi_label model may have one")
    bounds = {"min_value": definition.min_value, "max_value": definition.max_value}
    for field, value in bounds.items():
        if value is None:
            continue
        if definition.type != "regression":
            raise _invalid("MODEL_INVALID", f"model.{field}", "only a regression model has a range")
        # Written so that NaN, which compares false with everything, is refused.
        if not abs(value) <= MAX_NUMBER:
            why = f"must be a number between {-MAX_NUMBER:g} and {MAX_NUMBER:g}"
            raise _invalid("MODEL_INVALID", f"model.{field}", why)
    low, high = definition.min_value, definition.max_value
    if low is not None and high is not None and low >= high:
        raise _invalid("MODEL_INVALID", "model.min_value", "must be less than max_value")


def _check_concepts(definition: ModelDefinition) -> None:
    concepts = definition.concepts
    for concept in concepts:
        if not _CONCEPT.fullmatch(concept):
            raise _invalid(
                "MODEL_INVALID",
                "model.concepts",
                "must be 1 to 128 characters each, without slash or control character",
            )
    if len(set(concepts)) != len(concepts):
        raise _invalid("MODEL_INVALID", "model.concepts", "must name each concept once")
    if definition.type == "regression" and len(concepts) != 1:
        raise _invalid(
            "MODEL_INVALID", "model.concepts", "must name exactly one concept: the one whose numbers it learns"
        )
    if definition.negative_concept and definition.negative_concept in concepts:
        raise _invalid(
            "MODEL_INVALID", "model.concepts", f"must not hold its own negative concept {definition.negative_concept!r}"
        )


def _invalid(reason: str, field: str, why: str) -> InvalidInputError:
    return InvalidInputError(reason, f"{field} {why}", field_violations=[(field, why)], metadata={"field": field})
