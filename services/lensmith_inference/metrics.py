"""What the inference service counts, on `/metrics`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lensmith_vision.networks import is_network_space

__all__ = ["Metrics", "label_of"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The service's figures in one registry. Labels name spaces, never models: there may be a hundred thousand."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.predict_seconds = Histogram(
            "lensmith_predict_seconds", "Seconds of a Predict call.", ["space"], registry=registry, buckets=_SECONDS
        )
        self.images = Counter(
            "lensmith_inference_images", "Pictures answered.", ["operation", "space"], registry=registry
        )
        self.image_errors = Counter(
            "lensmith_inference_image_errors", "Pictures without an answer.", ["space", "reason"], registry=registry
        )
        self.model_errors = Counter(
            "lensmith_inference_model_errors", "Models that could not be used.", ["reason"], registry=registry
        )
        self.batch_size = Histogram(
            "lensmith_inference_batch_images",
            "Pictures in one pass of a base network.",
            ["space"],
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.queue_seconds = Histogram(
            "lensmith_inference_queue_seconds",
            "Seconds a decoded picture waited for its pass.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.engine_seconds = Histogram(
            "lensmith_inference_engine_seconds", "Seconds of one pass.", ["space"], registry=registry, buckets=_SECONDS
        )
        self.decode_seconds = Histogram(
            "lensmith_inference_decode_seconds",
            "Seconds of decoding and resizing one picture.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.stale_answers = Counter(
            "lensmith_inference_stale_answers",
            "Answers of registry reused while it was away.",
            registry=registry,
        )
        self._count_memory(registry)

    def _count_memory(self, registry: CollectorRegistry) -> None:
        """What is held in memory: pictures, heads, networks of fine-tuned versions."""
        self.pending_images = Gauge("lensmith_inference_pending_images", "Pictures in work.", registry=registry)
        self.head_hits = Counter("lensmith_inference_head_hits", "Heads found in memory.", registry=registry)
        self.head_misses = Counter("lensmith_inference_head_misses", "Heads that were fetched.", registry=registry)
        self.head_bytes = Gauge(
            "lensmith_inference_head_bytes", "Memory of the loaded heads.", ["tier"], registry=registry
        )
        self.networks = Gauge(
            "lensmith_inference_networks", "Networks of fine-tuned versions in memory.", registry=registry
        )
        self.network_bytes = Gauge(
            "lensmith_inference_network_bytes", "Memory of these networks, estimated.", registry=registry
        )
        self.network_drops = Counter(
            "lensmith_inference_network_drops",
            "Networks of versions that left memory for others; each is loaded again when it is asked.",
            registry=registry,
        )
        self.network_load_seconds = Histogram(
            "lensmith_inference_network_load_seconds",
            "Seconds of fetching and loading the network of a version.",
            registry=registry,
            buckets=_SECONDS,
        )


def label_of(space: str) -> str:
    """Return what a space is called in labels: those of fine-tuned versions are too many for names of their own."""
    return "fine-tuned" if is_network_space(space) else space
