"""Link 3: counts and times every call. Outside the errors, so that it sees the code that the caller gets."""

import asyncio

from lensmith_platform.interceptors.chain import Exchange, Link
from lensmith_platform.metrics import RpcMetrics


class Metrics(Link):
    """Rate, errors and duration by method."""

    name = "metrics"

    def __init__(self, metrics: RpcMetrics) -> None:
        """Count into these metrics."""
        self._metrics = metrics

    async def before(self, exchange: Exchange) -> None:
        """Count it as running."""
        self._metrics.in_flight.labels(exchange.method.name).inc()

    def after(self, exchange: Exchange, error: BaseException | None) -> BaseException | None:
        """Count it as done."""
        name = exchange.method.name
        self._metrics.in_flight.labels(name).dec()
        self._metrics.seconds.labels(name).observe(asyncio.get_running_loop().time() - exchange.started)
        self._metrics.total.labels(name, exchange.code.name).inc()
        return error
