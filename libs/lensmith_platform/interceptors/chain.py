"""The chain that every call passes, the same for all four kinds of RPC.

A link sees a call arrive (`before`), sees each message of the request (`message`), and sees the call end (`after`), in
which it may replace the error. Requests arrive as bytes and are parsed after `before` of all links, so that nothing
that a stranger sends is parsed.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from lensmith_platform import wire
from lensmith_platform.access_table import Method
from lensmith_platform.errors import STATUS_DETAILS_KEY, InternalError, InvalidInputError
from lensmith_platform.principal import ANONYMOUS, AppRef, Principal
from lensmith_platform.telemetry import REQUEST_ID_KEY

if TYPE_CHECKING:
    # Generic for the type checker only.
    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler


@dataclass(slots=True)
class Exchange:
    """One call on its way through the chain.

    Attributes:
        method: what is known of the RPC.
        context: gRPC's own view of the call.
        metadata: the caller's metadata, text only, the first value of each key.
        request_streaming: whether the request is a stream.
        response_streaming: whether the response is a stream.
        request_id: id of the request in all logs.
        started: `loop.time()` of its arrival.
        deadline: `loop.time()` at which nobody waits any more; None: whenever.
        principal: who calls.
        app: app that the request addresses.
        status: what the caller is told instead of an answer; None: the answer.
        code: how the call ended.
        notes: what links keep for themselves between `before` and `after`.
    """

    method: Method
    context: Context
    metadata: Mapping[str, str]
    request_streaming: bool
    response_streaming: bool
    started: float
    request_id: str = ""
    deadline: float | None = None
    principal: Principal = ANONYMOUS
    app: AppRef | None = None
    status: Status | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    notes: dict[str, Any] = field(default_factory=dict)


class Link:
    """A link of the chain; each overrides what it needs."""

    name: ClassVar[str]

    async def before(self, exchange: Exchange) -> None:
        """See a call arrive; raise to refuse it."""

    async def message(self, exchange: Exchange, request: Message, size: int) -> None:
        """See a message of the request, of so many bytes on the wire; raise to refuse it."""

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """See the call end; return the error to go on with. Must not raise."""
        return error


class Chain(grpc.aio.ServerInterceptor):
    """Leads every call through the links, the first one outermost."""

    def __init__(
        self, links: Sequence[Link], methods: Mapping[str, Method], builtin: Callable[[str], Method | None]
    ) -> None:
        """Prepare the chain.

        Args:
            links: outermost first.
            methods: the RPCs of this server by path.
            builtin: describes an RPC that is not among them, or refuses it with None.
        """
        self.links = tuple(links)
        self._inward = tuple(link for link in links if type(link).message is not Link.message)
        self._outward = tuple(reversed(self.links))
        self._methods = methods
        self._builtin = builtin
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of an RPC, once."""
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = self._methods.get(path) or self._builtin(path)
        if method is None:
            # Registered behind the back of the access table: nobody knows who may call it.
            return None
        wrapped = self._wrapped[path] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: Method, handler: Handler) -> Handler:
        """Wrap a handler; all kinds meet in `_run`."""
        takes_stream, gives_stream = bool(handler.request_streaming), bool(handler.response_streaming)
        behaviours: tuple[Any, ...] = (
            handler.unary_unary,
            handler.unary_stream,
            handler.stream_unary,
            handler.stream_stream,
        )
        behaviour = next(found for found in behaviours if found is not None)
        parse = _Parser(method, handler.request_deserializer)

        async def answer(received: Any, context: Context) -> Any:
            exchange = self._arrival(method, context, takes_stream, gives_stream)

            async def handle() -> Any:
                request = (
                    self._checked_stream(exchange, received, parse)
                    if takes_stream
                    else await self._checked(exchange, received, parse)
                )
                if gives_stream:
                    return await _pour(behaviour(request, context), context)
                return await behaviour(request, context)

            return await self._run(exchange, handle)

        build = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[takes_stream, gives_stream]
        wrapped: Handler = build(answer, request_deserializer=None, response_serializer=handler.response_serializer)
        return wrapped

    def _arrival(self, method: Method, context: Context, takes_stream: bool, gives_stream: bool) -> Exchange:
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            if isinstance(value, str):
                metadata.setdefault(key, value)
        return Exchange(
            method, context, metadata, takes_stream, gives_stream, started=asyncio.get_running_loop().time()
        )

    async def _run(self, exchange: Exchange, handle: Callable[[], Awaitable[Any]]) -> Any:
        """Lead one call through the links to its handler and back."""
        error: BaseException | None = None
        answer: Any = None
        entered = 0
        try:
            for link in self.links:
                entered += 1
                await link.before(exchange)
            answer = await handle()
        except BaseException as raised:
            # Cancellation too must pass every link on its way out.
            error = raised
        for link in self._outward[len(self.links) - entered :]:
            error = link.after(exchange, error)
        if error is None:
            return answer
        if exchange.status is not None and not isinstance(error, grpc.aio.AbortError):
            await _abort(exchange)
        raise error

    async def _checked(self, exchange: Exchange, data: bytes, parse: "_Parser") -> Any:
        request = parse(data)
        if isinstance(request, Message):
            for link in self._inward:
                await link.message(exchange, request, len(data))
        return request

    async def _checked_stream(
        self, exchange: Exchange, received: AsyncIterable[bytes], parse: "_Parser"
    ) -> AsyncIterator[Any]:
        async for data in received:
            yield await self._checked(exchange, data, parse)


class _Parser:
    """Parses the requests of one RPC."""

    def __init__(self, method: Method, deserializer: Callable[[bytes], Any] | None) -> None:
        self._method = method
        self._deserializer = deserializer

    def __call__(self, data: bytes) -> Any:
        if self._deserializer is None:
            return data
        if self._method.request is not None:
            wire.check(data, cast(Descriptor, self._method.request.DESCRIPTOR))
        try:
            return self._deserializer(data)
        except DecodeError:
            raise InvalidInputError(
                "REQUEST_MALFORMED", f"the request is not a message of the type that {self._method.name} takes"
            ) from None


async def _pour(responses: AsyncIterable[Any] | Awaitable[None], context: Context) -> None:
    """Write a stream of responses from this very task, so that its end is seen here, whoever ends it."""
    if isinstance(responses, Awaitable):
        # Handlers of gRPC's own services write by themselves.
        await responses
        return
    if not isinstance(responses, AsyncIterator):
        raise InternalError("HANDLER_INVALID", "a streaming handler must be an async generator")
    generator: Any = responses
    async with aclosing(generator):
        async for response in generator:
            await context.write(response)


async def _abort(exchange: Exchange) -> NoReturn:
    status = exchange.status or Status()
    await exchange.context.abort(
        exchange.code,
        status.message,
        trailing_metadata=(
            (STATUS_DETAILS_KEY, status.SerializeToString()),
            (REQUEST_ID_KEY, exchange.request_id),
        ),
    )


def names(links: Iterable[Link]) -> list[str]:
    """Names of links, for tests and logs."""
    return [link.name for link in links]
