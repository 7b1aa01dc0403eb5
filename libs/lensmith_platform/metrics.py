"""Metrics of every RPC: rate, errors, duration."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class RpcMetrics:
    """Rate, errors and duration of the RPCs that this process answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Define the metrics in a registry."""
        self.seconds = Histogram(
            "lensmith_rpc_seconds",
            "Time to answer an RPC, whatever the answer.",
            ["method"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.total = Counter(
            "lensmith_rpc", "RPCs answered, by gRPC status code.", ["method", "code"], registry=registry
        )
        self.in_flight = Gauge("lensmith_rpc_in_flight", "RPCs being answered.", ["method"], registry=registry)
