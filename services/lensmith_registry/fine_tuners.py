"""Whether any trainer takes versions whose whole network is to learn."""

from __future__ import annotations

import logging

from lensmith_platform.bus import Bus, is_worked
from lensmith_platform.errors import DependencyUnavailableError, PreconditionError
from lensmith_platform.events import FINE_TUNING_CONSUMER, SUBJECTS

__all__ = ["WAITING", "FineTuners"]

WAITING = "waiting for a trainer that can fine-tune"
"""What a version says until one takes it."""

_PATIENCE_SECONDS = 3.0
"""Longer than a trainer takes from one look for work to the next."""

_LOG = logging.getLogger(__name__)


class FineTuners:
    """Trainers that have PyTorch: those without do not listen to the subject of such versions.

    Args:
        bus: Where they listen.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def check(self) -> None:
        """Refuse what nobody would begin. While the bus is away nobody knows, and nothing is refused.

        Raises:
            PreconditionError: FINE_TUNING_NOT_AVAILABLE.
        """
        subject = SUBJECTS["model_fine_tuning_queued"]
        try:
            if await is_worked(self._bus, FINE_TUNING_CONSUMER, subject, _PATIENCE_SECONDS):
                return
        except DependencyUnavailableError as error:
            _LOG.warning("whether a trainer can fine-tune is not known: %s", error)
            return
        raise PreconditionError(
            "FINE_TUNING_NOT_AVAILABLE",
            "no trainer that can fine-tune is running: install PyTorch where one runs "
            '(`pip install "lensmith[finetune]"`) and start it again, or run the image trainer-finetune; '
            "if one is just being started, try again",
            metadata={"extra": "finetune", "image": "trainer-finetune"},
        )
