"""Taking pictures in: fetched or received, checked, stored once per app, and added in short transactions.

Items travel in groups. Within a group each item may fail alone; a group is stored in one transaction, which holds no
lock while bytes travel. Groups are added in the order of the request, so that of equal pictures the first is new.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from lensmith_api.internal.v1.events_pb2 import Event, InputsCreated
from lensmith_dataset.recent_blobs import RecentBlobs
from lensmith_dataset.store import additions, apps, blobs
from lensmith_dataset.store.additions import Added, Addition
from lensmith_dataset.store.labels import Label
from lensmith_platform import outbox
from lensmith_platform.blobs import blob_key
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import ConflictError, InvalidInputError, LensmithError, NotFoundError
from lensmith_platform.fetcher import Fetcher
from lensmith_platform.principal import AppRef
from lensmith_vision.decode import ImageInfo, ImageLimits, inspect
from lensmith_vision.errors import VisionError

_GROUP_ITEMS = 32
_GROUP_URLS = 8
_GROUPS_AHEAD = 2
"""Groups of one call under way: the next is checked while one is stored."""
_PUTS_AT_ONCE = 8
_PURGE_TRIES = 20
_PURGE_WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Draft:
    """A picture to add, as asked for.

    Attributes:
        position: its place in the request.
        own_id: id that the user wants; None: the uid.
        content: the file; empty where `url` says where it is.
        url: where to fetch it.
        labels: annotations to make with it.
    """

    position: int
    own_id: str | None
    content: bytes
    url: str
    test: bool
    metadata: Mapping[str, Any] | None
    labels: Sequence[Label]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A draft with its bytes, which are a picture."""

    draft: Draft
    data: bytes
    sha256: bytes
    info: ImageInfo


@dataclass(frozen=True, slots=True)
class Origin:
    """Who adds pictures, where, and how.

    Attributes:
        app: the app.
        actor: who stands in the rows.
        allow_duplicate: whether bytes that the app already has become a second input.
        request_id: the caller's name for the attempt; empty: none.
    """

    app: AppRef
    actor: str
    allow_duplicate: bool = False
    request_id: str = ""


Results = dict[int, Added | LensmithError]
"""What became of items, by position."""


class Ingest:
    """Takes pictures in.

    Args:
        database: of the service's own role.
        files: where bytes are stored.
        fetcher: fetches URLs.
        limits: which pictures are taken.
        threads: checks pictures.
        fetch_concurrency: URLs fetched at once by this process.
    """

    def __init__(
        self,
        database: Database,
        files: RecentBlobs,
        fetcher: Fetcher,
        limits: ImageLimits,
        threads: Executor,
        fetch_concurrency: int,
    ) -> None:
        self._database = database
        self._files = files
        self._fetcher = fetcher
        self._limits = limits
        self._threads = threads
        # Fetched bytes are held until they are stored, so this bounds memory, not only sockets.
        self._fetching = asyncio.Semaphore(max(1, fetch_concurrency // _GROUP_URLS))
        self._remembered: dict[int, AppRef] = {}

    async def add(self, origin: Origin, drafts: Sequence[Draft]) -> Results:
        """Add pictures; return what became of each, by position.

        Raises:
            DependencyUnavailableError: Postgres or S3 does not answer. What was added before stays added; repeating
                the call finds it.
            NotFoundError: APP_NOT_FOUND; the app was deleted.
        """
        results: Results = {}
        if origin.request_id:
            results |= await self._recall_urls(origin, drafts)
        await self._remember_app(origin.app)
        room = asyncio.Semaphore(_GROUPS_AHEAD)
        tasks: list[asyncio.Task[Results]] = []
        for group in _groups([draft for draft in drafts if draft.position not in results]):
            previous = tasks[-1] if tasks else None
            tasks.append(asyncio.create_task(self._add_group(origin, group, room, previous)))
        try:
            for task in tasks:
                results |= await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return results

    async def _recall_urls(self, origin: Origin, drafts: Sequence[Draft]) -> Results:
        """What a repeated call would only fetch again. Bytes that were sent are compared before they are recalled."""
        sha256s = {draft.position: None for draft in drafts if draft.url}
        if not sha256s:
            return {}
        async with self._database.transaction(origin.app.app_id) as connection:
            return await additions.recall(connection, origin.app.app_id, origin.request_id, sha256s)

    async def _remember_app(self, app: AppRef) -> None:
        if self._remembered.get(app.app_id) == app:
            return
        async with self._database.transaction(app.app_id) as connection:
            alive = await apps.remember(connection, app)
        if not alive:
            raise NotFoundError("APP_NOT_FOUND", f"there is no app {app.name!r}", metadata={"app": app.name})
        self._remembered[app.app_id] = app

    async def _add_group(
        self,
        origin: Origin,
        group: Sequence[Draft],
        room: asyncio.Semaphore,
        previous: asyncio.Task[Results] | None,
    ) -> Results:
        fetching: AbstractAsyncContextManager[None] = self._fetching if group[0].url else nullcontext()
        async with room, fetching:
            outcomes = await asyncio.gather(*(self._check(draft) for draft in group))
            if previous is not None:
                await asyncio.wait([previous])
            results: Results = {
                draft.position: outcome
                for draft, outcome in zip(group, outcomes, strict=True)
                if isinstance(outcome, LensmithError)
            }
            return results | await self._store(origin, [one for one in outcomes if isinstance(one, _Checked)])

    async def _check(self, draft: Draft) -> _Checked | LensmithError:
        """Get the bytes, and prove that they are a picture; an item that is wrong fails alone."""
        try:
            data = draft.content or (await self._fetcher.fetch(draft.url)).data
            loop = asyncio.get_running_loop()
            sha256, info = await loop.run_in_executor(self._threads, _inspect, data, self._limits)
        except LensmithError as error:
            return error
        return _Checked(draft, data, sha256, info)

    async def _store(self, origin: Origin, checked: Sequence[_Checked]) -> Results:
        """Store the bytes that the app does not have, and add the inputs."""
        results: Results = {}
        waiting = list(checked)
        for attempt in range(_PURGE_TRIES):
            if not waiting:
                return results
            if attempt:
                # The same bytes were deleted long ago and are going away at this moment: they are stored again after.
                await asyncio.sleep(_PURGE_WAIT_SECONDS)
            reserved = await self._reserve(origin.app, waiting)
            present = [one for one in waiting if one.sha256 in reserved]
            await self._put(origin.app, {one.sha256: one for one in present if not reserved[one.sha256].stored})
            addition = await self._commit(origin, present, reserved)
            results |= addition.results
            waiting = [one for one in waiting if one.draft.position not in addition.results]
        for one in waiting:
            results[one.draft.position] = ConflictError(
                "BLOB_BEING_PURGED", "The same bytes are being removed at this moment; try again in some minutes."
            )
        return results

    async def _reserve(self, app: AppRef, checked: Sequence[_Checked]) -> dict[bytes, blobs.Reservation]:
        new = [
            blobs.NewBlob(one.sha256, len(one.data), one.info.mime_type, one.info.width, one.info.height)
            for one in checked
        ]

        async def reserve() -> dict[bytes, blobs.Reservation]:
            async with self._database.transaction(app.app_id) as connection:
                return await blobs.reserve(connection, app.app_id, new)

        return await self._database.retry(reserve)

    async def _put(self, app: AppRef, missing: Mapping[bytes, _Checked]) -> None:
        room = asyncio.Semaphore(_PUTS_AT_ONCE)

        async def put(sha256: bytes, one: _Checked) -> None:
            async with room:
                await self._files.put(blob_key(app.uid, sha256.hex()), one.data, one.info.mime_type)

        await _all(put(sha256, one) for sha256, one in missing.items())

    async def _commit(
        self, origin: Origin, checked: Sequence[_Checked], reserved: Mapping[bytes, blobs.Reservation]
    ) -> Addition:
        items = [_new_input(one, reserved[one.sha256].id) for one in checked]
        app_id = origin.app.app_id

        async def commit() -> Addition:
            async with self._database.transaction(app_id) as connection:
                addition = await additions.add(
                    connection,
                    app_id,
                    items,
                    allow_duplicate=origin.allow_duplicate,
                    request_id=origin.request_id,
                    actor=origin.actor,
                )
                if addition.waiting_uids:
                    created = InputsCreated(input_uids=[str(uid) for uid in addition.waiting_uids])
                    await outbox.publish(connection, Event(app_id=app_id, inputs_created=created))
                return addition

        return await self._database.retry(commit)


def _inspect(data: bytes, limits: ImageLimits) -> tuple[bytes, ImageInfo]:
    try:
        info = inspect(data, limits)
    except VisionError as error:
        raise InvalidInputError(error.reason, str(error), metadata=error.metadata) from error
    return hashlib.sha256(data).digest(), info


def _new_input(one: _Checked, blob_id: int) -> additions.NewInput:
    draft = one.draft
    return additions.NewInput(
        position=draft.position,
        uid=uuid4(),
        own_id=draft.own_id,
        sha256=one.sha256,
        blob_id=blob_id,
        test=draft.test,
        metadata=draft.metadata,
        source_url=draft.url,
        labels=draft.labels,
    )


def _groups(drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """Split drafts into runs of one kind: sent bytes, or URLs, whose bytes nobody holds yet."""
    group: list[Draft] = []
    for draft in drafts:
        limit = _GROUP_URLS if draft.url else _GROUP_ITEMS
        if group and (len(group) == limit or bool(group[0].url) != bool(draft.url)):
            yield group
            group = []
        group.append(draft)
    if group:
        yield group


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Run awaitables at once; when one fails the others are ended before its error is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
