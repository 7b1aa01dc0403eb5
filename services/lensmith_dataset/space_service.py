"""SpaceService: what registry says about the spaces of apps that move to another base model."""

from datetime import timedelta

from google.rpc.status_pb2 import Status
from grpc.aio import ServicerContext

from lensmith_api.internal.v1 import space_service_pb2 as pb
from lensmith_api.internal.v1.space_service_pb2_grpc import SpaceServiceServicer
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_dataset.store import spaces
from lensmith_dataset.store.spaces import Space, SpaceProgress
from lensmith_platform.db.unit_of_work import Database


class SpaceServicer(SpaceServiceServicer):
    """Checks, calls, converts.

    Args:
        database: of the service's own role.
        grace: how long the vectors of a space are kept that an app has left and may come back to.
    """

    def __init__(self, database: Database, grace: timedelta) -> None:
        self._database = database
        self._grace = grace

    async def SetSpaces(
        self,
        request: pb.SetSpacesRequest,
        context: ServicerContext[pb.SetSpacesRequest, pb.SetSpacesResponse],
    ) -> pb.SetSpacesResponse:
        """Says which spaces an app wants, and tells how far its inputs are."""
        app_id = request.app_id
        current = _space(request.current)
        target = _space(request.target) if request.HasField("target") else None
        keep = self._grace if request.keep_vectors else timedelta()

        async def set_and_look() -> SpaceProgress:
            async with self._database.transaction(app_id) as connection:
                await spaces.set_spaces(connection, app_id, request.revision, current, target, keep)
            # Counting takes a while in a large app; nobody's lock is held meanwhile.
            async with self._database.transaction(app_id) as connection:
                return await spaces.progress(connection, app_id, (target or current).space)

        found = await self._database.retry(set_and_look)
        return pb.SetSpacesResponse(
            progress=pb.SpaceProgress(
                inputs=found.inputs,
                embedded=found.embedded,
                failed=found.failed,
                complete=found.complete,
                failures=found.failures,
                error=None if found.error is None else Status.FromString(found.error),
            )
        )


def _space(base_model: BaseModel) -> Space:
    return Space(base_model.space, base_model.name, base_model.dimensions)
