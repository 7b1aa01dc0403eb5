"""Settings of the dataset service: environment variables `LENSMITH_DATASET_…`."""

from datetime import timedelta
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BlobSettings, BusSettings, PostgresSettings, ServiceSettings

Role = Literal["api", "indexer"]


class DatasetSettings(ServiceSettings, PostgresSettings, BusSettings, BlobSettings):
    """What the dataset service is set by."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_DATASET_")

    roles: str = Field(default="api,indexer", pattern=r"^(api|indexer)(,(api|indexer))*$")
    """What this process does: `api` answers RPCs and cleans up, `indexer` has inputs embedded. A cluster may run them
    apart."""

    max_inputs: int = Field(default=128, ge=1)
    """Most inputs of one CreateInputs call."""
    max_image_bytes: int = Field(default=20 << 20, ge=1 << 10)
    """Most bytes of one picture, sent or fetched."""
    max_image_pixels: int = Field(default=100_000_000, ge=1)
    """Most pixels of one picture, checked before any is decoded."""
    max_image_side: int = Field(default=32_768, ge=1)
    """Longest side of a picture in pixels."""
    max_aspect_ratio: float = Field(default=25.0, ge=1)
    """Longer side of a picture over its shorter side, at most."""
    max_metadata_bytes: int = Field(default=64 << 10, ge=2)
    """Most bytes of an input's metadata as JSON."""
    max_annotations: int = Field(default=20_000, ge=1)
    """Most annotations of one call, over all its inputs."""
    check_threads: int = Field(default=4, ge=1, le=256)
    """Threads that check pictures; decoding leaves the interpreter's lock, so one a core."""

    fetch_seconds: float = Field(default=15.0, gt=0)
    """Longest time to fetch a picture by URL, redirects included."""
    fetch_redirects: int = Field(default=3, ge=0, le=20)
    """Most redirects to follow."""
    fetch_concurrency: int = Field(default=32, ge=1)
    """URLs fetched at once by this process; each may hold `max_image_bytes` of memory."""
    allow_private_urls: bool = False
    """Whether URLs may name addresses that are not public: only where every user may reach the whole local network."""

    image_link_seconds: int = Field(default=300, ge=1, le=86_400)
    """How long a signed link to a picture works."""

    deletion_grace_hours: float = Field(default=24.0, ge=0)
    """How long the bytes of deleted inputs are kept."""
    request_id_hours: float = Field(default=24.0, gt=0)
    """How long a repeated `request_id` is recognised."""
    purge_interval_seconds: float = Field(default=60.0, gt=0)
    """How often the process looks for bytes and rows whose time is over."""
    purge_lease_seconds: float = Field(default=600.0, gt=0)
    """After which time the work of a purge that died is done again; longer than any call of S3 lasts."""

    index_batch: int = Field(default=32, ge=1, le=128)
    """Most pictures of one Embed call."""
    index_batch_bytes: int = Field(default=32 << 20, ge=1 << 10)
    """Most bytes of pictures of one Embed call; one larger picture still goes alone."""
    index_wait_seconds: float = Field(default=0.02, ge=0)
    """How long a batch that is not full waits for more."""
    index_batches_at_once: int = Field(default=2, ge=1)
    """Embed calls in flight, so that inference is busy while the results of one batch are stored."""
    recent_blob_bytes: int = Field(default=64 << 20, ge=0)
    """Most bytes of pictures just stored that a process keeps for its own indexer."""
    index_stale_seconds: float = Field(default=60.0, gt=0)
    """After which time without progress an input that waits is given to the indexer again."""
    index_poll_seconds: float = Field(default=10.0, gt=0)
    """How often the process looks for such inputs."""
    index_give_up_attempts: int = Field(default=10, ge=1)
    """After how many failures a picture that makes inference fail, alone, becomes FAILED."""
    embed_seconds: float = Field(default=60.0, gt=0)
    """Deadline of one Embed call."""
    general_concepts: bool = True
    """Whether the public model General looks at every input when it is embedded."""

    backfill_batch: int = Field(default=16, ge=1, le=128)
    """Most pictures that are embedded anew at once, for an app that moves to another base model."""
    backfill_poll_seconds: float = Field(default=1.0, gt=0)
    """How often the process looks for such pictures while there are none."""
    backfill_lease_seconds: float = Field(default=30.0, gt=0)
    """After which time the pictures of a process that died are taken by another."""
    retired_space_hours: float = Field(default=24.0, ge=0)
    """How long the vectors of a base model are kept that an app has left: so long moving back is quick."""

    feed_wait_seconds: float = Field(default=10.0, ge=0)
    """How long a trainer that asks what changed waits for transactions that hold the newest changes back."""

    @property
    def deletion_grace(self) -> timedelta:
        """`deletion_grace_hours` as a duration."""
        return timedelta(hours=self.deletion_grace_hours)

    @property
    def retired_space_grace(self) -> timedelta:
        """`retired_space_hours` as a duration."""
        return timedelta(hours=self.retired_space_hours)

    def has_role(self, role: Role) -> bool:
        """Tell whether this process does a kind of work."""
        return role in self.roles.split(",")
