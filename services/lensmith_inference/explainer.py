"""Explanations: heat maps of why, and training pictures that look alike."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from lensmith_api.v1.inference_service_pb2 import (
    HEAT_MAP_METHOD_CLASS_ACTIVATION,
    HEAT_MAP_METHOD_GRADIENT,
    HEAT_MAP_METHOD_SHARED_CONTRIBUTION,
    ConceptExplanation,
    ExplainRequest,
    ExplainResponse,
    Explanation,
    HeatMap,
    PredictRequest,
    Region,
)
from lensmith_api.v1.model_pb2 import MODEL_TYPE_REGRESSION
from lensmith_inference.answers import Selection, ServedVersion
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.classifiers import Classifiers
from lensmith_inference.heads_cache import HeadsCache
from lensmith_inference.metrics import Metrics, label_of
from lensmith_inference.nearest import TrainingPictures, add_nearest, check_allowed
from lensmith_inference.pipeline import Look, Pipeline, Sight
from lensmith_inference.reasons import ClassifierReasons, HeadReasons, Reasons
from lensmith_inference.spaces import Spaces
from lensmith_platform.errors import OK, InternalError, InvalidInputError, LensmithError, PreconditionError, to_status
from lensmith_platform.principal import AppRef, Call
from lensmith_platform.resource_names import parse
from lensmith_vision.card import Card
from lensmith_vision.heat import overlay_png, seen_part

__all__ = ["MAX_OVERLAYS", "Explainer"]

MAX_OVERLAYS = 32
"""Most maps drawn in one answer: it has to stay below what one message may hold."""

_METHODS = {
    "class_activation": HEAT_MAP_METHOD_CLASS_ACTIVATION,
    "shared_contribution": HEAT_MAP_METHOD_SHARED_CONTRIBUTION,
    "gradient": HEAT_MAP_METHOD_GRADIENT,
}


@dataclass(frozen=True)
class Explainer:
    """Answers Explain.

    Attributes:
        catalogue: Knows models.
        spaces: Holds base networks.
        heads: Holds heads.
        classifiers: Knows the base models' own classifiers.
        pipeline: Looks at pictures.
        pictures: Finds training pictures.
        metrics: Where answers are counted.
    """

    catalogue: Catalogue
    spaces: Spaces
    heads: HeadsCache
    classifiers: Classifiers
    pipeline: Pipeline
    pictures: TrainingPictures
    metrics: Metrics

    async def explain(self, request: ExplainRequest, call: Call, app: AppRef) -> ExplainResponse:
        """Explain what a model says about pictures.

        Args:
            request: The question.
            call: Who asks.
            app: The app that owns the model.

        Raises:
            LensmithError: The model cannot be explained at all, or the caller may not see its training pictures; what
                is wrong with one picture stands in its explanation.
        """
        model = parse("apps/{app}/models/{model}", request.model, field="model")["model"]
        version = await self.catalogue.model(app.app_id, model, request.version)
        if request.nearest:
            check_allowed(call, app, version)
        selection = _selection(request, version)
        served = version.served
        async with AsyncExitStack() as stack:
            card = await stack.enter_async_context(self.spaces.use(served.base_model, served.network_artefact))
            reasons = await stack.enter_async_context(self._reasons(version, card))
            look = Look(served.base_model.space, card, logits=not served.head_artefact, feature_map=True)
            base = await self._base(stack, version, app) if request.nearest else None
            also = base if isinstance(base, Look) else None
            outcomes = await self.pipeline.run(request.inputs, look, also=also, deadline=call.deadline)
            explained = [
                asyncio.to_thread(_explanation, outcome, reasons, selection, card, overlay=request.overlay)
                for outcome in outcomes
                if isinstance(outcome, Sight)
            ]
            answers = iter(await asyncio.gather(*explained))
        explanations = [
            Explanation(status=to_status(outcome, request_id=call.request_id))
            if isinstance(outcome, LensmithError)
            else next(answers)
            for outcome in outcomes
        ]
        for query, explanation in zip(request.inputs, explanations, strict=True):
            explanation.id = query.id
        if request.nearest:
            await add_nearest(self.pictures, request.nearest, call, app, version, base, outcomes, explanations)
        self.metrics.images.labels("explain", label_of(served.base_model.space)).inc(len(explained))
        return ExplainResponse(model_version=served.name, method=_METHODS[reasons.method], explanations=explanations)

    @asynccontextmanager
    async def _reasons(self, version: ServedVersion, card: Card) -> AsyncIterator[Reasons]:
        served = version.served
        if card.feature_map is None:
            raise PreconditionError(
                "BASE_MODEL_HAS_NO_FEATURE_MAP",
                f"the network that {served.name} looks with ({served.base_model.name}) gives no feature map: "
                "there is no telling which part of a picture its answers come from",
                metadata={"base_model": served.base_model.name},
            )
        if not served.head_artefact:
            yield ClassifierReasons(version, card, await self.classifiers.get(served.base_model, card))
            return
        async with self.heads.use(served.base_model.space, card.feature_dim, served.head_artefact) as (_, head):
            yield HeadReasons(head)

    async def _base(self, stack: AsyncExitStack, version: ServedVersion, app: AppRef) -> Look | LensmithError | None:
        """Find the network whose vectors training pictures have, where the version looks with one of its own.

        Returns:
            None where they are the same; the reason where it cannot be had: then the maps come alone.
        """
        if not version.served.network_artefact:
            return None
        try:
            base = await self.catalogue.space_of_app(app.app_id, app.base_model)
            return Look(base.space, await stack.enter_async_context(self.spaces.use(base)))
        except LensmithError as error:
            return error


def _selection(request: ExplainRequest, version: ServedVersion) -> Selection:
    """Read which concepts to explain.

    Raises:
        InvalidInputError: The version knows none of them, or more maps would be drawn than one answer may hold.
    """
    most = request.max_concepts or (0 if request.select_concepts else 1)
    asked = PredictRequest(select_concepts=request.select_concepts, max_concepts=most)
    selection = Selection.of(asked, version)
    maps = len(request.inputs) * min(len(selection.indexes), most or len(selection.indexes))
    if request.overlay and maps > MAX_OVERLAYS:
        raise InvalidInputError(
            "TOO_MANY_OVERLAYS",
            f"{maps} maps would be drawn; at most {MAX_OVERLAYS} are drawn in one answer: ask about fewer pictures or "
            "concepts, or without overlay",
            metadata={"limit": "overlays", "max": str(MAX_OVERLAYS), "actual": str(maps)},
            field_violations=[("overlay", f"at most {MAX_OVERLAYS} maps are drawn")],
        )
    return selection


def _explanation(sight: Sight, reasons: Reasons, selection: Selection, card: Card, *, overlay: bool) -> Explanation:
    """Explain one picture. Takes a while: not for the event loop."""
    scores = reasons.scores(sight.own)
    columns = selection.columns(scores)
    explanation = Explanation(status=OK)
    shown = sight.shown
    if shown is None:
        raise InternalError("IMAGE_FAILED", "the picture itself was not kept")
    part = seen_part(shown.shape[0], shown.shape[1], card.resize)
    regression = selection.version.served.type == MODEL_TYPE_REGRESSION
    if regression:
        explanation.number = float(scores[0])
    for column, values in zip(columns, reasons.maps(sight.own, columns), strict=True):
        concept = selection.score(column, scores)
        if regression:
            concept.ClearField("value")
            concept.ClearField("predicted")
        explanation.concepts.append(
            ConceptExplanation(
                concept=concept,
                logit=float(values.mean(dtype="float64")),
                heat_map=HeatMap(
                    rows=values.shape[0],
                    columns=values.shape[1],
                    values=values.ravel().tolist(),
                    region=Region(left=part[0], top=part[1], right=part[2], bottom=part[3]),
                    overlay=overlay_png(shown, values, part) if overlay else b"",
                ),
            )
        )
    return explanation
