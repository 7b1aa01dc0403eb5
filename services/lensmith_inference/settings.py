"""Settings of the inference service: environment variables `LENSMITH_INFERENCE_…`."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BusSettings, ServiceSettings

__all__ = ["InferenceSettings"]

_MIB = 1024 * 1024


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class InferenceSettings(ServiceSettings, BusSettings):
    """Everything an operator may set."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_INFERENCE_")

    cache_dir: Path
    """Where packs of networks are kept between starts. Anything in it may be deleted at any time."""

    decode_threads: int = Field(default_factory=_cores, ge=1, le=256)
    """Pictures decoded at once; the number of cores by default."""

    engine_threads: int = Field(default_factory=_cores, ge=1, le=256)
    """Batches run at once, each on one core, which gives the most pictures a second; the number of cores by default."""

    max_batch: int = Field(default=8, ge=1, le=1024)
    """Most pictures in one pass of a base network."""

    batch_wait_ms: float = Field(default=2.0, ge=0, le=1000)
    """How long a picture waits at most for company that is still being decoded."""

    max_pending_images: int = Field(default=2048, ge=1)
    """Pictures of all requests together that may be in work; a request beyond is refused with INFERENCE_OVERLOADED."""

    max_pending_bytes: int = Field(default=512 * _MIB, ge=1)
    """Bytes of pictures of all requests together that may be in work."""

    max_images: int = Field(default=128, ge=1, le=128)
    """Most pictures in one request."""

    max_request_bytes: int = Field(default=64 * _MIB, ge=1, le=64 * _MIB)
    """Most bytes of all pictures sent in one request."""

    max_image_bytes: int = Field(default=20 * _MIB, ge=1)
    """Most bytes of one picture, sent or fetched."""

    max_image_pixels: int = Field(default=100_000_000, ge=1)
    """Most pixels of one picture."""

    fetch_concurrency: int = Field(default=16, ge=1, le=1024)
    """Pictures fetched from URLs at once, over all requests."""

    fetch_seconds: float = Field(default=15.0, gt=0)
    """How long fetching one picture may take."""

    fetch_redirects: int = Field(default=3, ge=0, le=20)
    """Redirects followed for one picture."""

    allow_private_urls: bool = False
    """Whether pictures may be fetched from private and loopback addresses. Only for networks without secrets."""

    model_ttl_seconds: float = Field(default=5.0, ge=0)
    """How long an answer of registry is believed without asking again, should the news of a change get lost."""

    stale_seconds: float = Field(default=86_400.0, ge=0)
    """How long models that are already known keep answering while registry is away."""

    max_models: int = Field(default=10_000, ge=1)
    """Models remembered at once."""

    head_cache_bytes: int = Field(default=256 * _MIB, ge=1)
    """Memory for the linear heads of models; the longest unused ones are dropped first."""

    kernel_head_cache_bytes: int = Field(default=512 * _MIB, ge=1)
    """Memory for the heads of the kernel tier, megabytes each; the longest unused ones are dropped first."""

    max_base_models: int = Field(default=8, ge=1)
    """Base networks held in memory at once; the longest unused ones are dropped first."""

    network_cache_bytes: int = Field(default=1024 * _MIB, ge=1)
    """Memory for the networks of fine-tuned versions, each counted as eight times its file; the longest unused ones of
    the app that has most are dropped first. They never push out base networks, nor those of apps that have less than an
    equal share."""

    network_disk_bytes: int = Field(default=8192 * _MIB, ge=1)
    """Room in `cache_dir` for the networks of fine-tuned versions; the longest unused ones are removed first, and all
    that were not loaded for a week."""

    warm_models: bool = True
    """Whether a model is fetched as soon as it changes, so that its first question does not wait for it."""
