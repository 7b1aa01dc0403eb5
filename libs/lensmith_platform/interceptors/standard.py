"""The order of the chain, outermost first, and why it is this one."""

from opentelemetry.trace import Tracer

from lensmith_platform.interceptors.access import Access
from lensmith_platform.interceptors.access_log import AccessLog
from lensmith_platform.interceptors.authentication import Authentication
from lensmith_platform.interceptors.chain import Link
from lensmith_platform.interceptors.deadline import Deadline
from lensmith_platform.interceptors.errors import Errors
from lensmith_platform.interceptors.metrics import Metrics
from lensmith_platform.interceptors.request_id import RequestId
from lensmith_platform.interceptors.tracing import Tracing
from lensmith_platform.interceptors.validation import Validation
from lensmith_platform.key_cache import Authenticator
from lensmith_platform.metrics import RpcMetrics


def standard_links(
    *, tracer: Tracer | None, metrics: RpcMetrics, default_deadline_seconds: float, authenticator: Authenticator
) -> tuple[Link, ...]:
    """Build the links that every service has."""
    return (
        RequestId(),  # everything after it names the request
        Tracing(tracer),  # the log lines and calls of all others belong to the trace
        Metrics(metrics),  # counts refused calls too, with the code that the caller sees
        AccessLog(),  # the same, in words
        Errors(),  # maps what any link or handler inside raises
        Deadline(default_deadline_seconds),  # a call without time is not worth authenticating
        Authentication(authenticator),
        Access(authenticator),  # needs the principal
        Validation(),  # last: only who may call learns what a request must hold
    )
