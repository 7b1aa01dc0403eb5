"""Calls to other services: signed, traced, within the caller's time, and failing with the same typed errors."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any

import grpc
from opentelemetry.trace import SpanKind, Tracer

from lensmith_platform.errors import (
    DeadlineExceededError,
    DependencyUnavailableError,
    InternalError,
    LensmithError,
    PreconditionError,
    from_rpc_error,
)
from lensmith_platform.interceptors.deadline import LEAST_SECONDS
from lensmith_platform.interceptors.tracing import remote_parent
from lensmith_platform.principal import current_call_or_none
from lensmith_platform.service_auth import TokenSigner, app_of_outgoing_call
from lensmith_platform.telemetry import (
    REQUEST_ID_KEY,
    TRACEPARENT_KEY,
    TraceContext,
    current_trace,
    new_trace,
)

SHAVED_SECONDS = 0.02
"""What a callee gets less than we have, so that there is time left to tell our caller what went wrong."""

# The callee refuses this service, not its caller: a defect of ours, of which the caller learns nothing.
_OUR_FAULT = frozenset(
    {
        "CALLER_NOT_ALLOWED",
        "CREDENTIALS_MALFORMED",
        "CREDENTIALS_MISSING",
        "OPERATOR_ONLY",
        "SERVICES_ONLY",
        "TOKEN_INVALID",
        "TOKEN_NOT_FOR_APP",
    }
)

_Details = grpc.aio.ClientCallDetails
_Requests = AsyncIterable[Any] | Iterable[Any]


class Outgoing:
    """Adds to a call what the callee must know: who calls, about which app, in which trace, until when."""

    def __init__(
        self, audience: str, signer: TokenSigner, *, tracer: Tracer | None, default_deadline_seconds: float
    ) -> None:
        """Prepare calls to one service.

        Args:
            audience: name of the service that is called.
            signer: signs the calls.
            tracer: makes spans; None: nobody collects them.
            default_deadline_seconds: deadline of unary calls outside any call that has one.
        """
        self._audience = audience
        self._signer = signer
        self._tracer = tracer
        self._default_deadline_seconds = default_deadline_seconds

    def details(self, given: _Details, *, streaming: bool) -> _Details:
        """Complete the details of a call.

        Raises:
            DeadlineExceededError: DEADLINE_TOO_SHORT; too little time is left to begin.
        """
        metadata = grpc.aio.Metadata() if given.metadata is None else grpc.aio.Metadata(*given.metadata)
        metadata["authorization"] = f"Service {self._signer.token(self._audience, app_of_outgoing_call())}"
        trace = current_trace() or new_trace("")
        if trace.request_id:
            metadata[REQUEST_ID_KEY] = trace.request_id
        metadata[TRACEPARENT_KEY] = self._span(given.method, trace).traceparent
        timeout = self._timeout(given.timeout, streaming)
        return _Details(given.method, timeout, metadata, given.credentials, given.wait_for_ready)

    def error(self, error: grpc.RpcError) -> LensmithError:
        """Make the error of a call fit to be passed on to our own caller."""
        typed = from_rpc_error(error)
        if typed.reason in _OUR_FAULT:
            return InternalError(typed.reason, f"{self._audience} refuses this service: {typed.message}")
        if typed.reason == grpc.StatusCode.UNAVAILABLE.name:
            # gRPC's own words name addresses inside the platform.
            return DependencyUnavailableError(
                "SERVICE_UNAVAILABLE",
                f"the service {self._audience} does not answer",
                metadata={"service": self._audience},
            )
        return typed

    def _timeout(self, given: float | None, streaming: bool) -> float | None:
        call = current_call_or_none()
        if call is None or call.deadline is None:
            return self._default_deadline_seconds if given is None and not streaming else given
        left = call.deadline - asyncio.get_running_loop().time() - SHAVED_SECONDS
        if left < LEAST_SECONDS - SHAVED_SECONDS:
            raise DeadlineExceededError("DEADLINE_TOO_SHORT", f"too little time is left to ask {self._audience}")
        return left if given is None else min(given, left)

    def _span(self, method: str | bytes, trace: TraceContext) -> TraceContext:
        if self._tracer is None:
            return trace
        name = method.decode() if isinstance(method, bytes) else method
        span = self._tracer.start_span(
            name.removeprefix("/"), context=remote_parent(trace, trace.span_id), kind=SpanKind.CLIENT
        )
        # The span marks the moment of asking; how long the answer took is the callee's span.
        span.end()
        made = span.get_span_context()
        return TraceContext(trace.request_id, f"{made.trace_id:032x}", f"{made.span_id:016x}", made.trace_flags.sampled)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(
        self, continuation: Callable[[_Details, Any], Awaitable[Any]], client_call_details: _Details, request: Any
    ) -> Any:
        details = self._outgoing.details(client_call_details, streaming=False)
        try:
            return await (await continuation(details, request))
        except grpc.RpcError as error:
            raise self._outgoing.error(error) from error


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_unary(
        self,
        continuation: Callable[[_Details, _Requests], Awaitable[Any]],
        client_call_details: _Details,
        request_iterator: _Requests,
    ) -> Any:
        details = self._outgoing.details(client_call_details, streaming=True)
        return _TypedCall(self._outgoing, await continuation(details, request_iterator))


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_stream(
        self, continuation: Callable[[_Details, Any], Awaitable[Any]], client_call_details: _Details, request: Any
    ) -> AsyncIterator[Any]:
        details = self._outgoing.details(client_call_details, streaming=True)
        return _typed(self._outgoing, await continuation(details, request))


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_stream(
        self,
        continuation: Callable[[_Details, _Requests], Awaitable[Any]],
        client_call_details: _Details,
        request_iterator: _Requests,
    ) -> AsyncIterator[Any]:
        details = self._outgoing.details(client_call_details, streaming=True)
        return _typed(self._outgoing, await continuation(details, request_iterator))


class _TypedCall:
    """A call whose answer is awaited later; gRPC takes nothing but a call for this kind of RPC."""

    def __init__(self, outgoing: Outgoing, call: Any) -> None:
        self._outgoing = outgoing
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except grpc.RpcError as error:
            raise self._outgoing.error(error) from error


async def _typed(outgoing: Outgoing, call: Any) -> AsyncIterator[Any]:
    """Pass a stream on; its error becomes typed. A stream that nobody reads to its end is cancelled."""
    try:
        async for response in call:
            yield response
    except grpc.RpcError as error:
        raise outgoing.error(error) from error
    finally:
        call.cancel()


class ServiceClients:
    """Channels to the other services, one for each, opened when first asked for."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        signer: TokenSigner,
        *,
        max_message_bytes: int,
        default_deadline_seconds: float = 60.0,
        tracer: Tracer | None = None,
    ) -> None:
        """Know where the services are.

        Args:
            addresses: gRPC target by name of service.
            signer: signs the calls.
            max_message_bytes: most bytes of a message, framing included.
            default_deadline_seconds: deadline of unary calls outside any call that has one.
            tracer: makes spans; None: nobody collects them.
        """
        self._addresses = dict(addresses)
        self._signer = signer
        self._max_message_bytes = max_message_bytes
        self._default_deadline_seconds = default_deadline_seconds
        self._tracer = tracer
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, service: str) -> grpc.aio.Channel:
        """Return the channel to a service; stubs made on it raise `LensmithError`s.

        Raises:
            PreconditionError: SERVICE_ADDRESS_UNKNOWN; the settings name no address for it.
        """
        if service not in self._channels:
            target = self._addresses.get(service)
            if target is None:
                raise PreconditionError(
                    "SERVICE_ADDRESS_UNKNOWN", f"the settings name no address for the service {service}"
                )
            self._channels[service] = self._open(service, target)
        return self._channels[service]

    async def close(self) -> None:
        """Close all channels."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def _open(self, service: str, target: str) -> grpc.aio.Channel:
        outgoing = Outgoing(
            service,
            self._signer,
            tracer=self._tracer,
            default_deadline_seconds=self._default_deadline_seconds,
        )
        return grpc.aio.insecure_channel(
            target,
            options=(
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", self._max_message_bytes),
                # A service that was restarted is found again at once, not after gRPC's two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.enable_http_proxy", 0),
            ),
            interceptors=(
                _UnaryUnary(outgoing),
                _UnaryStream(outgoing),
                _StreamUnary(outgoing),
                _StreamStream(outgoing),
            ),
        )
