"""Inputs, concepts and annotations of one app."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Final

from lensmith import _convert, types
from lensmith._async.transport import AsyncTransport, new_request_id
from lensmith.errors import DeadlineExceededError, LensmithError
from lensmith_api.v1 import annotation_service_pb2, concept_service_pb2, input_service_pb2
from lensmith_api.v1.annotation_service_pb2_grpc import AnnotationServiceStub
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceStub
from lensmith_api.v1.input_pb2 import INPUT_STATUS_UNSPECIFIED, Input
from lensmith_api.v1.input_service_pb2_grpc import InputServiceStub

PAGE: Final = 1000
# One call carries at most 128 inputs and 64 MiB; smaller batches show progress and lose less when one is repeated.
BATCH_INPUTS: Final = 64
BATCH_BYTES: Final = 24 * 1024 * 1024
POLL_SECONDS: Final = 0.25


class AsyncInputs:
    """Pictures of one app."""

    def __init__(self, transport: AsyncTransport, app: str) -> None:
        self._transport = transport
        self._parent = f"apps/{app}"
        self._stub = InputServiceStub(transport.channel)

    async def create(
        self, inputs: Iterable[types.NewInput], *, allow_duplicate: bool = False
    ) -> AsyncIterator[types.InputResult]:
        """Adds pictures, any number of them, and yields what became of each, in order.

        A file that cannot be read, and a picture that the platform refuses, has its error in its own result.
        """
        for batch in _batches(inputs):
            sent = [item for item in batch if isinstance(item, input_service_pb2.NewInput)]
            results: Iterator[input_service_pb2.CreateInputResult] = iter(())
            if sent:
                response = await self._transport.call(
                    self._stub.CreateInputs,
                    input_service_pb2.CreateInputsRequest(
                        parent=self._parent, inputs=sent, allow_duplicate=allow_duplicate, request_id=new_request_id()
                    ),
                )
                results = iter(response.results)
            for item in batch:
                if isinstance(item, LensmithError):
                    yield types.InputResult(input=None, duplicate=False, error=item)
                else:
                    yield _convert.input_result(next(results))

    async def get(self, input_id: str) -> types.Input:
        """Returns one input, by its own id or its uid."""
        return _convert.input_(
            await self._transport.call(
                self._stub.GetInput, input_service_pb2.GetInputRequest(name=f"{self._parent}/inputs/{input_id}")
            )
        )

    async def list(
        self, *, status: types.InputStatus | None = None, concept: str = "", general_concepts: bool = False
    ) -> AsyncIterator[types.Input]:
        """Yields inputs, newest first: of one status, or annotated positive with one concept.

        Args:
            status: Only those of this status.
            concept: Only those annotated positive with this concept.
            general_concepts: Whether to tell what General saw in each.
        """
        token = ""
        while True:
            page = await self._transport.call(
                self._stub.ListInputs,
                input_service_pb2.ListInputsRequest(
                    parent=self._parent,
                    page_size=PAGE,
                    page_token=token,
                    status=_convert.INPUT_STATUS_TO_PROTO[status] if status else INPUT_STATUS_UNSPECIFIED,
                    concept=concept,
                    with_general_concepts=general_concepts,
                ),
            )
            for message in page.inputs:
                yield _convert.input_(message)
            if not (token := page.next_page_token):
                return

    async def update(
        self, input_id: str, *, metadata: Mapping[str, types.Json] | None = None, test: bool | None = None
    ) -> types.Input:
        """Changes what is given."""
        message = Input(
            name=f"{self._parent}/inputs/{input_id}",
            metadata=_convert.struct(metadata) if metadata is not None else None,
            test=bool(test),
        )
        mask = _convert.mask(metadata=metadata, test=test)
        return _convert.input_(
            await self._transport.call(
                self._stub.UpdateInput,
                input_service_pb2.UpdateInputRequest(input=message, update_mask=mask),
            )
        )

    async def delete(self, input_ids: Sequence[str]) -> Sequence[LensmithError | None]:
        """Deletes inputs; for each id None, or why it was not deleted."""
        response = await self._transport.call(
            self._stub.DeleteInputs,
            input_service_pb2.DeleteInputsRequest(parent=self._parent, input_ids=input_ids),
        )
        return [_convert.error(status) for status in response.statuses]

    async def counts(self) -> types.InputCounts:
        """Counts inputs by status."""
        counts = await self._transport.call(
            self._stub.GetInputCounts, input_service_pb2.GetInputCountsRequest(parent=self._parent)
        )
        return types.InputCounts(pending=counts.pending, ready=counts.ready, failed=counts.failed)

    async def image_path(self, input_id: str) -> str:
        """Path on the platform that serves the picture's bytes for a few minutes to whoever has it."""
        response = await self._transport.call(
            self._stub.GetImage, input_service_pb2.GetImageRequest(name=f"{self._parent}/inputs/{input_id}")
        )
        return response.path

    async def wait_until_ready(self, *, timeout: float = 3600.0) -> types.InputCounts:
        """Waits until no input waits to be embedded.

        Raises:
            DeadlineExceededError: Some still wait after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            counts = await self.counts()
            if not counts.pending:
                return counts
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    "INPUTS_PENDING", f"{counts.pending} inputs still wait to be embedded after {timeout:.0f} s"
                )
            await asyncio.sleep(POLL_SECONDS)


class AsyncConcepts:
    """Concepts of one app."""

    def __init__(self, transport: AsyncTransport, app: str) -> None:
        self._transport = transport
        self._parent = f"apps/{app}"
        self._stub = ConceptServiceStub(transport.channel)

    async def create(self, concepts: Sequence[str], *, display_names: Sequence[str] = ()) -> list[types.Concept]:
        """Creates concepts; those that exist are returned as they are.

        Raises:
            LensmithError: One could not be created.
        """
        names = list(display_names) or [""] * len(concepts)
        response = await self._transport.call(
            self._stub.CreateConcepts,
            concept_service_pb2.CreateConceptsRequest(
                parent=self._parent,
                concepts=[
                    concept_service_pb2.NewConcept(concept_id=concept, display_name=name)
                    for concept, name in zip(concepts, names, strict=True)
                ],
            ),
        )
        created = []
        for result in response.results:
            if error := _convert.error(result.status):
                raise error
            created.append(_convert.concept(result.concept))
        return created

    async def get(self, concept: str) -> types.Concept:
        """Returns one concept."""
        return _convert.concept(
            await self._transport.call(
                self._stub.GetConcept,
                concept_service_pb2.GetConceptRequest(name=f"{self._parent}/concepts/{concept}"),
            )
        )

    async def list(self, contains: str = "") -> AsyncIterator[types.Concept]:
        """Yields concepts in order of their own id; those whose id or name contains a text, whatever its case."""
        token = ""
        while True:
            page = await self._transport.call(
                self._stub.ListConcepts,
                concept_service_pb2.ListConceptsRequest(
                    parent=self._parent, page_size=PAGE, page_token=token, contains=contains
                ),
            )
            for message in page.concepts:
                yield _convert.concept(message)
            if not (token := page.next_page_token):
                return

    async def update(
        self, concept: str, *, display_name: str | None = None, description: str | None = None
    ) -> types.Concept:
        """Changes what is given."""
        message = Concept(
            name=f"{self._parent}/concepts/{concept}", display_name=display_name or "", description=description or ""
        )
        mask = _convert.mask(display_name=display_name, description=description)
        return _convert.concept(
            await self._transport.call(
                self._stub.UpdateConcept,
                concept_service_pb2.UpdateConceptRequest(concept=message, update_mask=mask),
            )
        )

    async def delete(self, concepts: Sequence[str]) -> Sequence[LensmithError | None]:
        """Deletes concepts with their annotations; for each None, or why it was not deleted."""
        response = await self._transport.call(
            self._stub.DeleteConcepts,
            concept_service_pb2.DeleteConceptsRequest(parent=self._parent, concept_ids=concepts),
        )
        return [_convert.error(status) for status in response.statuses]


class AsyncAnnotations:
    """Annotations of one app."""

    def __init__(self, transport: AsyncTransport, app: str) -> None:
        self._transport = transport
        self._parent = f"apps/{app}"
        self._stub = AnnotationServiceStub(transport.channel)

    async def merge(self, annotations: Mapping[str, Sequence[types.Annotation]]) -> dict[str, LensmithError]:
        """Adds annotations to inputs (own id or uid), replacing those of the same concept; returns what failed."""
        return await self._annotate(annotations, annotation_service_pb2.ANNOTATE_ACTION_MERGE)

    async def set(self, annotations: Mapping[str, Sequence[types.Annotation]]) -> dict[str, LensmithError]:
        """Replaces all annotations of inputs (own id or uid); returns what failed."""
        return await self._annotate(annotations, annotation_service_pb2.ANNOTATE_ACTION_SET)

    async def remove(self, concepts: Mapping[str, Sequence[str]]) -> dict[str, LensmithError]:
        """Removes the annotations of concepts from inputs (own id or uid); returns what failed."""
        annotations = {key: [types.Annotation(concept) for concept in names] for key, names in concepts.items()}
        return await self._annotate(annotations, annotation_service_pb2.ANNOTATE_ACTION_REMOVE)

    async def _annotate(
        self,
        annotations: Mapping[str, Sequence[types.Annotation]],
        action: annotation_service_pb2.AnnotateAction.ValueType,
    ) -> dict[str, LensmithError]:
        items = [
            annotation_service_pb2.InputAnnotations(
                input=input_id, action=action, annotations=[_convert.annotation_to_proto(item) for item in values]
            )
            for input_id, values in annotations.items()
        ]
        failed = {}
        for start in range(0, len(items), PAGE):
            part = items[start : start + PAGE]
            response = await self._transport.call(
                self._stub.Annotate, annotation_service_pb2.AnnotateRequest(parent=self._parent, items=part)
            )
            for item, status in zip(part, response.statuses, strict=True):
                if error := _convert.error(status):
                    failed[item.input] = error
        return failed

    async def list(self, *, concept: str = "", input_id: str = "") -> AsyncIterator[tuple[str, types.Annotation]]:
        """Yields pairs of an input and an annotation of it, last changed first: of one concept, or of one input."""
        token = ""
        while True:
            page = await self._transport.call(
                self._stub.ListAnnotations,
                annotation_service_pb2.ListAnnotationsRequest(
                    parent=self._parent, page_size=PAGE, page_token=token, concept=concept, input=input_id
                ),
            )
            for message in page.annotations:
                yield _convert.last_part(message.input), _convert.annotation(message.annotation)
            if not (token := page.next_page_token):
                return


def _batches(inputs: Iterable[types.NewInput]) -> Iterator[list[input_service_pb2.NewInput | LensmithError]]:
    """Reads files as they are needed, so that a folder of any size fits in memory."""
    batch: list[input_service_pb2.NewInput | LensmithError] = []
    size = 0
    for item in inputs:
        message: input_service_pb2.NewInput | LensmithError
        try:
            message = _convert.new_input_to_proto(item)
            item_size = len(message.image.content)
        except LensmithError as error:
            message, item_size = error, 0
        if batch and (len(batch) >= BATCH_INPUTS or size + item_size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += item_size
    if batch:
        yield batch
