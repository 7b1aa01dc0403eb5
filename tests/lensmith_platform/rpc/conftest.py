"""A small world on real listeners: auth with a store of keys, and services put together by the tests."""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lensmith_api.internal.v1 import (
    key_resolver_service_pb2,
    key_resolver_service_pb2_grpc,
    serving_service_pb2,
    training_data_service_pb2,
    training_job_service_pb2,
)
from lensmith_api.v1 import (
    access_pb2,
    annotation_service_pb2,
    app_service_pb2,
    base_model_service_pb2,
    concept_service_pb2,
    inference_service_pb2,
    input_service_pb2,
    key_service_pb2,
    model_service_pb2,
    usage_service_pb2,
)
from lensmith_platform.access_table import Method, access_table
from lensmith_platform.clients import ServiceClients
from lensmith_platform.errors import DependencyUnavailableError, NotFoundError, UnauthenticatedError
from lensmith_platform.key_cache import ResolvedKey
from lensmith_platform.platform import Platform
from lensmith_platform.principal import AppRef, Call, current_call
from lensmith_platform.scopes import expand
from lensmith_platform.server import RunningService, running
from lensmith_platform.service_auth import TokenSigner, make_key_pair
from lensmith_platform.settings import ServiceSettings, SettingsConfigDict

ImageQuery = inference_service_pb2.ImageQuery
ECHO = "lensmith.test.v1.EchoService"
KINDS = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
MAIN = AppRef(1, "00000000-0000-4000-8000-000000000001", "main")
TRASH = AppRef(7, "00000000-0000-4000-8000-000000000007", "trash", "plain")
FRUIT = AppRef(8, "00000000-0000-4000-8000-000000000008", "fruit")


class AuthSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LENSMITH_AUTH_")


class InferenceSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LENSMITH_INFERENCE_")


class DatasetSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LENSMITH_DATASET_")


@dataclass
class Keys:
    """Auth's store: a `KeySource` that can be told to be away."""

    number: int = 0
    away: bool = False
    asked: int = 0
    keys: dict[bytes, ResolvedKey] = field(default_factory=dict)
    apps: dict[str, AppRef] = field(default_factory=lambda: {app.name: app for app in (MAIN, TRASH, FRUIT)})

    def add(
        self, secret: str, app: AppRef | None, scopes: Sequence[str] = (), *, expire_time: datetime | None = None
    ) -> str:
        self.keys[sha256(secret)] = ResolvedKey(
            f"key-{len(self.keys) + 1}",
            app,
            expand(scopes),
            operator=app is None,
            expire_time=expire_time,
            revocation_number=0,
        )
        return secret

    def revoke(self, secret: str) -> None:
        self.number += 1
        del self.keys[sha256(secret)]

    async def resolve_key(self, secret_sha256: bytes) -> ResolvedKey:
        self.asked += 1
        if self.away:
            raise DependencyUnavailableError("DATABASE_UNAVAILABLE", "the database is away")
        key = self.keys.get(secret_sha256)
        if key is None:
            raise UnauthenticatedError("KEY_UNKNOWN", "there is no such key, or it was deleted")
        return ResolvedKey(key.key_uid, key.app, key.scopes, key.operator, key.expire_time, self.number)

    async def resolve_app(self, name: str) -> AppRef:
        if self.away:
            raise DependencyUnavailableError("DATABASE_UNAVAILABLE", "the database is away")
        if name not in self.apps:
            raise NotFoundError("APP_NOT_FOUND", f"there is no app {name}")
        return self.apps[name]


def sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class KeyResolver(key_resolver_service_pb2_grpc.KeyResolverServiceServicer):
    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    async def ResolveKey(self, request: Any, context: Any) -> key_resolver_service_pb2.ResolveKeyResponse:
        key = await self.keys.resolve_key(request.secret_sha256)
        answer = key_resolver_service_pb2.ResolveKeyResponse(
            key_uid=key.key_uid,
            scopes=sorted(key.scopes),
            operator=key.operator,
            revocation_number=key.revocation_number,
        )
        if key.app is not None:
            answer.app.CopyFrom(identity(key.app))
        if key.expire_time is not None:
            answer.expire_time.FromDatetime(key.expire_time)
        return answer

    async def ResolveApp(self, request: Any, context: Any) -> key_resolver_service_pb2.AppIdentity:
        return identity(await self.keys.resolve_app(request.app))


def identity(app: AppRef) -> key_resolver_service_pb2.AppIdentity:
    return key_resolver_service_pb2.AppIdentity(app_id=app.app_id, uid=app.uid, app=app.name, base_model=app.base_model)


@dataclass
class AnyService:
    """A service put together by a test."""

    name: str
    service_names: Sequence[str]
    register: Callable[[grpc.aio.Server], None]
    ready_error: Exception | None = None
    closed: bool = False
    work: Callable[[], Awaitable[None]] | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        self.register(server)

    async def ready(self) -> None:
        if self.ready_error is not None:
            raise self.ready_error

    async def run(self) -> None:
        if self.work is not None:
            await self.work()

    async def close(self) -> None:
        self.closed = True


def define_echo() -> None:
    """Put a service with an RPC of every kind into the descriptor pool, once."""
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(ECHO)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(
            name="lensmith/test/v1/echo_service.proto", package="lensmith.test.v1", syntax="proto3"
        )
        file.dependency.append("lensmith/v1/inference_service.proto")
        service = file.service.add(name="EchoService")
        for kind in KINDS:
            method = service.method.add(
                name=kind,
                input_type=".lensmith.v1.ImageQuery",
                output_type=".lensmith.v1.ImageQuery",
                client_streaming=kind.startswith("Stream"),
                server_streaming=kind.endswith("Stream"),
            )
            method.options.Extensions[access_pb2.access].any_key = True
            method.options.Extensions[access_pb2.access].callers.append("dataset")
        pool.Add(file)


Reaction = Callable[[Any], Awaitable[None]]
"""What an echo does with each message before it sends it back: nothing, or fail."""


def echo_handlers(react: Reaction) -> grpc.GenericRpcHandler:
    async def unary_unary(request: Any, context: Any) -> Any:
        await react(request)
        return request

    async def unary_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        await react(request)
        yield request

    async def stream_unary(requests: AsyncIterator[Any], context: Any) -> Any:
        last = ImageQuery()
        async for request in requests:
            await react(request)
            last = request
        return last

    async def stream_stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            await react(request)
            yield request

    codecs = {
        "request_deserializer": ImageQuery.FromString,
        "response_serializer": ImageQuery.SerializeToString,
    }
    return grpc.method_handlers_generic_handler(
        ECHO,
        {
            "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary, **codecs),
            "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream, **codecs),
            "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary, **codecs),
            "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream, **codecs),
        },
    )


async def call_echo(channel: grpc.aio.Channel, kind: str, requests: Sequence[Any], **options: Any) -> list[Any]:
    """Call an RPC of any kind; returns all its responses."""
    make = {
        "UnaryUnary": channel.unary_unary,
        "UnaryStream": channel.unary_stream,
        "StreamUnary": channel.stream_unary,
        "StreamStream": channel.stream_stream,
    }[kind]
    rpc: Any = make(
        f"/{ECHO}/{kind}",
        request_serializer=ImageQuery.SerializeToString,
        response_deserializer=ImageQuery.FromString,
    )
    call = rpc(iter(requests) if kind.startswith("Stream") else requests[0], **options)
    try:
        if kind.endswith("Stream"):
            return [response async for response in call]
        return [await call]
    finally:
        # A stream whose reader is cancelled between two messages would stay open.
        call.cancel()


def as_key(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Key {secret}"),)


def query(text: str = "a") -> Any:
    message = ImageQuery(id=text)
    message.image.content = b"picture"
    return message


EVERY_SERVICE = tuple(
    service.full_name
    for module in (
        annotation_service_pb2,
        app_service_pb2,
        base_model_service_pb2,
        concept_service_pb2,
        inference_service_pb2,
        input_service_pb2,
        key_service_pb2,
        model_service_pb2,
        usage_service_pb2,
        key_resolver_service_pb2,
        serving_service_pb2,
        training_data_service_pb2,
        training_job_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)


def every_handler(service: str, seen: list[Call]) -> grpc.GenericRpcHandler:
    """Handlers that note the call and answer with an empty message, for every RPC of a service."""
    handlers = {}
    for rpc in descriptor_pool.Default().FindServiceByName(service).methods:
        response = message_factory.GetMessageClass(rpc.output_type)

        async def single(received: Any, context: Any, response: Any = response) -> Any:
            if hasattr(received, "__aiter__"):
                async for _ in received:
                    pass
            seen.append(current_call())
            return response()

        async def stream(received: Any, context: Any, response: Any = response) -> AsyncIterator[Any]:
            seen.append(current_call())
            yield response()

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[rpc.client_streaming, rpc.server_streaming]
        handlers[rpc.name] = make(
            stream if rpc.server_streaming else single,
            request_deserializer=message_factory.GetMessageClass(rpc.input_type).FromString,
            response_serializer=response.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service, handlers)


@dataclass
class Everything:
    """Every RPC of the platform, served by one process."""

    channel: grpc.aio.Channel
    methods: Mapping[str, Method]
    seen: list[Call]

    def request(self, method: Method, app: str = "trash") -> Any:
        """Make the smallest request that names the app."""
        assert method.request is not None
        request = method.request()
        for app_field in method.app_fields:
            inner: Any = request
            for part in app_field.path[:-1]:
                inner = getattr(inner, part)
            name = app_field.template.replace("{app}", app)
            setattr(inner, app_field.path[-1], re.sub(r"\{\w+\}", "1", name))
        return request

    async def call(self, method: Method, request: Any, authorization: str | None) -> Call:
        """Call an RPC; gives what its handler knew of the call."""
        rpc = (
            descriptor_pool.Default()
            .FindServiceByName(method.name.split("/")[0])
            .methods_by_name[method.name.split("/")[1]]
        )
        make: Any = (
            self.channel.stream_unary
            if rpc.client_streaming
            else self.channel.unary_stream
            if rpc.server_streaming
            else self.channel.unary_unary
        )
        multicallable = make(
            method.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(rpc.output_type).FromString,
        )
        self.seen.clear()
        metadata = (("authorization", authorization),) if authorization is not None else ()
        call = multicallable(iter([request]) if rpc.client_streaming else request, metadata=metadata)
        if rpc.server_streaming:
            async for _ in call:
                pass
        else:
            await call
        return self.seen[0]


@dataclass
class World:
    """Auth and its keys, ready for services that ask it."""

    keys: Keys
    folder: Path
    auth_target: str
    main: AppRef = MAIN
    trash: AppRef = TRASH
    fruit: AppRef = FRUIT
    metrics_address: str = ""
    target: str = ""

    def settings(self, settings_class: type[Any] = InferenceSettings, **changes: Any) -> Any:
        name = settings_class.model_config["env_prefix"].split("_")[1].lower()
        values = {
            "service_key_file": self.folder / "private" / f"{name}.pem",
            "service_keys_dir": self.folder / "public",
            "addresses": {"auth": self.auth_target},
        }
        return settings_class(**{**values, **changes})

    @asynccontextmanager
    async def serve(self, service: AnyService, **changes: Any) -> AsyncIterator[RunningService[AnyService]]:
        async def build(platform: Platform[Any]) -> AnyService:
            return service

        async with running(self.settings(**changes), build) as served:
            yield served

    @asynccontextmanager
    async def echo(
        self, react: Reaction | None = None, *, name: str = "inference", **changes: Any
    ) -> AsyncIterator[grpc.aio.Channel]:
        """Serve the echo as one of the services; gives a bare channel to it."""

        async def nothing(request: Any) -> None:
            current_call()

        define_echo()
        settings_class = {"inference": InferenceSettings, "dataset": DatasetSettings}[name]
        service = AnyService(
            name,
            [ECHO],
            lambda server: server.add_generic_rpc_handlers((echo_handlers(react or nothing),)),
        )
        async with (
            self.serve(service, settings_class=settings_class, **changes) as served,
            grpc.aio.insecure_channel(served.target) as channel,
        ):
            self.metrics_address, self.target = served.metrics_address, served.target
            yield channel

    @asynccontextmanager
    async def everything(self) -> AsyncIterator[Everything]:
        """Serve every RPC of the platform."""
        seen: list[Call] = []

        def register(server: grpc.aio.Server) -> None:
            server.add_generic_rpc_handlers(tuple(every_handler(name, seen) for name in EVERY_SERVICE))

        service = AnyService("inference", EVERY_SERVICE, register)
        async with self.serve(service) as served, grpc.aio.insecure_channel(served.target) as channel:
            yield Everything(channel, access_table(EVERY_SERVICE), seen)

    def clients(self, name: str, **addresses: str) -> ServiceClients:
        """Clients as a service of this name has them."""
        return ServiceClients(
            {"auth": self.auth_target, **addresses},
            TokenSigner(name, self.folder / "private" / f"{name}.pem"),
            max_message_bytes=1 << 20,
        )

    async def call(
        self, channel: grpc.aio.Channel, kind: str, *requests: Any, key: str | None = None, **options: Any
    ) -> list[Any]:
        """Call the echo."""
        metadata = as_key(key) if key is not None else ()
        return await call_echo(channel, kind, requests or [query()], metadata=metadata, **options)

    def query(self, text: str = "a") -> Any:
        """A message that the contract allows."""
        return query(text)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def world(tmp_path: Path, keys: Keys) -> AsyncIterator[World]:
    for name in ("auth", "inference", "dataset"):
        make_key_pair(name, tmp_path / "private" / f"{name}.pem", tmp_path / "public")
    place = World(keys, tmp_path, "")

    async def build(platform: Platform[AuthSettings]) -> AnyService:
        platform.authenticator.source = keys
        return AnyService(
            "auth",
            ["lensmith.internal.v1.KeyResolverService"],
            lambda server: key_resolver_service_pb2_grpc.add_KeyResolverServiceServicer_to_server(
                KeyResolver(keys), server
            ),
        )

    async with running(place.settings(AuthSettings), build) as auth:
        place.auth_target = auth.target
        yield place


@pytest.fixture
def probe(world: World) -> Callable[[str], Awaitable[tuple[int, str]]]:
    """Asks the internal HTTP port of the echo that is served."""

    async def ask(path: str) -> tuple[int, str]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{world.metrics_address}{path}")
            return answer.status_code, answer.text

    return ask


@pytest.fixture
def echo_parts() -> Callable[[Reaction], tuple[Mapping[str, Method], grpc.GenericRpcHandler]]:
    """Methods and handlers of the echo, for a server of the test's own."""
    define_echo()
    return lambda react: (access_table([ECHO]), echo_handlers(react))


@pytest.fixture
def any_service() -> type[AnyService]:
    """A service put together by the test."""
    return AnyService


@pytest.fixture
def echo_through_clients(world: World) -> Callable[..., Any]:
    """Serves the echo and calls it the way another service does."""

    @asynccontextmanager
    async def serve(react: Reaction, **changes: Any) -> AsyncIterator[Callable[..., Awaitable[list[Any]]]]:
        async with world.echo(react, **changes):
            clients = world.clients("dataset", inference=world.target)
            try:
                yield lambda kind, *requests, **options: call_echo(
                    clients.channel("inference"), kind, requests or [query()], **options
                )
            finally:
                await clients.close()

    return serve


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()
