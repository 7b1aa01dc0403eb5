"""What trainer counts, on `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Histogram

__all__ = ["Metrics"]

_PART_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0, 4000.0, 16000.0)


class Metrics:
    """The figures of trainer in one registry. Labels name types, never models: there may be a hundred thousand."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.train_seconds = Histogram(
            "lensmith_train_seconds",
            "Seconds from the claim of a version to its end here.",
            ["outcome"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.train_part_seconds = Histogram(
            "lensmith_train_part_seconds",
            "Seconds of the parts of a training: fetch, fit (or fine_tune: all), hand_in; and of suggest, after it.",
            ["part"],
            registry=registry,
            buckets=_PART_SECONDS,
        )
        self.inputs_received = Counter(
            "lensmith_train_inputs_received", "Changed inputs that dataset sent.", registry=registry
        )
