"""AnnotationService: which input shows which concept."""

from datetime import datetime

from grpc.aio import ServicerContext

from lensmith_api.v1 import annotation_service_pb2 as pb
from lensmith_api.v1.annotation_service_pb2_grpc import AnnotationServiceServicer
from lensmith_dataset.converters import (
    action_from_proto,
    check_annotation_count,
    input_annotation_to_proto,
    labels_from_proto,
)
from lensmith_dataset.store import annotations
from lensmith_dataset.store.annotations import LabelChange
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import OK, LensmithError, to_status
from lensmith_platform.principal import addressed_app, current_call


class AnnotationServicer(AnnotationServiceServicer):
    """Serves annotations.

    Args:
        database: of the service's own role.
        pager: signs page tokens.
        max_annotations: most annotations of one call.
    """

    def __init__(self, database: Database, pager: Pager, max_annotations: int) -> None:
        self._database = database
        self._pager = pager
        self._max_annotations = max_annotations

    async def Annotate(
        self, request: pb.AnnotateRequest, context: ServicerContext[pb.AnnotateRequest, pb.AnnotateResponse]
    ) -> pb.AnnotateResponse:
        """Change the annotations of inputs, each with a status of its own."""
        check_annotation_count(sum(len(item.annotations) for item in request.items), self._max_annotations)
        call, app_id = current_call(), addressed_app().app_id
        outcomes: dict[int, LensmithError | None] = {}
        changes: dict[int, LabelChange] = {}
        for position, item in enumerate(request.items):
            try:
                changes[position] = _change(item)
            except LensmithError as error:
                outcomes[position] = error

        async def change() -> list[LensmithError | None]:
            async with self._database.transaction(app_id) as connection:
                return await annotations.change(connection, app_id, list(changes.values()), call.principal.actor)

        outcomes |= zip(changes, await self._database.retry(change), strict=True)
        errors = (outcomes[position] for position in range(len(request.items)))
        return pb.AnnotateResponse(statuses=[OK if error is None else to_status(error) for error in errors])

    async def ListAnnotations(
        self,
        request: pb.ListAnnotationsRequest,
        context: ServicerContext[pb.ListAnnotationsRequest, pb.ListAnnotationsResponse],
    ) -> pb.ListAnnotationsResponse:
        """List annotations, the ones changed last first."""
        app = addressed_app()
        concept, key = request.concept, request.input
        query = f"annotations|{app.app_id}|{concept}|{key}"
        position = self._pager.decode(request.page_token, query)
        size = self._pager.size(request.page_size)
        before = (datetime.fromisoformat(str(position[0])), int(position[1]), int(position[2])) if position else None
        async with self._database.transaction(app.app_id) as connection:
            rows = await annotations.list_page(
                connection, app.app_id, before=before, limit=size + 1, concept=concept or None, key=key or None
            )
        page = rows[:size]
        token = ""
        if len(rows) > size:
            last = page[-1]
            token = self._pager.encode((last.updated_at.isoformat(), last.input_id, last.concept_id), query)
        return pb.ListAnnotationsResponse(
            annotations=[input_annotation_to_proto(app.name, row) for row in page], next_page_token=token
        )


def _change(item: pb.InputAnnotations) -> LabelChange:
    return LabelChange(item.input, action_from_proto(item.action), labels_from_proto(item.annotations))
