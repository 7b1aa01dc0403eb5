"""What fits leave behind, kept for the next training of the same model: a retrain is then a small one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from lensmith_api.internal.v1.training_job_service_pb2 import TrainingJob
from lensmith_vision.refit import ClassMemory

__all__ = ["FitMemories"]


@dataclass(frozen=True)
class _Kept:
    asked: bytes
    memory: ClassMemory


class FitMemories:
    """Memories of the models trained last. Safe to use from several threads.

    Losing one costs time and nothing else: the next training of its model is a whole one.

    Args:
        most_bytes: Of their numbers, over all models.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of(self, job: TrainingJob) -> ClassMemory | None:
        """Return what the last training of the model left, if it was asked for the same in the same space."""
        with self._lock:
            kept = self._kept.get(job.model.uid)
            return kept.memory if kept is not None and kept.asked == _asked(job) else None

    def keep(self, job: TrainingJob, memory: ClassMemory | None) -> None:
        """Keep what a training left, None: nothing; those unused for longest go when there is no room."""
        with self._lock:
            self._kept.pop(job.model.uid, None)
            if memory is not None:
                self._kept[job.model.uid] = _Kept(_asked(job), memory)
            total = sum(kept.memory.nbytes for kept in self._kept.values())
            while total > self._most_bytes:
                _, dropped = self._kept.popitem(last=False)
                total -= dropped.memory.nbytes


def _asked(job: TrainingJob) -> bytes:
    """Everything that the meaning of a memory's numbers depends on."""
    model = job.model
    asked = TrainingJob(space=job.space, seed=job.seed, training=job.training)
    asked.model.type = model.type
    asked.model.concepts.extend(model.concepts)
    asked.model.negative_concept = model.negative_concept
    asked.model.closed_environment = model.closed_environment
    return asked.SerializeToString(deterministic=True)
