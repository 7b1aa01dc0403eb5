"""Starts trainer: settings in, server out."""

import os
import sys

from lensmith_platform.server import Platform, Service, main
from lensmith_trainer.settings import TrainerSettings
from lensmith_vision.threads import share_memory


async def build(platform: Platform[TrainerSettings]) -> Service:
    """Build trainer with a bound on the threads of its mathematics, and on the memory that they hold."""
    share_memory()
    # BLAS reads it when numpy is first imported, which the import below does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(platform.settings.fit_threads))
    from lensmith_trainer import app

    return await app.build(platform)


if __name__ == "__main__":
    sys.exit(main(TrainerSettings, build))
