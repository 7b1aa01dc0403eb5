"""Settings of trainer: environment variables `LENSMITH_TRAINER_…`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lensmith_platform.settings import BusSettings, ServiceSettings

__all__ = ["TrainerSettings"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class TrainerSettings(ServiceSettings, BusSettings):
    """Everything that trainer can be told from outside."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_TRAINER_")

    cache_dir: Path
    """Where replicas of training data are kept between jobs. Anything in it may be deleted at any time."""
    cache_bytes: int = Field(default=20 << 30, ge=0)
    """Most bytes of replicas to keep; the longest unused go first."""
    memory_bytes: int = Field(default=1 << 30, ge=0)
    """Most bytes of replicas to keep in memory as well, so that a retrain reads nothing again; and as many of what fits
    leave for the next one of their model."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Versions trained at once by this process."""
    fit_threads: int = Field(default_factory=_cores, ge=1, le=256)
    """Threads of one matrix product; the number of cores by default."""
    report_seconds: float = Field(default=1.0, gt=0)
    """How often registry is told how training goes; also how soon a cancelled training notices."""
    stream_seconds: float = Field(default=600.0, gt=0)
    """Longest time to fetch what changed of an app's training data."""
    complete_seconds: float = Field(default=120.0, gt=0)
    """How long to try to hand in a fitted head while registry is away."""
    fine_tunes: bool = True
    """Whether this trainer takes versions whose whole network is to learn, one at a time, beside the heads. Without
    PyTorch (`pip install "lensmith[finetune]"`) it takes none, whatever stands here."""
    fine_tune_threads: int = Field(default_factory=_cores, ge=1, le=256)
    """Processor threads of each process in which a network learns; the number of cores by default."""
    fine_tune_processes: int = Field(default=1, ge=1, le=64)
    """How many processes learn a network together: say as many as this trainer has GPUs."""
    scratch_dir: Path | None = None
    """Where networks learn: pixels and checkpoints. A folder of `cache_dir` by default. Storage that outlives the
    process lets a killed fine-tuning go on from its last epoch."""
    scratch_bytes: int = Field(default=50 << 30, ge=0)
    """Most bytes in `scratch_dir`. A picture takes about 100 KB for the starter, 385 KB for a network of 224 pixels."""

    @property
    def scratch(self) -> Path:
        """Where networks learn."""
        return self.scratch_dir or self.cache_dir / "fine-tuning"
