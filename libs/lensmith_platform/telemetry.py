"""Logs, trace context and traces.

The request id and the W3C trace context travel with every call and every event, whether or not traces are collected.
"""

import json
import logging
import re
import secrets
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id."""

TRACEPARENT_KEY = "traceparent"
"""Metadata key of the W3C trace context."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in which trace the current task works.

    Attributes:
        request_id: id of the request in all logs; empty in background work.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        sampled: whether somebody collects the trace.
    """

    request_id: str
    trace_id: str
    span_id: str
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """The context in its W3C form."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


_context: ContextVar[TraceContext | None] = ContextVar("lensmith_trace", default=None)


def current_trace() -> TraceContext | None:
    """Return the trace context of this task; None outside any request or event."""
    return _context.get()


def set_trace(context: TraceContext) -> None:
    """Set the trace context of this task and the tasks that it starts."""
    _context.set(context)


def traceparent() -> str:
    """Return the W3C trace context to put into an event; a new trace begins outside any request or event."""
    context = _context.get()
    return context.traceparent if context is not None else new_trace("").traceparent


def new_trace(request_id: str) -> TraceContext:
    """Begin a trace."""
    return TraceContext(request_id, secrets.token_hex(16), secrets.token_hex(8))


def continue_trace(header: str | None, request_id: str) -> TraceContext:
    """Continue the trace that a caller sent, with a span of its own; a missing or broken header begins a new one."""
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None:
        return new_trace(request_id)
    return TraceContext(request_id, match[1], secrets.token_hex(8), sampled=int(match[3], 16) & 1 == 1)


@contextmanager
def trace_of_event(header: str, event_id: str = "") -> Iterator[TraceContext]:
    """Work inside the trace that an event carries; the event's id stands as request id in the log."""
    context = continue_trace(header, event_id)
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


def request_id_from(header: str | None) -> str:
    """Return the id that the caller chose, where it is fit for a log line; else a new one."""
    return header if header and _REQUEST_ID.fullmatch(header) else secrets.token_hex(16)


def configure_logging(service: str, *, level: str, form: str) -> None:
    """Write structured logs to standard output, the logs of libraries too. For the start of a process.

    Args:
        service: stands in every line.
        level: least severe lines to write.
        form: `json` or `console`.
    """

    def add_service(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    # Tracebacks without local variables: those may hold secrets and picture bytes.
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_service,
        add_trace,
        structlog.processors.format_exc_info,
    ]
    # One encoder for all lines: making one for each costs more than the line.
    encode = json.JSONEncoder(default=repr, ensure_ascii=False).encode
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=lambda event, **_: encode(event))
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What a library warns of, of a picture with broken EXIF for instance, is a line like all others.
    logging.captureWarnings(True)
    # Libraries are chatty about what is normal for them; their warnings are ours.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))


def add_trace(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the request id and the trace id into a log line."""
    context = _context.get()
    if context is not None:
        event.setdefault("request_id", context.request_id)
        event.setdefault("trace_id", context.trace_id)
    return event


def trace_exporter(service: str, endpoint: str) -> "TracerProvider":
    """Collect spans and send them to an OpenTelemetry collector; `shutdown()` sends what is left.

    Args:
        service: name of the service in the traces.
        endpoint: `http://host:4317`.
    """
    # Loaded only where traces are collected: they cost every process memory and time to start.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"lensmith-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    return provider
