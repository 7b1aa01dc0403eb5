"""Link 4: one line in the log for every call: who, what, how it ended, how long it took. Never what it held."""

import asyncio

import structlog

from lensmith_platform.interceptors.chain import Exchange, Link

_log = structlog.get_logger("lensmith.access")


class AccessLog(Link):
    """Writes calls at info, health checks at debug."""

    name = "access_log"

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """Write the line."""
        write = _log.debug if exchange.method.is_health else _log.info
        fields: dict[str, object] = {
            "method": exchange.method.name,
            "code": exchange.code.name,
            "ms": round((asyncio.get_running_loop().time() - exchange.started) * 1000, 2),
            "principal": exchange.principal.actor,
        }
        if exchange.app is not None:
            fields["app"] = exchange.app.name
        for key in ("reason", "cause"):
            if key in exchange.notes:
                fields[key] = exchange.notes[key]
        write("rpc", **fields)
        return error
