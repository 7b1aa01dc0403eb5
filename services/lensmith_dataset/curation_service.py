"""CurationService: what other services ask in order to make an app's data better."""

import hashlib
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

from grpc.aio import ServicerContext

from lensmith_api.internal.v1 import curation_service_pb2 as pb
from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceServicer
from lensmith_api.internal.v1.training_data_service_pb2 import TrainingLabel
from lensmith_dataset.converters import training_input_to_proto
from lensmith_dataset.store import curation
from lensmith_dataset.store.curation import Copied, Swap
from lensmith_dataset.store.labels import Label
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import OK, InvalidInputError, LensmithError, to_status

_BATCH = 500
_MOST_UNLABELLED = 10_000
_MOST_SWAPS = 1000
_MOST_COPIES = 1000


class CurationServicer(CurationServiceServicer):
    """Checks, calls, converts.

    Args:
        database: of the service's own role.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def StreamUnlabelledInputs(
        self,
        request: pb.StreamUnlabelledInputsRequest,
        context: ServicerContext[pb.StreamUnlabelledInputsRequest, pb.StreamUnlabelledInputsResponse],
    ) -> AsyncIterator[pb.StreamUnlabelledInputsResponse]:
        """Stream some of the inputs that nobody has labelled, with their vectors."""
        app_id, space = request.app_id, request.space
        limit = min(max(request.limit, 0), _MOST_UNLABELLED)
        start = UUID(bytes=hashlib.sha256(str(request.seed).encode()).digest()[:16])
        async with self._database.transaction(app_id) as connection:
            ids = await curation.unlabelled_ids(connection, app_id, space, list(request.concepts), start, limit)
        for place in range(0, len(ids), _BATCH):
            async with self._database.transaction(app_id) as connection:
                found = await curation.vectors(connection, app_id, space, ids[place : place + _BATCH])
            yield pb.StreamUnlabelledInputsResponse(inputs=[training_input_to_proto(state) for state in found])

    async def SwapLabels(
        self, request: pb.SwapLabelsRequest, context: ServicerContext[pb.SwapLabelsRequest, pb.SwapLabelsResponse]
    ) -> pb.SwapLabelsResponse:
        """Change labels that are still as they were seen, each with a status of its own."""
        if len(request.swaps) > _MOST_SWAPS:
            raise InvalidInputError("TOO_MANY_SWAPS", f"at most {_MOST_SWAPS} inputs are changed at once")
        app_id, actor = request.app_id, request.actor
        swaps = [
            Swap(one.input_uid, list(one.concepts), _labels(one.expected), _labels(one.desired))
            for one in request.swaps
        ]

        async def change() -> list[LensmithError | None]:
            async with self._database.transaction(app_id) as connection:
                return await curation.swap(connection, app_id, swaps, actor)

        outcomes = await self._database.retry(change)
        return pb.SwapLabelsResponse(statuses=[OK if error is None else to_status(error) for error in outcomes])

    async def CopyLabels(
        self, request: pb.CopyLabelsRequest, context: ServicerContext[pb.CopyLabelsRequest, pb.CopyLabelsResponse]
    ) -> pb.CopyLabelsResponse:
        """Label some of the inputs that show one concept as showing another one too."""
        app_id, source, target = request.app_id, request.from_concept, request.to_concept
        if request.after < 0:
            raise InvalidInputError("CURSOR_INVALID", "`after` is where an earlier call stopped, never negative")
        if source == target:
            raise InvalidInputError("SAME_CONCEPT", f"{source!r} is to be labelled as itself")

        async def change() -> Copied:
            async with self._database.transaction(app_id) as connection:
                return await curation.copy_labels(
                    connection, app_id, source, target, request.actor, request.after, _MOST_COPIES
                )

        copied = await self._database.retry(change)
        return pb.CopyLabelsResponse(copied_count=copied.count, more=copied.more, after=copied.last)


def _labels(messages: Iterable[TrainingLabel]) -> dict[str, Label]:
    return {
        message.concept: Label(message.concept, number=message.number)
        if message.WhichOneof("value") == "number"
        else Label(message.concept, positive=message.positive)
        for message in messages
    }
