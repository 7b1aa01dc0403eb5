"""Training pictures that are like those asked about: dataset knows them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from google.rpc.status_pb2 import Status

from lensmith_api.internal.v1.training_data_service_pb2 import (
    FindNearestTrainingInputsRequest,
    NearestTrainingInputs,
    TrainingLabel,
)
from lensmith_api.v1.annotation_pb2 import Annotation
from lensmith_api.v1.inference_service_pb2 import Explanation, NearestInput
from lensmith_inference.answers import ServedVersion
from lensmith_inference.batcher import Seen
from lensmith_inference.pipeline import Look, Sight
from lensmith_platform.errors import OK, ForbiddenError, InternalError, LensmithError, PreconditionError, to_status
from lensmith_platform.principal import AppRef, Call

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceAsyncStub

__all__ = ["SCOPE", "TrainingPictures", "add_nearest", "check_allowed"]

SCOPE = "Inputs:Get"
"""What a key needs to see training pictures, whatever it asks."""

_SECONDS = 15.0
_LARGEST = float(np.finfo(np.float16).max)


def check_allowed(call: Call, app: AppRef, version: ServedVersion) -> None:
    """Check that a caller may see the pictures that a version learned from, and that there are any.

    Raises:
        ForbiddenError: The key lacks the scope, or is another app's.
        PreconditionError: The model came with a base model.
    """
    principal = call.principal
    if not principal.has(SCOPE):
        raise ForbiddenError(
            "SCOPE_MISSING",
            f"this key lacks the scope {SCOPE}, which shows training pictures; ask without `nearest`",
            metadata={"scope": SCOPE, "method": "Explain"},
        )
    if not version.served.head_artefact:
        raise PreconditionError(
            "MODEL_IS_IMPORTED",
            f"{version.served.name} came with a base model: the platform has no training pictures of it",
            metadata={"model_version": version.served.name},
        )
    if principal.kind == "key" and (principal.app is None or principal.app.app_id != app.app_id):
        raise ForbiddenError(
            "KEY_NOT_FOR_APP",
            f"the training pictures belong to apps/{app.name}, this key does not",
            metadata={"app": f"apps/{app.name}"},
        )


class TrainingPictures:
    """Asks dataset.

    Args:
        dataset: Its internal service.
    """

    def __init__(self, dataset: "TrainingDataServiceAsyncStub") -> None:
        self._dataset = dataset

    async def nearest(
        self,
        call: Call,
        app: AppRef,
        version: ServedVersion,
        space: str,
        features: Sequence[npt.NDArray[np.float32]],
        count: int,
    ) -> tuple[list[list[NearestInput]], Status]:
        """Find the training pictures most like some pictures.

        Args:
            call: Who asks.
            app: The app of the model.
            version: The version that was asked.
            space: Where training pictures have vectors.
            features: Vectors of the pictures, of that space.
            count: How many to find for each.

        Returns:
            What was found for each, and why nothing was where dataset cannot say.
        """
        request = FindNearestTrainingInputsRequest(
            app_id=app.app_id,
            space=space,
            concepts=version.concepts,
            vectors=[np.clip(vector, -_LARGEST, _LARGEST).astype("<f2").tobytes() for vector in features],
            count=count,
        )
        try:
            response = await self._dataset.FindNearestTrainingInputs(request, timeout=_SECONDS)
            if len(response.nearest) != len(features):
                raise InternalError("ANSWERS_MIXED", "dataset answered about another number of pictures")
        except LensmithError as error:
            return [[] for _ in features], to_status(error, request_id=call.request_id)
        return [_inputs(one) for one in response.nearest], OK


async def add_nearest(
    pictures: TrainingPictures,
    count: int,
    call: Call,
    app: AppRef,
    version: ServedVersion,
    base: Look | LensmithError | None,
    outcomes: Sequence[Sight | LensmithError],
    explanations: Sequence[Explanation],
) -> None:
    """Add the training pictures most like those that were seen to their explanations, or why there are none.

    Args:
        pictures: Finds them.
        count: How many to find for each.
        call: Who asks.
        app: The app of the model.
        version: The version that was asked.
        base: The app's own network, which looked too because the version has one of its own; why it did not; or None
            where both are the same.
        outcomes: What was seen.
        explanations: Of the same pictures, in the same order.
    """
    pairs: list[tuple[Explanation, Seen]] = []
    unseen = base if isinstance(base, LensmithError) else InternalError("IMAGE_FAILED", "it was not looked at")
    for explanation, outcome in zip(explanations, outcomes, strict=True):
        if isinstance(outcome, LensmithError):
            continue
        seen = outcome.own if base is None else outcome.also
        if seen is None:
            explanation.nearest_status.CopyFrom(to_status(unseen, request_id=call.request_id))
        else:
            pairs.append((explanation, seen))
    if not pairs:
        return
    # The space of what was seen, not of what was asked for.
    (space,) = {seen.space for _, seen in pairs}
    found, status = await pictures.nearest(call, app, version, space, [seen.features for _, seen in pairs], count)
    for (explanation, _), inputs in zip(pairs, found, strict=True):
        explanation.nearest.extend(inputs)
        explanation.nearest_status.CopyFrom(status)


def _inputs(found: NearestTrainingInputs) -> list[NearestInput]:
    return [
        NearestInput(
            input=one.input, similarity=one.similarity, annotations=[_annotation(label) for label in one.labels]
        )
        for one in found.inputs
    ]


def _annotation(label: TrainingLabel) -> Annotation:
    if label.WhichOneof("value") == "number":
        return Annotation(concept=label.concept, number=label.number)
    return Annotation(concept=label.concept, positive=label.positive)
