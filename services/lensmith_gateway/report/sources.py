"""What a report is made from: asked of the services in the caller's own name, so that each decides what may be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from lensmith_api.v1.evaluation_pb2 import EvaluatedInput, Evaluation, LearningCurve, LearningCurveState
from lensmith_api.v1.inference_service_pb2 import ExplainRequest, ImageQuery
from lensmith_api.v1.input_pb2 import Image
from lensmith_api.v1.input_service_pb2 import GetImageRequest, GetInputRequest
from lensmith_api.v1.model_card_pb2 import ModelCard
from lensmith_api.v1.model_pb2 import ModelType
from lensmith_api.v1.model_service_pb2 import (
    EvaluatedInputOrder,
    GetEvaluationRequest,
    GetLearningCurveRequest,
    GetModelCardRequest,
    ListEvaluatedInputsRequest,
)
from lensmith_api.v1.suggestion_service_pb2 import ListSuggestionsRequest, ListSuggestionsResponse
from lensmith_gateway.images import ImageLinkReader
from lensmith_gateway.report.advice import groups
from lensmith_gateway.report.pictures import Seen, Thumbnail, shrink
from lensmith_platform.errors import LensmithError, NotFoundError, from_rpc_error

if TYPE_CHECKING:
    from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub
    from lensmith_api.v1.input_service_pb2_grpc import InputServiceAsyncStub
    from lensmith_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceAsyncStub

__all__ = ["Blobs", "Material", "Sources", "Stubs"]

Metadata = Sequence[tuple[str, str]]
_Answer = TypeVar("_Answer")

_CALL_SECONDS = 30.0
_AT_ONCE = 4
_WRONG = 12
_RIGHT = 12
_PER_CONCEPT = 20
_SUGGESTIONS = 500
_SHOWN_SIDE = 360
_EXPLAINED_SIDE = 768


class Blobs(Protocol):
    """Where the pictures lie."""

    async def get(self, key: str) -> bytes:
        """The bytes of a blob."""
        ...


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services that are asked."""

    models: ModelServiceAsyncStub
    suggestions: SuggestionServiceAsyncStub
    inputs: InputServiceAsyncStub
    inference: InferenceServiceAsyncStub


@dataclass(slots=True)
class Material:
    """What a report is made from.

    Attributes:
        notes: what could not be had, and why.
        pictures: by resource name of the input.
    """

    card: ModelCard
    evaluation: Evaluation | None = None
    wrong: list[EvaluatedInput] = field(default_factory=list)
    right: list[EvaluatedInput] = field(default_factory=list)
    suggestions: ListSuggestionsResponse | None = None
    learning_curve: LearningCurve | None = None
    pictures: dict[str, Seen] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Sources:
    """Gathers the material of one report.

    Args:
        stubs: the services.
        links: reads what dataset signs.
        blobs: where pictures lie.
        metadata: credentials of the caller.
    """

    def __init__(self, stubs: Stubs, links: ImageLinkReader, blobs: Blobs, metadata: Metadata) -> None:
        self._stubs = stubs
        self._links = links
        self._blobs = blobs
        self._metadata = metadata
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._explains = True

    async def gather(self, version: str, *, pictures: bool) -> Material:
        """Ask for everything.

        Args:
            version: resource name.
            pictures: whether to fetch pictures.

        Raises:
            LensmithError: the version is not there, not READY, or not for this caller.
        """
        card = await self._ask(
            self._stubs.models.GetModelCard(
                GetModelCardRequest(name=f"{version}/card"), timeout=_CALL_SECONDS, metadata=self._metadata
            )
        )
        material = Material(card)
        if not card.HasField("evaluation"):
            material.notes.append("This version came trained: it was not examined here.")
            return material
        material.evaluation = await self._ask(
            self._stubs.models.GetEvaluation(
                GetEvaluationRequest(name=f"{version}/evaluation"), timeout=_CALL_SECONDS, metadata=self._metadata
            )
        )
        await self._examples(material, version)
        await self._suggested(material, version)
        await self._learning_curve(material, version)
        if pictures:
            await self._all_pictures(material)
        return material

    async def _examples(self, material: Material, version: str) -> None:
        try:
            if material.card.model.type == ModelType.MODEL_TYPE_REGRESSION:
                await self._numbers(material, version)
                return
            request = ListEvaluatedInputsRequest(parent=version, page_size=_WRONG, wrong_only=True)
            material.wrong = await self._evaluated(request)
            concepts = list(material.card.model_version.concepts)[:_RIGHT]
            most = max(1, _RIGHT // max(1, len(concepts)))
            for concept in concepts:
                request = ListEvaluatedInputsRequest(parent=version, page_size=_PER_CONCEPT, actual_concept=concept)
                right = [one for one in await self._evaluated(request) if one.correct]
                known = {one.input for one in material.right}
                material.right += [one for one in right if one.input not in known][:most]
        except LensmithError as error:
            material.notes.append(f"There are no examples: {error.message}")

    async def _numbers(self, material: Material, version: str) -> None:
        """Of numbers no answer is right or wrong by itself: those farthest off, and the nearest."""
        nearest = EvaluatedInputOrder.EVALUATED_INPUT_ORDER_LEAST_CONFIDENT
        requests = (
            ListEvaluatedInputsRequest(parent=version, page_size=_RIGHT // 2, order=nearest),
            ListEvaluatedInputsRequest(parent=version, page_size=_WRONG // 2),
        )
        # Of very few, some are in both.
        ends = {one.input: one for request in requests for one in await self._evaluated(request)}
        found = sorted(ends.values(), key=lambda one: abs(one.predicted_number - one.actual_number))
        half = len(found) // 2
        material.right, material.wrong = found[:half], found[half:][::-1]

    async def _evaluated(self, request: ListEvaluatedInputsRequest) -> list[EvaluatedInput]:
        answer = await self._ask(
            self._stubs.models.ListEvaluatedInputs(request, timeout=_CALL_SECONDS, metadata=self._metadata)
        )
        return list(answer.evaluated_inputs)

    async def _suggested(self, material: Material, version: str) -> None:
        request = ListSuggestionsRequest(parent=version, page_size=_SUGGESTIONS)
        try:
            material.suggestions = await self._ask(
                self._stubs.suggestions.ListSuggestions(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            )
        except LensmithError as error:
            material.notes.append(f"What to fix is not told: {error.message}")
        else:
            if material.suggestions.pending:
                material.notes.append("The data is still being looked through: more may be found to fix.")

    async def _learning_curve(self, material: Material, version: str) -> None:
        """Ask for the learning curve, where somebody had one made: that takes trainings of its own."""
        request = GetLearningCurveRequest(name=f"{version}/learningCurve")
        try:
            curve = await self._ask(
                self._stubs.models.GetLearningCurve(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            )
        except NotFoundError:
            return
        except LensmithError as error:
            material.notes.append(f"What more pictures would bring is not told: {error.message}")
            return
        if curve.state == LearningCurveState.LEARNING_CURVE_STATE_READY:
            material.learning_curve = curve

    async def _all_pictures(self, material: Material) -> None:
        looks = [name for group in groups(material.suggestions, {}) for name, _ in group.looks]
        examples: dict[str, EvaluatedInput | None] = dict.fromkeys(looks)
        examples.update({one.input: one for one in [*material.wrong, *material.right]})
        seen = await asyncio.gather(*(self._seen(material, name, one) for name, one in examples.items()))
        material.pictures = dict(zip(examples, seen, strict=True))
        gone = sum(one.picture is None for one in seen)
        if gone:
            material.notes.append(
                f"{gone} of the pictures below cannot be shown: they were deleted since, for example."
            )

    async def _seen(self, material: Material, name: str, example: EvaluatedInput | None) -> Seen:
        """Fetch a picture, and where it is an example of an answer, what spoke for that."""
        async with self._places:
            try:
                asked = GetInputRequest(name=name)
                input_ = await self._ask(
                    self._stubs.inputs.GetInput(asked, timeout=_CALL_SECONDS, metadata=self._metadata)
                )
                data = await self._bytes(name)
            except LensmithError:
                return Seen()
            picture = await asyncio.to_thread(shrink, data, _SHOWN_SIDE)
            file = input_.metadata.fields["file"].string_value if "file" in input_.metadata.fields else ""
            if picture is None or example is None or not self._explains:
                return Seen(input_.name, file, picture)
            larger = await asyncio.to_thread(shrink, data, _EXPLAINED_SIDE)
            heat_map = None if larger is None else await self._heat_map(material, example, larger)
            return Seen(input_.name, file, picture, heat_map)

    async def _bytes(self, name: str) -> bytes:
        answer = await self._ask(
            self._stubs.inputs.GetImage(GetImageRequest(name=name), timeout=_CALL_SECONDS, metadata=self._metadata)
        )
        link = self._links.read(answer.path.rpartition("/")[2])
        return await self._blobs.get(link.blob_key)

    async def _heat_map(self, material: Material, example: EvaluatedInput, picture: Thumbnail) -> Thumbnail | None:
        """What spoke for the answer that the version gave; None, and a note once, where it cannot be had."""
        version = material.card.model_version
        request = ExplainRequest(
            model=version.name.rpartition("/versions/")[0],
            version=version.number,
            inputs=[ImageQuery(id="1", image=Image(content=picture.data))],
            select_concepts=example.predicted_concepts[:1],
            max_concepts=1,
            overlay=True,
        )
        try:
            answer = await self._ask(
                self._stubs.inference.Explain(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            )
        except LensmithError as error:
            if self._explains:
                self._explains = False
                material.notes.append(f"There are no heat maps: {error.message}")
            return None
        concepts = answer.explanations[0].concepts
        overlay = concepts[0].heat_map.overlay if concepts else b""
        return await asyncio.to_thread(shrink, overlay, _SHOWN_SIDE) if overlay else None

    async def _ask(self, call: Awaitable[_Answer]) -> _Answer:
        try:
            return await call
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
