"""Metrics of the dataset service, besides those that every service has."""

from prometheus_client import CollectorRegistry, Counter


class IndexMetrics:
    """What the indexer did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Define the metrics in a registry."""
        self.inputs = Counter(
            "lensmith_indexed_inputs", "Inputs that the indexer settled, by outcome.", ["outcome"], registry=registry
        )
        self.backfilled = Counter(
            "lensmith_backfilled_embeddings",
            "Vectors of a new base model that inputs were given afterwards, by outcome.",
            ["outcome"],
            registry=registry,
        )


class IngestMetrics:
    """What was taken in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Define the metrics in a registry."""
        self.inputs = Counter(
            "lensmith_created_inputs", "Pictures given to CreateInputs, by outcome.", ["outcome"], registry=registry
        )
