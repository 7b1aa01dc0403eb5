"""Explanations between the wire and the SDK's own types."""

from lensmith import explanation_types as types
from lensmith._convert import annotation, concept_score, error, optional
from lensmith_api.v1 import inference_service_pb2 as pb

_METHODS = {
    pb.HEAT_MAP_METHOD_CLASS_ACTIVATION: types.HeatMapMethod.CLASS_ACTIVATION,
    pb.HEAT_MAP_METHOD_SHARED_CONTRIBUTION: types.HeatMapMethod.SHARED_CONTRIBUTION,
    pb.HEAT_MAP_METHOD_GRADIENT: types.HeatMapMethod.GRADIENT,
}


def explanations(message: pb.ExplainResponse) -> types.Explanations:
    """The explanations of a call."""
    return types.Explanations(
        model_version=message.model_version,
        # One that a newer platform may know.
        method=_METHODS.get(message.method, types.HeatMapMethod.UNKNOWN),
        items=tuple(_explanation(item) for item in message.explanations),
    )


def _explanation(message: pb.Explanation) -> types.Explanation:
    return types.Explanation(
        id=message.id,
        concepts=tuple(_concept(item) for item in message.concepts),
        number=optional(message, "number"),
        error=error(message.status),
        nearest=tuple(
            types.NearestInput(
                id=item.input.rpartition("/")[2],
                similarity=item.similarity,
                annotations=tuple(annotation(one) for one in item.annotations),
            )
            for item in message.nearest
        ),
        nearest_error=error(message.nearest_status),
    )


def _concept(message: pb.ConceptExplanation) -> types.ConceptExplanation:
    heat_map, region = message.heat_map, message.heat_map.region
    return types.ConceptExplanation(
        concept=concept_score(message.concept),
        logit=message.logit,
        heat_map=types.HeatMap(
            rows=heat_map.rows,
            columns=heat_map.columns,
            values=tuple(heat_map.values),
            region=types.Region(region.left, region.top, region.right, region.bottom),
            overlay=heat_map.overlay,
        ),
    )
