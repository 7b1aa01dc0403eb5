"""What registry said about models and base models, remembered for a moment, or for longer while registry is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar

from lensmith_api.internal.v1.serving_service_pb2 import (
    ResolveGeneralRequest,
    ResolveModelRequest,
    ResolveSpaceRequest,
)
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.base_model_service_pb2 import GetBaseModelRequest, ListBaseModelsRequest
from lensmith_inference.answers import ServedVersion
from lensmith_inference.metrics import Metrics
from lensmith_inference.shared_work import start_shared
from lensmith_platform.errors import (
    DependencyUnavailableError,
    ForbiddenError,
    InvalidInputError,
    LensmithError,
    NotFoundError,
    PreconditionError,
)
from lensmith_platform.principal import MAIN_APP_ID
from lensmith_platform.service_auth import service_call_app
from lensmith_vision.general import MODEL_ID

if TYPE_CHECKING:  # the generated stubs name these classes for type checkers only
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub
    from lensmith_api.v1.base_model_service_pb2_grpc import BaseModelServiceAsyncStub

__all__ = ["Catalogue", "Remembered"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_REFUSALS = (NotFoundError, PreconditionError, ForbiddenError, InvalidInputError)
"""Answers, if unpleasant ones. Everything else means that registry cannot answer now."""

_ASK_SECONDS = 15.0
_PATIENCE_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 1.0
"""While registry is away, it is asked at most this often about one thing: waiting for it must not slow every answer."""


@dataclass(eq=False)
class _Memory(Generic[V]):
    value: V
    asked: float
    fresh_until: float


class Remembered(Generic[K, V]):
    """Answers of another service, asked again when they are old, and believed longer while it is away.

    Args:
        ask: Asks the other service.
        fresh_seconds: How long an answer is believed without asking.
        stale_seconds: How long it is believed while the other service is away.
        most: Answers remembered; the longest unused go first.
        patience_seconds: How long to wait for a new answer where there is an old one.
        on_stale: Called when an old answer is given because the other service is away.
    """

    def __init__(
        self,
        ask: Callable[[K], Awaitable[V]],
        *,
        fresh_seconds: float,
        stale_seconds: float,
        most: int,
        on_stale: Callable[[], None],
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._ask = ask
        self._patience = patience_seconds
        self._fresh = fresh_seconds
        self._stale = stale_seconds
        self._most = most
        self._on_stale = on_stale
        self._memories: OrderedDict[K, _Memory[V]] = OrderedDict()
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K) -> V:
        """Return the answer for a key; one question is asked however many want it at the same time.

        Raises:
            LensmithError: What the other service said, or that it is away and nothing is remembered.
        """
        memory = self._memories.get(key)
        if memory is not None:
            self._memories.move_to_end(key)
            if monotonic() < memory.fresh_until:
                return memory.value
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = start_shared(partial(self._asked, key))
            task.add_done_callback(lambda done: self._answered(key, done))
        if memory is None or monotonic() - memory.asked > self._stale:
            return await asyncio.shield(task)
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(task)
        except _REFUSALS:
            raise
        except (LensmithError, TimeoutError):
            memory.fresh_until = monotonic() + _ASK_AGAIN_SECONDS
            self._on_stale()
            return memory.value

    def forget(self, matches: Callable[[K], bool]) -> None:
        """Ask again about what matches, also where an answer is on its way: it may be from before the change."""
        for key, memory in self._memories.items():
            if matches(key):
                memory.fresh_until = 0.0
        for key in [key for key in self._asking if matches(key)]:
            del self._asking[key]

    async def _asked(self, key: K) -> V:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._ask(key)
        except TimeoutError:
            raise DependencyUnavailableError("REGISTRY_SILENT", "registry does not answer") from None

    def _answered(self, key: K, task: "asyncio.Task[V]") -> None:
        newest = self._asking.get(key) is task
        if newest:
            del self._asking[key]
        if task.cancelled():
            return
        error, now = task.exception(), monotonic()
        if error is None and newest:
            self._remember(key, _Memory(task.result(), now, now + self._fresh))
        elif error is None and key not in self._memories:
            # It may be from before a change, so it is not believed; while registry is away it is better than nothing.
            self._remember(key, _Memory(task.result(), now, 0.0))
        elif newest and isinstance(error, _REFUSALS):
            # What was known is no longer so.
            self._memories.pop(key, None)

    def _remember(self, key: K, memory: "_Memory[V]") -> None:
        self._memories[key] = memory
        self._memories.move_to_end(key)
        while len(self._memories) > self._most:
            self._memories.popitem(last=False)


class Catalogue:
    """Finds the version that answers for a model, and the base model of an app.

    Args:
        serving: Registry's answers for serving.
        base_models: Registry's base models.
        fresh_seconds: See `Remembered`.
        stale_seconds: See `Remembered`.
        most: Models remembered.
        metrics: Where answers from memory are counted.
    """

    def __init__(
        self,
        serving: "ServingServiceAsyncStub",
        base_models: "BaseModelServiceAsyncStub",
        *,
        fresh_seconds: float,
        stale_seconds: float,
        most: int,
        metrics: Metrics,
    ) -> None:
        self._serving = serving
        self._base_models = base_models

        def remembered(ask: Callable[[K], Awaitable[V]]) -> Remembered[K, V]:
            return Remembered(
                ask,
                fresh_seconds=fresh_seconds,
                stale_seconds=stale_seconds,
                most=most,
                on_stale=metrics.stale_answers.inc,
            )

        self._models: Remembered[tuple[int, str, int], ServedVersion] = remembered(self._resolve_model)
        self._spaces: Remembered[tuple[int, str], BaseModel] = remembered(self._resolve_space)
        self._named: Remembered[str, BaseModel] = remembered(self._get_base_model)
        self._by_space: Remembered[str, BaseModel] = remembered(self._base_model_of_space)
        self._general: Remembered[str, ServedVersion | None] = remembered(self._resolve_general)

    async def model(self, app_id: int, model: str, version: int) -> ServedVersion:
        """Return what answers for a model; version 0 is the one in production.

        Raises:
            LensmithError: No such model or version, none that is ready, or registry is away.
        """
        return await self._models.get((app_id, model, version))

    async def space_of_app(self, app_id: int, wanted: str) -> BaseModel:
        """Return the base model of an app.

        Args:
            app_id: Number of the app.
            wanted: What the app asked for when it was created.

        Raises:
            LensmithError: Registry is away or has no such base model.
        """
        return await self._spaces.get((app_id, wanted))

    async def base_model(self, name: str) -> BaseModel:
        """Return a base model by its resource name.

        Raises:
            LensmithError: Registry is away or has no such base model.
        """
        return await self._named.get(name)

    async def base_model_of_space(self, space: str) -> BaseModel:
        """Return the base model of a space, also one of which a newer version is installed.

        Raises:
            LensmithError: Registry is away or no installed base model has this space.
        """
        return await self._by_space.get(space)

    async def general(self, space: str) -> ServedVersion | None:
        """Return the version of General that sees most cheaply what pictures of a space show; None: there is none.

        Raises:
            LensmithError: Registry is away.
        """
        return await self._general.get(space)

    async def best_base_model(self) -> BaseModel | None:
        """Return the installed base model of the highest rank, asked afresh.

        Raises:
            LensmithError: Registry is away.
        """
        page = await self._base_models.ListBaseModels(ListBaseModelsRequest(page_size=1))
        return page.base_models[0] if page.base_models else None

    def model_changed(self, app_id: int, model: str) -> None:
        """Believe nothing known about a model any more."""
        self._models.forget(lambda key: key[:2] == (app_id, model))
        if (app_id, model) == (MAIN_APP_ID, MODEL_ID):
            self._general.forget(lambda _: True)

    def space_changed(self, app_id: int) -> None:
        """Believe no longer which base model an app has."""
        self._spaces.forget(lambda key: key[0] == app_id)

    def app_deleted(self, app_id: int) -> None:
        """Believe nothing known about an app any more."""
        self._models.forget(lambda key: key[0] == app_id)
        self._spaces.forget(lambda key: key[0] == app_id)

    def everything_changed(self) -> None:
        """Believe nothing any more: news may have been missed."""
        for memory in (self._models, self._spaces, self._named, self._by_space, self._general):
            memory.forget(lambda _: True)

    async def _resolve_model(self, key: tuple[int, str, int]) -> ServedVersion:
        app_id, model, version = key
        request = ResolveModelRequest(app_id=app_id, model=model, version=version)
        return ServedVersion.of(await self._serving.ResolveModel(request))

    async def _resolve_space(self, key: tuple[int, str]) -> BaseModel:
        app_id, wanted = key
        response = await self._serving.ResolveSpace(ResolveSpaceRequest(app_id=app_id, base_model=wanted))
        return response.base_model

    async def _base_model_of_space(self, space: str) -> BaseModel:
        # Base models are of no app, whichever app asks.
        with service_call_app(0):
            return (await self._serving.ResolveSpace(ResolveSpaceRequest(space=space))).base_model

    async def _resolve_general(self, space: str) -> ServedVersion | None:
        try:
            with service_call_app(0):
                return ServedVersion.of(await self._serving.ResolveGeneral(ResolveGeneralRequest(space=space)))
        except NotFoundError:
            return None

    async def _get_base_model(self, name: str) -> BaseModel:
        return await self._base_models.GetBaseModel(GetBaseModelRequest(name=name))
