"""Link 2: continues the caller's trace, and records a span where traces are collected."""

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.telemetry import TRACEPARENT_KEY, TraceContext, continue_trace, set_trace

_SPAN = "span"


def remote_parent(context: TraceContext, parent_span_id: str) -> Context:
    """Make a caller's span the parent of spans to come."""
    parent = SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(parent_span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


class Tracing(Link):
    """Keeps the W3C trace context of the task; health checks leave no span."""

    name = "tracing"

    def __init__(self, tracer: Tracer | None) -> None:
        """Trace, or only pass the context on.

        Args:
            tracer: makes spans; None: nobody collects them.
        """
        self._tracer = tracer

    async def before(self, exchange: Exchange) -> None:
        """Continue the trace."""
        header = exchange.metadata.get(TRACEPARENT_KEY)
        context = continue_trace(header, exchange.request_id)
        if self._tracer is not None and not exchange.method.is_health:
            continued = header is not None and context.trace_id in header
            parent = remote_parent(context, header.split("-")[2]) if header is not None and continued else Context()
            span = self._tracer.start_span(exchange.method.name, context=parent, kind=SpanKind.SERVER)
            span.set_attribute("rpc.system", "grpc")
            span.set_attribute("rpc.method", exchange.method.name)
            span.set_attribute("lensmith.request_id", exchange.request_id)
            made = span.get_span_context()
            context = TraceContext(
                exchange.request_id, f"{made.trace_id:032x}", f"{made.span_id:016x}", made.trace_flags.sampled
            )
            exchange.notes[_SPAN] = span
        set_trace(context)

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """End the span."""
        span: Span | None = exchange.notes.get(_SPAN)
        if span is not None:
            span.set_attribute("rpc.grpc.status_code", exchange.code.value[0])
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, exchange.code.name))
            span.end()
        return error
