"""InputService: pictures of an app."""

from collections.abc import Mapping, Sequence

from grpc.aio import ServicerContext

from lensmith_api.v1 import input_service_pb2 as pb
from lensmith_api.v1.input_pb2 import Input, InputStatus
from lensmith_api.v1.input_service_pb2_grpc import InputServiceServicer
from lensmith_dataset.converters import (
    check_annotation_count,
    input_to_proto,
    labels_from_proto,
    metadata_from_proto,
)
from lensmith_dataset.image_links import ImageLinkSigner
from lensmith_dataset.ingest import Draft, Ingest, Origin, Results
from lensmith_dataset.metrics import IngestMetrics
from lensmith_dataset.settings import DatasetSettings
from lensmith_dataset.store import annotations, general, inputs
from lensmith_dataset.store.additions import Added
from lensmith_platform import etags, timestamps, update_mask
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import OK, InvalidInputError, LensmithError, NotFoundError, to_status
from lensmith_platform.principal import addressed_app, current_call
from lensmith_platform.resource_names import parse
from lensmith_platform.usage import UsageMeter

_INPUT = "apps/{app}/inputs/{input}"
_UPDATABLE = frozenset({"metadata", "test"})


class InputServicer(InputServiceServicer):
    """Serves inputs.

    Args:
        database: of the service's own role.
        ingest: takes pictures in.
        links: signs links to pictures.
        pager: signs page tokens.
        meter: counts uploads.
        settings: limits.
        metrics: what is counted.
    """

    def __init__(
        self,
        database: Database,
        ingest: Ingest,
        links: ImageLinkSigner,
        pager: Pager,
        meter: UsageMeter,
        settings: DatasetSettings,
        metrics: IngestMetrics,
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._links = links
        self._pager = pager
        self._meter = meter
        self._settings = settings
        self._metrics = metrics

    async def CreateInputs(
        self,
        request: pb.CreateInputsRequest,
        context: ServicerContext[pb.CreateInputsRequest, pb.CreateInputsResponse],
    ) -> pb.CreateInputsResponse:
        """Add pictures, each with a status of its own."""
        self._check_size(request)
        call, app = current_call(), addressed_app()
        origin = Origin(
            app,
            call.principal.actor,
            allow_duplicate=request.allow_duplicate,
            request_id=request.request_id,
        )
        drafts, results = self._drafts(request.inputs)
        results |= await self._ingest.add(origin, drafts)
        created = sum(isinstance(result, Added) and not result.duplicate for result in results.values())
        if created:
            self._meter.record(app.app_id, "upload", "", call.principal.key_uid or "", created)
        self._count(results, created)
        return await self._answer(results, len(request.inputs))

    def _check_size(self, request: pb.CreateInputsRequest) -> None:
        """Refuse what is too much for one call; the server refuses larger messages before they are read."""
        if len(request.inputs) > self._settings.max_inputs:
            raise InvalidInputError(
                "TOO_MANY_INPUTS",
                f"the call has {len(request.inputs)} inputs; at most {self._settings.max_inputs} (max_inputs)",
                metadata={"limit": "max_inputs", "max": str(self._settings.max_inputs)},
            )
        check_annotation_count(sum(len(item.annotations) for item in request.inputs), self._settings.max_annotations)

    def _drafts(self, items: Sequence[pb.NewInput]) -> tuple[list[Draft], Results]:
        """Convert items; one that is wrong fails alone."""
        drafts: list[Draft] = []
        refused: Results = {}
        for position, item in enumerate(items):
            try:
                drafts.append(self._draft(position, item))
            except LensmithError as error:
                refused[position] = error
        return drafts, refused

    def _draft(self, position: int, item: pb.NewInput) -> Draft:
        content, url = item.image.content, item.image.url
        if not content and item.image.HasField("content"):
            raise InvalidInputError("IMAGE_EMPTY", "the image has no bytes")
        if not content and not url:
            raise InvalidInputError("IMAGE_MISSING", "an input needs an image: its bytes in content, or a url")
        metadata = None
        if item.HasField("metadata"):
            metadata = metadata_from_proto(item.metadata, self._settings.max_metadata_bytes) or None
        return Draft(
            position=position,
            own_id=item.input_id or None,
            content=content,
            url=url,
            test=item.test,
            metadata=metadata,
            labels=labels_from_proto(item.annotations),
        )

    async def _answer(self, results: Mapping[int, Added | LensmithError], count: int) -> pb.CreateInputsResponse:
        app = addressed_app()
        ids = {result.input_id for result in results.values() if isinstance(result, Added)}
        async with self._database.transaction(app.app_id) as connection:
            messages = await _messages(connection, app.app_id, app.name, ids)
        response = pb.CreateInputsResponse()
        for position in range(count):
            result = results[position]
            if isinstance(result, LensmithError):
                response.results.add(status=to_status(result))
            elif result.input_id not in messages:
                gone = NotFoundError("INPUT_DELETED", "The input was added, and deleted again by another call.")
                response.results.add(status=to_status(gone))
            else:
                response.results.add(status=OK, input=messages[result.input_id], duplicate=result.duplicate)
        return response

    def _count(self, results: Results, created: int) -> None:
        added = sum(isinstance(result, Added) for result in results.values())
        self._metrics.inputs.labels("created").inc(created)
        self._metrics.inputs.labels("duplicate").inc(added - created)
        self._metrics.inputs.labels("refused").inc(len(results) - added)

    async def GetInput(self, request: pb.GetInputRequest, context: ServicerContext[pb.GetInputRequest, Input]) -> Input:
        """Return one input with its annotations and what General saw in it."""
        app, key = addressed_app(), parse(_INPUT, request.name)["input"]
        async with self._database.transaction(app.app_id) as connection:
            row = await _get(connection, app.app_id, key)
            labels = await annotations.of_inputs(connection, app.app_id, [row.id])
            seen = await general.of_inputs(connection, app.app_id, [row.id])
        return input_to_proto(app.name, row, labels.get(row.id, ()), seen.get(row.id))

    async def ListInputs(
        self, request: pb.ListInputsRequest, context: ServicerContext[pb.ListInputsRequest, pb.ListInputsResponse]
    ) -> pb.ListInputsResponse:
        """List inputs, newest first."""
        app = addressed_app()
        if request.status not in InputStatus.values():
            raise InvalidInputError(
                "INPUT_STATUS_UNKNOWN",
                f"there is no status of inputs number {request.status}",
                field_violations=[("status", "is no status of an input")],
            )
        query = f"inputs|{app.app_id}|{request.status}|{request.concept}"
        position = self._pager.decode(request.page_token, query)
        size = self._pager.size(request.page_size)
        async with self._database.transaction(app.app_id) as connection:
            rows = await inputs.list_page(
                connection,
                app.app_id,
                before=int(position[0]) if position else None,
                limit=size + 1,
                status=request.status or None,
                concept=request.concept or None,
            )
            page = rows[:size]
            ids = [row.id for row in page]
            labels = await annotations.of_inputs(connection, app.app_id, ids)
            seen = await general.of_inputs(connection, app.app_id, ids) if request.with_general_concepts else {}
        token = self._pager.encode((page[-1].id,), query) if len(rows) > size else ""
        return pb.ListInputsResponse(
            inputs=[input_to_proto(app.name, row, labels.get(row.id, ()), seen.get(row.id)) for row in page],
            next_page_token=token,
        )

    async def UpdateInput(
        self, request: pb.UpdateInputRequest, context: ServicerContext[pb.UpdateInputRequest, Input]
    ) -> Input:
        """Change metadata and test."""
        paths = update_mask.apply(request.update_mask, _UPDATABLE)
        change = inputs.Change(
            metadata=metadata_from_proto(request.input.metadata, self._settings.max_metadata_bytes)
            if "metadata" in paths
            else None,
            test=request.input.test if "test" in paths else None,
        )
        app, key = addressed_app(), parse(_INPUT, request.input.name, field="input.name")["input"]
        async with self._database.transaction(app.app_id) as connection:
            await inputs.lock(connection, app.app_id, [key])
            row = await _get(connection, app.app_id, key)
            etags.check(request.input.etag, str(row.revision))
            await inputs.update(connection, app.app_id, row.id, change)
            changed = await _get(connection, app.app_id, key)
            labels = await annotations.of_inputs(connection, app.app_id, [row.id])
            seen = await general.of_inputs(connection, app.app_id, [row.id])
        return input_to_proto(app.name, changed, labels.get(row.id, ()), seen.get(row.id))

    async def DeleteInputs(
        self,
        request: pb.DeleteInputsRequest,
        context: ServicerContext[pb.DeleteInputsRequest, pb.DeleteInputsResponse],
    ) -> pb.DeleteInputsResponse:
        """Delete inputs with their annotations; their bytes go after the grace period."""
        app_id = addressed_app().app_id
        keys = list(dict.fromkeys(request.input_ids))

        async def delete() -> set[str]:
            async with self._database.transaction(app_id) as connection:
                return await inputs.delete(connection, app_id, keys)

        deleted = await self._database.retry(delete)
        return pb.DeleteInputsResponse(
            statuses=[OK if key in deleted else to_status(_not_found(key)) for key in request.input_ids]
        )

    async def GetInputCounts(
        self, request: pb.GetInputCountsRequest, context: ServicerContext[pb.GetInputCountsRequest, pb.InputCounts]
    ) -> pb.InputCounts:
        """Counts inputs by status."""
        app_id = addressed_app().app_id
        async with self._database.transaction(app_id) as connection:
            counts = await inputs.counts(connection, app_id)
        return pb.InputCounts(
            pending=counts.get(InputStatus.INPUT_STATUS_PENDING, 0),
            ready=counts.get(InputStatus.INPUT_STATUS_READY, 0),
            failed=counts.get(InputStatus.INPUT_STATUS_FAILED, 0),
        )

    async def GetImage(
        self, request: pb.GetImageRequest, context: ServicerContext[pb.GetImageRequest, pb.GetImageResponse]
    ) -> pb.GetImageResponse:
        """Make a short-lived signed link to a picture's bytes."""
        app, key = addressed_app(), parse(_INPUT, request.name)["input"]
        async with self._database.transaction(app.app_id) as connection:
            row = await _get(connection, app.app_id, key)
        path, expiry = self._links.sign(app, row.sha256, row.mime_type)
        return pb.GetImageResponse(path=path, expire_time=timestamps.to_proto(expiry))


async def _messages(connection: Connection, app_id: int, app: str, ids: set[int]) -> dict[int, Input]:
    rows = await inputs.get_many(connection, app_id, sorted(ids))
    labels = await annotations.of_inputs(connection, app_id, sorted(rows))
    return {row.id: input_to_proto(app, row, labels.get(row.id, ())) for row in rows.values()}


async def _get(connection: Connection, app_id: int, key: str) -> inputs.InputRow:
    row = await inputs.get(connection, app_id, key)
    if row is None:
        raise _not_found(key)
    return row


def _not_found(key: str) -> NotFoundError:
    return NotFoundError("INPUT_NOT_FOUND", f"the app has no input {key!r}", metadata={"input": key})
