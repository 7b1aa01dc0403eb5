"""Settings of the auth service, `LENSMITH_AUTH_*`."""

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BusSettings, PostgresSettings, ServiceSettings


class AuthSettings(ServiceSettings, PostgresSettings, BusSettings):
    """What the auth service needs to run."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_AUTH_")

    bootstrap_key: SecretStr | None = None
    """Secret of the operator's key; its key is made at start where no operator's key exists."""
    heartbeat_seconds: float = 0.25
    """How often the number of the newest revocation is broadcast."""
    last_used_seconds: float = 60.0
    """How exact `last_used_time` of a key is."""
