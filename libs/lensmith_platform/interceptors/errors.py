"""Link 5: the one place where errors become gRPC statuses. Encloses authentication, whose errors are mapped too."""

import asyncio

import grpc
import structlog

from lensmith_platform.errors import DependencyUnavailableError, LensmithError, to_status
from lensmith_platform.interceptors.chain import Exchange, Link

_log = structlog.get_logger("lensmith.errors")


class Errors(Link):
    """Maps typed errors; anything else is a defect: INTERNAL, with its cause in the log, once."""

    name = "errors"

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """Decide code and status."""
        if error is None:
            return None
        if isinstance(error, grpc.aio.AbortError):
            exchange.code = _aborted_code(exchange)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            exchange.code = _cancelled_code(exchange)
        elif isinstance(error, Exception):
            self._map(exchange, error)
        return error

    def _map(self, exchange: Exchange, error: Exception) -> None:
        exchange.status = to_status(error, request_id=exchange.request_id)
        exchange.code = error.code if isinstance(error, LensmithError) else grpc.StatusCode.INTERNAL
        if exchange.code is grpc.StatusCode.INTERNAL:
            _log.error("internal error", method=exchange.method.name, exc_info=error)
        elif isinstance(error, LensmithError):
            exchange.notes["reason"] = error.reason
            if isinstance(error, DependencyUnavailableError) and error.__cause__ is not None:
                exchange.notes["cause"] = _first_line(error.__cause__)


def _first_line(cause: BaseException) -> str:
    text = cause.details() if isinstance(cause, grpc.aio.AioRpcError) else str(cause)
    return f"{type(cause).__name__}: {(text or '')[:300]}"


def _aborted_code(exchange: Exchange) -> grpc.StatusCode:
    # gRPC gives the number of a code that was set by `abort`.
    found = exchange.context.code()
    return next((code for code in grpc.StatusCode if found in (code, code.value[0])), grpc.StatusCode.UNKNOWN)


def _cancelled_code(exchange: Exchange) -> grpc.StatusCode:
    late = exchange.deadline is not None and asyncio.get_running_loop().time() >= exchange.deadline
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
