"""The RPCs of inference: admit, ask, count."""

from collections.abc import Sequence

import grpc
from google.rpc.status_pb2 import Status

from lensmith_api.v1.inference_service_pb2 import (
    EmbedRequest,
    EmbedResponse,
    ExplainRequest,
    ExplainResponse,
    PredictRequest,
    PredictResponse,
)
from lensmith_api.v1.inference_service_pb2_grpc import InferenceServiceServicer
from lensmith_inference.admission import Admission
from lensmith_inference.explainer import Explainer
from lensmith_inference.metrics import Metrics
from lensmith_inference.predictor import Predictor
from lensmith_platform.errors import LensmithError
from lensmith_platform.principal import Call, addressed_app, current_call
from lensmith_platform.usage import UsageMeter

__all__ = ["InferenceServicer"]


class InferenceServicer(InferenceServiceServicer):
    """Implements `lensmith.v1.InferenceService`.

    Args:
        predictor: Answers.
        explainer: Says why.
        admission: Bounds the work taken on.
        usage: Counts what callers used.
        metrics: Where failures are counted.
    """

    def __init__(
        self, predictor: Predictor, explainer: Explainer, admission: Admission, usage: UsageMeter, metrics: Metrics
    ) -> None:
        self._predictor = predictor
        self._explainer = explainer
        self._admission = admission
        self._usage = usage
        self._metrics = metrics

    async def Predict(
        self, request: PredictRequest, context: grpc.aio.ServicerContext[PredictRequest, PredictResponse]
    ) -> PredictResponse:
        """See the proto."""
        call = current_call()
        with self._admission.admit(request.inputs):
            try:
                response = await self._predictor.predict(request, call, addressed_app())
            except LensmithError as error:
                self._metrics.model_errors.labels(error.reason).inc()
                raise
        self._count(call, "predict", request.model, [one.status for one in response.predictions])
        return response

    async def Embed(
        self, request: EmbedRequest, context: grpc.aio.ServicerContext[EmbedRequest, EmbedResponse]
    ) -> EmbedResponse:
        """See the proto."""
        call = current_call()
        with self._admission.admit(request.inputs):
            response = await self._predictor.embed(request, call, addressed_app())
        if call.principal.kind != "service":
            self._count(call, "embed", "", [one.status for one in response.embeddings])
        return response

    async def Explain(
        self, request: ExplainRequest, context: grpc.aio.ServicerContext[ExplainRequest, ExplainResponse]
    ) -> ExplainResponse:
        """See the proto."""
        call = current_call()
        with self._admission.admit(request.inputs):
            response = await self._explainer.explain(request, call, addressed_app())
        self._count(call, "explain", request.model, [one.status for one in response.explanations])
        return response

    def _count(self, call: Call, operation: str, model: str, statuses: Sequence[Status]) -> None:
        # A public model's use is paid by the app that asked; the operator, who has no app, by the one asked about.
        payer = call.principal.app or call.app
        answered = sum(status.code == 0 for status in statuses)
        if payer is not None and answered:
            self._usage.record(payer.app_id, operation, model, call.principal.key_uid or "", answered)
