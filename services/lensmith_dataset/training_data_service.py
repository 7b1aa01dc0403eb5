"""TrainingDataService: what registry, trainer and inference ask about the pictures to train on."""

import asyncio
from collections.abc import AsyncIterator

from grpc.aio import ServicerContext

from lensmith_api.internal.v1 import training_data_service_pb2 as pb
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceServicer
from lensmith_dataset.converters import concept_count_to_proto, fill_training_input, near_input_to_proto
from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_dataset.side_by_side import lay_out
from lensmith_dataset.store import apps, inputs, nearest, new_annotations, testing_data, training_data
from lensmith_dataset.vectors import halfvec_from_float16
from lensmith_platform import change_feed
from lensmith_platform.blobs import blob_key
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import DependencyUnavailableError, InvalidInputError, NotFoundError

_BATCH = 1000
_POLL_SECONDS = 0.05
_MOST_PICTURES = 1000
_PICTURES_AT_ONCE = 4
"""Of one stream in memory."""


class TrainingDataServicer(TrainingDataServiceServicer):
    """Serves training data to other services.

    Args:
        database: of the service's own role.
        files: where pictures lie.
        feed_wait_seconds: how long a stream waits for transactions that held back what was committed when it began.
    """

    def __init__(self, database: Database, files: RecentBlobs, feed_wait_seconds: float) -> None:
        self._database = database
        self._files = files
        self._feed_wait_seconds = feed_wait_seconds

    async def CountTrainingData(
        self,
        request: pb.CountTrainingDataRequest,
        context: ServicerContext[pb.CountTrainingDataRequest, pb.CountTrainingDataResponse],
    ) -> pb.CountTrainingDataResponse:
        """Counts what an app has to train a model on."""
        space = request.space
        concepts = list(request.concepts) or None
        async with self._database.transaction(request.app_id, isolation="repeatable read") as connection:
            counts = await training_data.count_by_concept(connection, request.app_id, space, concepts)
            annotated = await training_data.count_annotated(connection, request.app_id, space, concepts)
            pending = await training_data.count_pending(connection, request.app_id, space)
            tests = None
            if request.tests:
                found = await testing_data.count_tests(connection, request.app_id, space, concepts)
                tests = pb.TestInputCount(
                    inputs=found.inputs, annotated=found.annotated, positives=found.positives, numbers=found.numbers
                )
            waiting = await new_annotations.count_pending(connection, request.app_id, space, concepts)
            cursor = await new_annotations.cursor(connection, request.app_id)
        return pb.CountTrainingDataResponse(
            concepts=[concept_count_to_proto(count) for count in counts],
            annotated_inputs=annotated,
            pending_inputs=pending,
            pending_annotations=waiting,
            annotations_cursor=cursor,
            tests=tests,
        )

    async def CountNewAnnotations(
        self,
        request: pb.CountNewAnnotationsRequest,
        context: ServicerContext[pb.CountNewAnnotationsRequest, pb.CountNewAnnotationsResponse],
    ) -> pb.CountNewAnnotationsResponse:
        """Counts annotations that were made or changed since a cursor."""
        app_id, concepts = request.app_id, list(request.concepts) or None
        async with self._database.transaction(app_id, isolation="repeatable read") as connection:
            count = await new_annotations.count(connection, app_id, concepts, request.annotations_cursor)
            pending = await new_annotations.count_pending(connection, app_id, request.space, concepts)
            cursor = await new_annotations.cursor(connection, app_id)
        return pb.CountNewAnnotationsResponse(count=count, annotations_cursor=cursor, pending_annotations=pending)

    async def NameInputs(
        self,
        request: pb.NameInputsRequest,
        context: ServicerContext[pb.NameInputsRequest, pb.NameInputsResponse],
    ) -> pb.NameInputsResponse:
        """Tells how inputs are called now."""
        uids = [inputs.as_uid(text) for text in request.input_uids]
        async with self._database.transaction(request.app_id) as connection:
            names = await inputs.names(connection, request.app_id, [uid for uid in uids if uid is not None])
        return pb.NameInputsResponse(
            input_ids=[
                text if uid is None else names.get(uid, text)
                for uid, text in zip(uids, request.input_uids, strict=True)
            ]
        )

    async def StreamTrainingData(
        self,
        request: pb.StreamTrainingDataRequest,
        context: ServicerContext[pb.StreamTrainingDataRequest, pb.StreamTrainingDataResponse],
    ) -> AsyncIterator[pb.StreamTrainingDataResponse]:
        """Stream what has changed since a cursor, with all that was committed when it began, then the new cursor.

        Raises:
            DependencyUnavailableError: FEED_BEHIND: a transaction wrote for so long that what was committed meanwhile
                cannot be told yet.
        """
        async with self._database.transaction(request.app_id) as connection:
            await change_feed.heal(connection, request.app_id)
        newest, waited = 0, 0.0
        reading = asyncio.create_task(self._read(request, request.cursor))
        try:
            while True:
                changes, states = await reading
                cursor, newest = changes.next_cursor, newest or changes.newest
                at_end = len(changes.ids) < _BATCH
                complete = at_end and changes.horizon >= newest
                if not at_end:
                    # Postgres reads on while this part is laid out and sent.
                    reading = asyncio.create_task(self._read(request, cursor))
                if states or complete:
                    response = pb.StreamTrainingDataResponse(next_cursor=cursor if complete else "")
                    one_by_one = lay_out(states, response.complete) if request.side_by_side else states
                    for state in one_by_one:
                        fill_training_input(response.inputs.add(), state)
                    yield response
                if complete:
                    return
                if at_end:
                    if waited >= self._feed_wait_seconds:
                        raise DependencyUnavailableError(
                            "FEED_BEHIND",
                            f"what was changed waits for a transaction that has been writing for over {waited:.0f} s",
                        )
                    await asyncio.sleep(_POLL_SECONDS)
                    waited += _POLL_SECONDS
                    reading = asyncio.create_task(self._read(request, cursor))
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, request: pb.StreamTrainingDataRequest, cursor: str
    ) -> tuple[change_feed.Changes, list[training_data.TrainingState]]:
        """Read a part of the feed and the states in it, in one snapshot; nothing is sent or waited for meanwhile."""
        app_id = request.app_id
        async with self._database.transaction(app_id, isolation="repeatable read") as connection:
            changes = await change_feed.read(connection, app_id, cursor, _BATCH)
            return changes, await training_data.states(connection, app_id, request.space, changes.ids)

    async def StreamPictures(
        self,
        request: pb.StreamPicturesRequest,
        context: ServicerContext[pb.StreamPicturesRequest, pb.StreamPicturesResponse],
    ) -> AsyncIterator[pb.StreamPicturesResponse]:
        """Stream pictures as they were uploaded, in the order asked for, a few of them in memory at a time.

        Raises:
            InvalidInputError: TOO_MANY_INPUTS.
        """
        if len(request.input_uids) > _MOST_PICTURES:
            raise InvalidInputError("TOO_MANY_INPUTS", f"at most {_MOST_PICTURES} pictures are streamed at once")
        uids = [uid for uid in map(inputs.as_uid, request.input_uids) if uid is not None]
        async with self._database.transaction(request.app_id) as connection:
            app = await apps.get(connection, request.app_id)
            hashes = await training_data.file_hashes(connection, request.app_id, uids)
        if app is None:
            return
        wanted = [(str(uid), blob_key(app.uid, hashes[uid].hex())) for uid in uids if uid in hashes]
        for start in range(0, len(wanted), _PICTURES_AT_ONCE):
            some = wanted[start : start + _PICTURES_AT_ONCE]
            contents = await asyncio.gather(*(self._content(key) for _, key in some))
            for (uid, _), content in zip(some, contents, strict=True):
                if content is not None:
                    yield pb.StreamPicturesResponse(input_uid=uid, content=content)

    async def _content(self, key: str) -> bytes | None:
        try:
            return await self._files.get(key)
        except NotFoundError:
            return None

    async def FindNearestTrainingInputs(
        self,
        request: pb.FindNearestTrainingInputsRequest,
        context: ServicerContext[pb.FindNearestTrainingInputsRequest, pb.FindNearestTrainingInputsResponse],
    ) -> pb.FindNearestTrainingInputsResponse:
        """Finds the training pictures that are most like given ones.

        Raises:
            InvalidInputError: VECTOR_INVALID.
        """
        app_id, found = request.app_id, []
        vectors = [halfvec_from_float16(vector) for vector in request.vectors]
        async with self._database.transaction(app_id, isolation="repeatable read") as connection:
            app = await nearest.app_name(connection, app_id)
            concepts = await nearest.concept_ids(connection, app_id, list(request.concepts))
            for vector in vectors:
                if vector is None:
                    raise InvalidInputError("VECTOR_INVALID", "a vector is not finite float16, or too long")
                found.append(await nearest.nearest(connection, app_id, request.space, concepts, vector, request.count))
        return pb.FindNearestTrainingInputsResponse(
            nearest=[pb.NearestTrainingInputs(inputs=[near_input_to_proto(app, one) for one in near]) for near in found]
        )
