"""TrainingDataService: what registry and trainer ask about the pictures to train on."""

from collections.abc import AsyncIterator

from grpc.aio import ServicerContext

from lensmith_api.internal.v1 import training_data_service_pb2 as pb
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceServicer
from lensmith_dataset.converters import concept_count_to_proto, plain_text, training_input_to_proto
from lensmith_dataset.store import training_data
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Database

_BATCH = 500


class TrainingDataService(TrainingDataServiceServicer):
    """Serves training data to other services.

    Args:
        database: of the service's own role.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def CountTrainingData(
        self,
        request: pb.CountTrainingDataRequest,
        context: ServicerContext[pb.CountTrainingDataRequest, pb.CountTrainingDataResponse],
    ) -> pb.CountTrainingDataResponse:
        """Counts what an app has to train a model on."""
        space = plain_text("space", request.space)
        concepts = [plain_text("concepts", concept) for concept in request.concepts] or None
        async with self._database.transaction(request.app_id, isolation="repeatable read") as connection:
            counts = await training_data.count_by_concept(connection, request.app_id, space, concepts)
            annotated, pending = await training_data.count_inputs(connection, request.app_id, space, concepts)
        return pb.CountTrainingDataResponse(
            concepts=[concept_count_to_proto(count) for count in counts],
            annotated_inputs=annotated,
            pending_inputs=pending,
        )

    async def StreamTrainingData(
        self,
        request: pb.StreamTrainingDataRequest,
        context: ServicerContext[pb.StreamTrainingDataRequest, pb.StreamTrainingDataResponse],
    ) -> AsyncIterator[pb.StreamTrainingDataResponse]:
        """Streams what has changed since a cursor, then the new cursor."""
        cursor, space = request.cursor, plain_text("space", request.space)
        async with self._database.transaction(request.app_id) as connection:
            await change_feed.heal(connection, request.app_id)
        while True:
            # One snapshot for the feed and the states; the transaction is over before anything is sent.
            async with self._database.transaction(request.app_id, isolation="repeatable read") as connection:
                changes = await change_feed.read(connection, request.app_id, cursor, _BATCH)
                states = await training_data.states(connection, request.app_id, space, changes.ids)
            cursor, last = changes.next_cursor, len(changes.ids) < _BATCH
            yield pb.StreamTrainingDataResponse(
                inputs=[training_input_to_proto(state) for state in states], next_cursor=cursor if last else ""
            )
            if last:
                return
