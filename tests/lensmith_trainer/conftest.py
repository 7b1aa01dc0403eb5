"""Trainer between a real registry and a dataset of the test's own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lensmith_platform.server import RunningService, running
from lensmith_trainer.app import TrainerService, build
from lensmith_trainer.settings import TrainerSettings
from tests.lensmith_registry.rig import Rig, rig_of

Train = Callable[..., AbstractAsyncContextManager[RunningService[TrainerService]]]


@dataclass
class Farm:
    """A registry, and trainers in this process or as processes of their own."""

    rig: Rig
    nats_url: str
    directory: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def settings(self, **settings: object) -> dict[str, object]:
        return {
            "service_key_file": self.directory / "private" / "trainer.pem",
            "service_keys_dir": self.directory / "keys",
            "addresses": {
                "auth": self.rig.auth_peer.target,
                "dataset": self.rig.dataset_peer.target,
                "registry": self.rig.service.target,
            },
            "nats_url": self.nats_url,
            "cache_dir": self.directory / "cache",
            "report_seconds": 0.05,
            "grace_seconds": 1.0,
            **settings,
        }

    @asynccontextmanager
    async def trainer(self, **settings: object) -> AsyncIterator[RunningService[TrainerService]]:
        """Run a trainer in this process."""
        async with running(TrainerSettings(**self.settings(**settings)), build) as service:
            yield service

    def spawn(self) -> subprocess.Popen[bytes]:
        """Run a trainer as a process that can be killed."""
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        for name, value in self.settings().items():
            if isinstance(value, dict):
                for key, part in value.items():
                    environment[f"LENSMITH_TRAINER_{name.upper()}__{key.upper()}"] = part
            else:
                environment[f"LENSMITH_TRAINER_{name.upper()}"] = str(value)
        process = subprocess.Popen([sys.executable, "-m", "lensmith_trainer"], env=environment)
        self.processes.append(process)
        return process

    async def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)


@pytest.fixture
async def farm(tmp_path: Path, database, nats_url: str, s3) -> AsyncIterator[Farm]:
    """A registry that gives trainers up after a second."""
    urls = (database.url("registry"), database.url("registry", worker=True), database.admin_url)
    impatient = {"lease_seconds": 1.0, "silent_seconds": 2.0, "reconcile_seconds": 0.2, "purge_seconds": 0.5}
    async with rig_of(tmp_path, urls, nats_url, s3.url, **impatient) as rig:
        farm = Farm(rig, nats_url, tmp_path)
        try:
            yield farm
        finally:
            await farm.end()
