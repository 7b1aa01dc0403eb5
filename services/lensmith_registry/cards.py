"""Cards of versions: all that is known of how one came about, in one message."""

from __future__ import annotations

import math

from lensmith_api.v1.evaluation_pb2 import Evaluation
from lensmith_api.v1.model_card_pb2 import ModelCard
from lensmith_api.v1.model_pb2 import Model
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.converters import base_model_to_proto, message_from_json, version_to_proto
from lensmith_registry.evaluation_converters import evaluation_to_proto
from lensmith_registry.evaluation_scores import require_ready
from lensmith_registry.version_store import VersionRow
from lensmith_vision import evaluation as vision_evaluation

__all__ = ["card_of"]

_DEPENDABLE = 25
"""Pictures of a concept from which on its figures mean something."""
_ROUGH = 200
_WELL_CALIBRATED = 0.05
_MOST_NAMED = 10


def card_of(row: VersionRow, base: BaseModelRow | None, evaluated: str | None) -> ModelCard:
    """Write the card of a READY version.

    Args:
        row: The version.
        base: Its base network; None where that is installed no more.
        evaluated: Its evaluation as JSON; None: it has none.

    Raises:
        PreconditionError: VERSION_NOT_READY.
    """
    require_ready(row)
    evaluation = None
    if evaluated is not None:
        figures = vision_evaluation.Evaluation.from_json(evaluated)
        evaluation = evaluation_to_proto(f"{row.name}/evaluation", figures)
    return ModelCard(
        name=f"{row.name}/card",
        model_version=version_to_proto(row),
        model=message_from_json(row.model_snapshot, Model()) if row.model_snapshot else None,
        display_names=row.display_names,
        base_model=None if base is None else base_model_to_proto(base),
        evaluation=evaluation,
        cautions=_cautions(row, base, evaluation),
    )


def _cautions(row: VersionRow, base: BaseModelRow | None, evaluation: Evaluation | None) -> list[str]:
    """Say what to keep in mind, each in a sentence for people."""
    found = []
    if evaluation is None:
        found.append("It was not evaluated here: nothing is known of how good it is on your pictures.")
    else:
        found += _cautions_of(row, evaluation)
    if row.network_space:
        found.append(
            f"It looks at pictures with a network of its own ({row.network_bytes / 1e6:.1f} MB): each of them costs "
            "a pass that no other model shares."
        )
    if base is not None and base.licence:
        found.append(
            f"It stands on the base network {base.name}, whose licence ({base.licence}) holds for its use too."
        )
    return found


def _cautions_of(row: VersionRow, evaluation: Evaluation) -> list[str]:
    found = [
        "Its figures hold for pictures like those it was trained on; another camera, light or place is another exam."
    ]
    if evaluation.input_count < _ROUGH:
        found.append(f"It was examined on {evaluation.input_count} pictures only: its figures are rough.")
    names = dict(zip(row.concepts, row.display_names, strict=True))
    few = [names.get(one.concept, one.concept) for one in evaluation.concepts if one.positives < _DEPENDABLE]
    if few:
        shown = ", ".join(few[:_MOST_NAMED]) + (f" and {len(few) - _MOST_NAMED} more" if len(few) > _MOST_NAMED else "")
        found.append(
            f"It was examined on fewer than {_DEPENDABLE} pictures of {shown}: its figures on these are an impression."
        )
    error = evaluation.expected_calibration_error
    if evaluation.HasField("expected_calibration_error") and error > _WELL_CALIBRATED:
        found.append(_doubt(error, evaluation))
    return found


def _doubt(error: float, evaluation: Evaluation) -> str:
    """Say how far scores can be believed; on few pictures, those of a perfect model come out off as well."""
    bins = [one for one in evaluation.calibration if one.count]
    total = sum(one.count for one in bins)
    # Of so many answers, the part that is right lies so far from its chance; 0.8: a normal deviation in the mean.
    by_chance = sum(0.8 * math.sqrt(one.count * one.confidence * (1 - one.confidence)) for one in bins) / max(total, 1)
    if by_chance > error / 2:
        return (
            f"Its scores came out off by {100 * error:.0f} points on average, of which chance alone makes about "
            f"{100 * by_chance:.0f} on so few pictures: how far they can be believed is not known."
        )
    return f"Its scores are off by {100 * error:.0f} points on average: do not read them as exact chances."
