"""How far a job is, shared by the loop that reports it and whoever works on it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from lensmith_api.v1.model_version_pb2 import TrainingProgress
from lensmith_vision.training import Progress

__all__ = ["FETCHED", "FITTED", "JobProgress"]

FETCHED, FITTED = 0.1, 0.95
"""Parts of the work that are done after fetching and after fitting."""


@dataclass
class JobProgress:
    """How far a job is.

    Attributes:
        stop: Set once nobody wants the result any more.
        fraction: Part of the work done, 0 to 1.
        stage: What is being done, as the API names it.
        message: One sentence for people.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    fraction: float = 0.0
    stage: str = "fetching"
    message: str = ""

    def received(self, inputs: int) -> None:
        """Say how much training data has come."""
        self.message = f"{inputs} changed images received"

    def fitting(self, progress: Progress) -> None:
        """Say how far the head is."""
        self.fraction = FETCHED + (FITTED - FETCHED) * progress.fraction
        self.stage, self.message = progress.stage, ""

    def to_proto(self) -> TrainingProgress:
        """Return it as it is reported."""
        return TrainingProgress(fraction=self.fraction, stage=self.stage, message=self.message)
