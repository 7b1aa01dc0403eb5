"""Settings of registry."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BlobSettings, BusSettings, PostgresSettings, ServiceSettings

__all__ = ["RegistrySettings"]


class RegistrySettings(ServiceSettings, PostgresSettings, BusSettings, BlobSettings):
    """Everything that registry can be told from outside."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_REGISTRY_")

    pack_folders: str = ""
    """Folders whose subfolders are model packs to install at start, separated by `:` (`;` on Windows)."""
    install_builtin_packs: bool = True
    """Whether to install the model packs that ship with the code."""
    max_pack_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Largest model pack that may be imported; its largest file is held in memory once."""
    lease_seconds: float = Field(default=15.0, gt=0)
    """How long a trainer keeps a version without a report before another may take it."""
    max_attempts: int = Field(default=10, ge=1)
    """How often trainers may die over a version before it is FAILED."""
    silent_seconds: float = Field(default=60.0, gt=0)
    """After how long without a heartbeat the bus is told of a QUEUED or TRAINING version again."""
    reconcile_seconds: float = Field(default=10.0, gt=0)
    """How often to look for versions that nobody works on."""
    upgrade_seconds: float = Field(default=1.0, gt=0)
    """How long an upgrade of an app rests between two looks at how far it is."""
    retrain_seconds: float = Field(default=5.0, gt=0)
    """How long a model that is trained by itself rests between two looks at how much is new."""
    max_queued_versions: int = Field(default=100, ge=1)
    """Most versions of an app at once that are QUEUED or TRAINING; candidates of its upgrade come on top."""
    max_watches: int = Field(default=2000, ge=1)
    """Most streams at once that watch versions and upgrades in this process."""
    watch_poll_seconds: float = Field(default=5.0, gt=0)
    """How often a watch looks by itself, should news get lost."""
    purge_grace_seconds: float = Field(default=86400.0, ge=0)
    """How long deleted models keep their bytes, and request ids their meaning."""
    purge_seconds: float = Field(default=300.0, gt=0)
    """How often to remove what was deleted long enough ago."""

    @property
    def pack_roots(self) -> tuple[Path, ...]:
        """The folders of `pack_folders`."""
        return tuple(Path(part) for part in self.pack_folders.split(os.pathsep) if part)
