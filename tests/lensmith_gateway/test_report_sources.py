"""What a report is made from, asked of a small real server of models."""

from typing import cast

import grpc.aio

from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.evaluation_pb2 import EvaluatedInput, Evaluation
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceStub
from lensmith_api.v1.input_service_pb2_grpc import InputServiceStub
from lensmith_api.v1.model_card_pb2 import ModelCard
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    ModelServiceStub,
    add_ModelServiceServicer_to_server,
)
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from lensmith_gateway.images import ImageLinkReader
from lensmith_gateway.report.sources import Blobs, Sources, Stubs


class Numbers(ModelServiceServicer):
    """A regression that was off by 0, 1, 2 … on its pictures."""

    def __init__(self, pictures: int) -> None:
        self._answers = [
            EvaluatedInput(input=f"i{off}", actual_number=0, predicted_number=off, confidence=off)
            for off in range(pictures)
        ]

    async def GetModelCard(self, request: pb.GetModelCardRequest, context: object) -> ModelCard:
        return ModelCard(model=Model(type=ModelType.MODEL_TYPE_REGRESSION), evaluation=Evaluation())

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: object) -> Evaluation:
        return Evaluation()

    async def ListEvaluatedInputs(
        self, request: pb.ListEvaluatedInputsRequest, context: object
    ) -> pb.ListEvaluatedInputsResponse:
        nearest = request.order == pb.EvaluatedInputOrder.EVALUATED_INPUT_ORDER_LEAST_CONFIDENT
        ordered = self._answers if nearest else self._answers[::-1]
        return pb.ListEvaluatedInputsResponse(evaluated_inputs=ordered[: request.page_size])


async def _ends(pictures: int) -> tuple[list[str], list[str]]:
    """The pictures that a report shows as nearest and as farthest off."""
    server = grpc.aio.server()
    add_ModelServiceServicer_to_server(Numbers(pictures), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stubs = Stubs(
                ModelServiceStub(channel),
                SuggestionServiceStub(channel),
                InputServiceStub(channel),
                InferenceServiceStub(channel),
            )
            # Without pictures, nothing is read by links nor from where they lie.
            sources = Sources(stubs, cast(ImageLinkReader, None), cast(Blobs, None), ())
            material = await sources.gather("apps/a/models/m/versions/1", pictures=False)
    finally:
        await server.stop(None)
    return [one.input for one in material.right], [one.input for one in material.wrong]


async def test_the_nearest_answers_are_shown_when_there_are_more_than_a_page_of_them() -> None:
    assert await _ends(1000) == (
        ["i0", "i1", "i2", "i3", "i4", "i5"],
        ["i999", "i998", "i997", "i996", "i995", "i994"],
    )


async def test_no_answer_is_shown_twice_when_there_are_few() -> None:
    assert await _ends(7) == (["i0", "i1", "i2"], ["i6", "i5", "i4", "i3"])
