"""Starts trainer: settings in, server out."""

import os
import sys

from lensmith_platform.server import Platform, Service, main
from lensmith_trainer.settings import TrainerSettings
from lensmith_vision.threads import keep_memory, share_memory

_SMALL_FIT_BYTES = 64 << 20
"""What a fit of some thousand pictures needs."""


async def build(platform: Platform[TrainerSettings]) -> Service:
    """Build trainer with a bound on the threads of its mathematics, and on the memory that they hold."""
    share_memory()
    keep_memory(_SMALL_FIT_BYTES)
    # BLAS reads it when numpy is first imported, which the import below does.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(platform.settings.fit_threads))
    from lensmith_trainer import app

    return await app.build(platform)


if __name__ == "__main__":
    sys.exit(main(TrainerSettings, build))
