"""Answers of models and of base models: what stands between the requests and the machinery."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from google.rpc.status_pb2 import Status

from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.inference_service_pb2 import (
    Embedding,
    EmbedRequest,
    EmbedResponse,
    Prediction,
    PredictRequest,
    PredictResponse,
)
from lensmith_api.v1.model_pb2 import MODEL_TYPE_MULTI_CLASS, MODEL_TYPE_MULTI_LABEL, MODEL_TYPE_REGRESSION
from lensmith_inference.answers import Selection, ServedVersion, native_scores
from lensmith_inference.catalogue import Catalogue
from lensmith_inference.general import General
from lensmith_inference.heads_cache import HeadsCache
from lensmith_inference.metrics import Metrics, label_of
from lensmith_inference.pipeline import Look, Pipeline, Sight
from lensmith_inference.scores import Scores
from lensmith_inference.spaces import Spaces
from lensmith_platform.errors import OK, InternalError, InvalidInputError, LensmithError, to_status
from lensmith_platform.principal import AppRef, Call
from lensmith_platform.resource_names import parse
from lensmith_platform.service_auth import service_call_app
from lensmith_vision.card import Card
from lensmith_vision.head_stack import HeadStack
from lensmith_vision.heads import Head

__all__ = ["Predictor"]

_TYPES = {
    "multi_class": MODEL_TYPE_MULTI_CLASS,
    "multi_label": MODEL_TYPE_MULTI_LABEL,
    "regression": MODEL_TYPE_REGRESSION,
}


@dataclass(frozen=True)
class Predictor:
    """Answers Predict and Embed.

    Attributes:
        catalogue: Knows models and base models.
        spaces: Holds base networks.
        heads: Holds heads.
        general: Says what General sees besides.
        pipeline: Looks at pictures.
        metrics: Where answers are counted.
    """

    catalogue: Catalogue
    spaces: Spaces
    heads: HeadsCache
    general: General
    pipeline: Pipeline
    metrics: Metrics

    async def predict(self, request: PredictRequest, call: Call, app: AppRef) -> PredictResponse:
        """Ask one model about pictures.

        Args:
            request: The question.
            call: Who asks.
            app: The app that owns the model.

        Raises:
            LensmithError: The model cannot answer at all; what is wrong with one picture stands in its answer.
        """
        model = parse("apps/{app}/models/{model}", request.model, field="model")["model"]
        version = await self.catalogue.model(app.app_id, model, request.version)
        selection = Selection.of(request, version)
        served = version.served
        space = served.base_model.space
        with self.metrics.predict_seconds.labels(label_of(space)).time():
            async with self.spaces.use(served.base_model, served.network_artefact) as card:
                if served.head_artefact:
                    outcomes, scores = await self._ask_head(request, version, card, call)
                else:
                    outcomes, scores = await self._ask_classifier(request, version, card, call)
        rows = _rows(outcomes, len(scores))
        predictions = [
            Prediction(id=query.id, status=_status(row, call))
            if isinstance(row, LensmithError)
            else scores.prediction(query.id, row, selection)
            for query, row in zip(request.inputs, rows, strict=True)
        ]
        self.metrics.images.labels("predict", label_of(space)).inc(len(scores))
        return PredictResponse(model_version=served.name, predictions=predictions)

    async def embed(self, request: EmbedRequest, call: Call, app: AppRef) -> EmbedResponse:
        """Turn pictures into vectors.

        Args:
            request: The pictures.
            call: Who asks.
            app: The app whose base model is used unless the request names another.

        Raises:
            LensmithError: The base model cannot be used; what is wrong with one picture stands in its answer.
        """
        if request.base_model:
            parse("baseModels/{base_model}", request.base_model, field="base_model")
        if request.space:
            base_model = await self.catalogue.base_model_of_space(request.space)
            if request.base_model not in ("", base_model.name):
                raise InvalidInputError(
                    "SPACE_OTHER_BASE_MODEL",
                    f"the space {request.space} is of {base_model.name}, not {request.base_model}",
                )
        elif request.base_model:
            base_model = await self.catalogue.base_model(request.base_model)
        else:
            base_model = await self.catalogue.space_of_app(app.app_id, app.base_model)
        async with AsyncExitStack() as stack:
            card = await stack.enter_async_context(self.spaces.use(base_model))
            general = None
            if request.with_general_concepts:
                general = await self.general.beside(stack, base_model.space, card)
            look = Look(base_model.space, card, logits=general is not None and general.look is None)
            also = general.look if general is not None else None
            outcomes = await self.pipeline.run(request.inputs, look, also=also, deadline=call.deadline)
        concepts = await general.concepts(outcomes) if general is not None else [()] * len(outcomes)
        embeddings = []
        for query, outcome, scores in zip(request.inputs, outcomes, concepts, strict=True):
            if isinstance(outcome, LensmithError):
                embeddings.append(Embedding(id=query.id, status=_status(outcome, call)))
                continue
            vector = outcome.own.features.tolist()
            embeddings.append(Embedding(id=query.id, status=OK, vector=vector, general_concepts=scores))
        self.metrics.images.labels("embed", base_model.space).inc(sum(isinstance(one, Sight) for one in outcomes))
        return EmbedResponse(
            space=base_model.space,
            embeddings=embeddings,
            general_version=general.version.served.name if general is not None else "",
        )

    async def warm(self, app_id: int, model: str, version: int) -> None:
        """Make a version of a model ready to answer; 0: the one in production.

        Raises:
            LensmithError: It has none, or it cannot be had.
        """
        with service_call_app(app_id):
            served = (await self.catalogue.model(app_id, model, version)).served
            async with self.spaces.use(served.base_model, served.network_artefact) as card:
                if served.head_artefact:
                    async with self.heads.use(served.base_model.space, card.feature_dim, served.head_artefact):
                        pass

    async def _ask_head(
        self, request: PredictRequest, version: ServedVersion, card: Card, call: Call
    ) -> tuple[list[Sight | LensmithError], Scores]:
        served = version.served
        space, key = served.base_model.space, served.head_artefact
        async with self.heads.use(space, card.feature_dim, key) as (stack, head):
            if head.concepts != version.concepts or _TYPES[head.type] != served.type:
                raise InternalError("MODEL_INVALID", f"{served.name}: its head has another type or other concepts")
            outcomes = await self._look(request, served.base_model, card, call, logits=False)
            seen = [outcome.own for outcome in outcomes if isinstance(outcome, Sight)]
            if not seen:
                return outcomes, Scores(np.empty((0, len(head.concepts)), np.float32))
            # The space of what was seen, not of what was asked for: the stack refuses vectors of another one.
            (space,) = {one.space for one in seen}
            features = np.stack([one.features for one in seen])
            return outcomes, await asyncio.to_thread(_scores, stack, head, key, space, features)

    async def _ask_classifier(
        self, request: PredictRequest, version: ServedVersion, card: Card, call: Call
    ) -> tuple[list[Sight | LensmithError], Scores]:
        outcomes = await self._look(request, version.served.base_model, card, call, logits=True)
        looked = [outcome.own.logits for outcome in outcomes if isinstance(outcome, Sight)]
        seen = [one for one in looked if one is not None]
        logits = np.stack(seen) if seen else np.empty((0, card.logits.dim if card.logits else 0), np.float32)
        return outcomes, Scores(await asyncio.to_thread(native_scores, logits, card, version))

    async def _look(
        self, request: PredictRequest, base_model: BaseModel, card: Card, call: Call, *, logits: bool
    ) -> list[Sight | LensmithError]:
        look = Look(base_model.space, card, logits=logits)
        return await self.pipeline.run(request.inputs, look, deadline=call.deadline)


def _scores(stack: HeadStack, head: Head, key: str, space: str, features: npt.NDArray[np.float32]) -> Scores:
    (values,) = stack.scores(space, features, [key])
    return Scores(values, head.unfamiliar(features), head)


def _rows(outcomes: Sequence[Sight | LensmithError], count: int) -> list[int | LensmithError]:
    """Number the rows of scores, which only pictures that were seen have, as their pictures stand in the request."""
    numbers = iter(range(count))
    rows: list[int | LensmithError] = [
        outcome if isinstance(outcome, LensmithError) else next(numbers) for outcome in outcomes
    ]
    if next(numbers, None) is not None:
        raise InternalError("ANSWERS_MIXED", "there are more scores than pictures")
    return rows


def _status(error: LensmithError, call: Call) -> Status:
    return to_status(error, request_id=call.request_id)
