"""ConceptService: the words of an app's own taxonomy."""

from collections.abc import Sequence

from grpc.aio import ServicerContext

from lensmith_api.v1 import concept_service_pb2 as pb
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceServicer
from lensmith_dataset.converters import concept_to_proto
from lensmith_dataset.store import concepts
from lensmith_dataset.store.concepts import ConceptRow, LabelCounts, NewConcept
from lensmith_platform import etags, update_mask
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Connection, Database
from lensmith_platform.errors import OK, NotFoundError, to_status
from lensmith_platform.principal import addressed_app, current_call
from lensmith_platform.resource_names import parse

_CONCEPT = "apps/{app}/concepts/{concept}"
_UPDATABLE = frozenset({"display_name", "description"})
_DELETED_AT_ONCE = 5000
"""Annotations deleted in one transaction: a concept of a million pictures must not hold locks for minutes."""


class ConceptServicer(ConceptServiceServicer):
    """Serves concepts.

    Args:
        database: of the service's own role.
        pager: signs page tokens.
    """

    def __init__(self, database: Database, pager: Pager) -> None:
        self._database = database
        self._pager = pager

    async def CreateConcepts(
        self,
        request: pb.CreateConceptsRequest,
        context: ServicerContext[pb.CreateConceptsRequest, pb.CreateConceptsResponse],
    ) -> pb.CreateConceptsResponse:
        """Create concepts; those that exist are returned with `existed`."""
        call, app = current_call(), addressed_app()
        new = [
            NewConcept(
                concept.concept_id,
                concept.display_name,
                concept.description,
            )
            for concept in request.concepts
        ]

        async def create() -> tuple[set[str], dict[str, Concept]]:
            async with self._database.transaction(app.app_id) as connection:
                created = await concepts.create(connection, app.app_id, new, call.principal.actor)
                rows = await concepts.get_many(connection, app.app_id, [concept.own_id for concept in new])
                messages = await _messages(connection, app.app_id, app.name, list(rows.values()))
            return created, {message.name: message for message in messages}

        created, messages = await self._database.retry(create)
        response = pb.CreateConceptsResponse()
        for concept in new:
            message = messages[f"apps/{app.name}/concepts/{concept.own_id}"]
            # Of two equal ones in a call the first is the new one.
            response.results.add(status=OK, concept=message, existed=concept.own_id not in created)
            created.discard(concept.own_id)
        return response

    async def GetConcept(
        self, request: pb.GetConceptRequest, context: ServicerContext[pb.GetConceptRequest, Concept]
    ) -> Concept:
        """Return one concept."""
        app, own_id = addressed_app(), parse(_CONCEPT, request.name)["concept"]
        async with self._database.transaction(app.app_id) as connection:
            rows = await concepts.get_many(connection, app.app_id, [own_id])
            messages = await _messages(connection, app.app_id, app.name, list(rows.values()))
        if not messages:
            raise _not_found(own_id)
        return messages[0]

    async def ListConcepts(
        self,
        request: pb.ListConceptsRequest,
        context: ServicerContext[pb.ListConceptsRequest, pb.ListConceptsResponse],
    ) -> pb.ListConceptsResponse:
        """List concepts in order of their own id."""
        app, contains = addressed_app(), request.contains
        query = f"concepts|{app.app_id}|{contains}"
        position = self._pager.decode(request.page_token, query)
        size = self._pager.size(request.page_size)
        async with self._database.transaction(app.app_id) as connection:
            rows = await concepts.list_page(
                connection,
                app.app_id,
                after=str(position[0]) if position else None,
                limit=size + 1,
                contains=contains,
            )
            page = rows[:size]
            messages = await _messages(connection, app.app_id, app.name, page)
        token = self._pager.encode((page[-1].own_id,), query) if len(rows) > size else ""
        return pb.ListConceptsResponse(concepts=messages, next_page_token=token)

    async def UpdateConcept(
        self, request: pb.UpdateConceptRequest, context: ServicerContext[pb.UpdateConceptRequest, Concept]
    ) -> Concept:
        """Change display name and description."""
        paths = update_mask.apply(request.update_mask, _UPDATABLE)
        values = request.concept
        change = concepts.Change(
            display_name=values.display_name if "display_name" in paths else None,
            description=values.description if "description" in paths else None,
        )
        app, own_id = addressed_app(), parse(_CONCEPT, values.name, field="concept.name")["concept"]
        async with self._database.transaction(app.app_id) as connection:
            row = await concepts.lock(connection, app.app_id, own_id)
            if row is None:
                raise _not_found(own_id)
            etags.check(values.etag, str(row.revision))
            await concepts.update(connection, app.app_id, row, change)
            rows = await concepts.get_many(connection, app.app_id, [own_id])
            messages = await _messages(connection, app.app_id, app.name, list(rows.values()))
        return messages[0]

    async def DeleteConcepts(
        self,
        request: pb.DeleteConceptsRequest,
        context: ServicerContext[pb.DeleteConceptsRequest, pb.DeleteConceptsResponse],
    ) -> pb.DeleteConceptsResponse:
        """Delete concepts with their annotations; a call that ends early is completed by repeating it."""
        app_id = addressed_app().app_id
        deleted = {own_id: await self._delete(app_id, own_id) for own_id in dict.fromkeys(request.concept_ids)}
        return pb.DeleteConceptsResponse(
            statuses=[OK if deleted[own_id] else to_status(_not_found(own_id)) for own_id in request.concept_ids]
        )

    async def _delete(self, app_id: int, own_id: str) -> bool:
        async def delete_some() -> bool | None:
            async with self._database.transaction(app_id) as connection:
                return await concepts.delete_some(connection, app_id, own_id, _DELETED_AT_ONCE)

        while (gone := await self._database.retry(delete_some)) is False:
            pass
        return gone is not None


async def _messages(connection: Connection, app_id: int, app: str, rows: Sequence[ConceptRow]) -> list[Concept]:
    counts = await concepts.count_labels(connection, app_id, [row.id for row in rows])
    return [concept_to_proto(app, row, counts.get(row.id, LabelCounts())) for row in rows]


def _not_found(own_id: str) -> NotFoundError:
    return NotFoundError("CONCEPT_NOT_FOUND", f"the app has no concept {own_id!r}", metadata={"concept": own_id})
