"""Settings of a service: from the environment, frozen, documented, and refused when misspelt.

Every field is an environment variable: prefix of the service, name of the field, `__` before a part of a mapping
(`LENSMITH_DATASET_ADDRESSES__AUTH`). Every field may also be read from a file, which `<FIELD>_FILE` names: secrets
then stand in no environment.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as SourceError

FRAMING_BYTES = 1 << 20
"""What a message may be larger than `max_message_bytes`: its own field numbers, names and annotations."""


class SettingsError(Exception):
    """The settings cannot be used; the message is one sentence for the person who set them."""


class _FileSource(PydanticBaseSettingsSource):
    """Values of fields from the files that `<FIELD>_FILE` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        variable = environment_name(self.settings_cls, field_name) + "_FILE"
        path = os.environ.get(variable)
        if path is None:
            return None, field_name, False
        try:
            value = Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable} names {path}, which cannot be read: {error}") from error
        return value, field_name, self.field_is_complex(field)

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, is_complex = self.get_field_value(field, name)
            if value is not None:
                values[name] = self.prepare_field_value(name, field, value, is_complex)
        return values


class Settings(BaseSettings):
    """Anything that reads settings from the environment; a subclass sets `env_prefix`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, and that over files; nothing else is read."""
        return init_settings, env_settings, _FileSource(settings_cls)


class ServiceSettings(Settings):
    """What every service is set by. A subclass sets ``env_prefix="LENSMITH_<SERVICE>_"``."""

    listen: str = "127.0.0.1:0"
    """Where gRPC is served: `host:port` (port 0: any free one) or `unix:/path/of/socket`."""
    metrics_listen: str = "127.0.0.1:0"
    """Where `/metrics`, `/healthz` and `/readyz` are served over HTTP: `host:port`. Never public."""
    drain_seconds: float = Field(default=0.0, ge=0, le=600)
    """How long to go on serving after SIGTERM while load balancers learn that this process goes away."""
    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    """How long calls in flight may take to end when the service stops."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines to write."""
    log_format: Literal["json", "console"] = "json"
    """Form of the log: JSON for machines, console for people."""
    otlp_endpoint: str | None = None
    """OpenTelemetry collector that traces go to by OTLP over gRPC, `http://host:4317`; unset: no traces leave."""
    service_key_file: Path
    """This service's private Ed25519 key (PEM), with which it signs calls to other services."""
    service_keys_dir: Path
    """Directory with the public keys of all services, `<service>.pub` (PEM)."""
    addresses: dict[str, str] = Field(default_factory=dict)
    """gRPC targets of the other services by name: `auth`, `dataset`, `registry`, `inference`, `trainer`."""
    max_message_bytes: int = Field(default=64 << 20, ge=1 << 10, le=1 << 30)
    """Most bytes of a request or response; 1 MiB of framing comes on top."""
    default_deadline_seconds: float = Field(default=60.0, gt=0)
    """Deadline of a unary call whose caller gives none."""
    ready_interval_seconds: float = Field(default=5.0, gt=0)
    """How often the service asks itself whether it can serve."""
    key_cache_seconds: float = Field(default=60.0, ge=0, le=3600)
    """How long a key checked once works without asking auth again, also while auth is away."""


class PostgresSettings(Settings):
    """A service that owns a schema."""

    postgres_url: SecretStr
    """Postgres as the role of the service, `lensmith_<service>`; may be a pooler."""
    worker_postgres_url: SecretStr
    """Postgres as the role of the service's workers, `lensmith_<service>_worker`, who see every app."""
    postgres_pool_size: int = Field(default=10, ge=1, le=1000)
    """Most connections of the pool."""
    statement_cache_size: int = Field(default=100, ge=0)
    """Prepared statements kept by each connection; 0 behind a pooler that mixes transactions."""


class BusSettings(Settings):
    """A service that hears or tells news."""

    nats_url: SecretStr
    """NATS with credentials, `nats://user:password@host:port`."""


class BlobSettings(Settings):
    """A service that stores bytes."""

    s3_url: SecretStr
    """Bucket with credentials, `http://access:secret@host:port/bucket`."""


_Settings = TypeVar("_Settings", bound=Settings)


def load(settings_class: type[_Settings]) -> _Settings:
    """Read settings from the environment.

    Raises:
        SettingsError: a variable is unknown, missing or wrong; the message names it and never shows a secret.
    """
    _refuse_unknown(settings_class, os.environ)
    try:
        return settings_class()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        variable = environment_name(settings_class, "__".join(str(part) for part in first["loc"]))
        if first["type"] == "missing":
            raise SettingsError(
                f"{variable} (or {variable}_FILE) is not set{_meaning(settings_class, first)}"
            ) from None
        raise SettingsError(f"{variable} is wrong: {first['msg']}{_meaning(settings_class, first)}") from None
    except SourceError as error:
        raise SettingsError(f"the environment cannot be read: {error}") from None


def environment_name(settings_class: type[BaseSettings], field: str) -> str:
    """Name of a field's environment variable."""
    return f"{settings_class.model_config.get('env_prefix', '')}{field}".upper()


def service_name(settings: ServiceSettings) -> str:
    """Name of the service that settings are for: what its prefix says."""
    return str(settings.model_config.get("env_prefix", "")).removeprefix("LENSMITH_").strip("_").lower()


def masked(settings: Settings) -> dict[str, Any]:
    """Settings to print at start: secrets are stars."""
    return settings.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, for the documentation.

    Attributes:
        name: environment variable.
        type: what it holds.
        default: value when unset; None: it must be set.
        description: what it is for.
    """

    name: str
    type: str
    default: str | None
    description: str


def describe(settings_class: type[Settings]) -> Sequence[SettingRow]:
    """List all settings of a class, its own first in order of definition."""
    return [
        SettingRow(
            name=environment_name(settings_class, name),
            type=_type_name(field),
            default=_default_text(field),
            description=field.description or "",
        )
        for name, field in settings_class.model_fields.items()
    ]


def _type_name(field: FieldInfo) -> str:
    annotation = field.annotation
    return (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )


def _default_text(field: FieldInfo) -> str | None:
    if field.default_factory is not None and not isinstance(field.default_factory, type):
        # It depends on the machine: its name says on what (`_cores`).
        return field.default_factory.__name__.strip("_")
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return None
    return "" if default is None else str(default)


def _meaning(settings_class: type[Settings], error: Mapping[str, Any]) -> str:
    field = settings_class.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    return f" ({field.description})" if field is not None and field.description else ""


def _refuse_unknown(settings_class: type[Settings], environment: Mapping[str, str]) -> None:
    prefix = environment_name(settings_class, "")
    if not prefix:
        return
    known = [environment_name(settings_class, name) for name in settings_class.model_fields]
    for variable in environment:
        # Variables are matched in any case, as the library that reads them does.
        name = variable.upper()
        if not name.startswith(prefix):
            continue
        base = name.partition("__")[0]
        if name in known or (base != name and base in known):
            continue
        if name.endswith("_FILE") and name.removesuffix("_FILE") in known:
            if name.removesuffix("_FILE") in environment:
                raise SettingsError(f"{variable} and {variable.removesuffix('_FILE')} are both set; keep one")
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"{variable} is not a setting{hint}")
