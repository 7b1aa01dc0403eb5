"""Settings of the gateway, `LENSMITH_GATEWAY_*`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BlobSettings, BusSettings, ServiceSettings

MEBIBYTE = 1 << 20


class GatewaySettings(ServiceSettings, BusSettings, BlobSettings):
    """What the gateway is set by."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_GATEWAY_")

    http_listen: str = "127.0.0.1:0"
    """Where plain HTTP is served to Envoy: `host:port` (port 0: any free one) or `unix:/path/of/socket`."""
    max_upload_files: int = Field(default=128, ge=1, le=1000)
    """Most files of one upload."""
    max_upload_bytes: int = Field(default=512 * MEBIBYTE, ge=MEBIBYTE)
    """Most bytes of one upload, all files together; they wait in a temporary file until the upload is complete."""
    max_file_bytes: int = Field(default=20 * MEBIBYTE, ge=1 << 10, le=60 * MEBIBYTE)
    """Most bytes of one file; a larger one fails alone."""
    uploads_at_once: int = Field(default=16, ge=1)
    """Uploads received at the same time; more wait for their turn."""
    batch_bytes: int = Field(default=32 * MEBIBYTE, ge=1 << 10, le=64 * MEBIBYTE)
    """Most bytes of pictures sent to dataset in one call; one larger picture still goes alone."""
    batch_seconds: float = Field(default=120.0, gt=0)
    """Deadline of such a call."""
    health_seconds: float = Field(default=1.0, gt=0)
    """How long a service may take to say that it is well."""
    upload_temp_dir: str | None = None
    """Where uploads wait; unset: the system's directory for temporary files."""
