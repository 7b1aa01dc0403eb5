"""What fits leave behind, kept for the next training of the same model: a retrain is then a small one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from lensmith_api.internal.v1.training_job_service_pb2 import CompleteModelVersionRequest, TrainingJob
from lensmith_trainer.holding import Moment
from lensmith_vision.dataset_snapshot import DatasetSnapshot
from lensmith_vision.growth import Sketch
from lensmith_vision.heads import Head
from lensmith_vision.refit import ClassMemory, is_large

__all__ = ["FitMemories", "Kept"]


@dataclass(frozen=True, eq=False)
class Kept:
    """What a training left.

    Attributes:
        memory: Of its fit.
        handed_in: Its result without what is large; it names the version whose evaluation is the last of the memory.
        head: Its head.
        snapshot: What it was trained on.
        left_out: uids of inputs that took no part though they have labels.
        moment: When its data was taken out of its holding; None: nobody knows.
        sketch: Of the memory's pictures; None: not made yet.
    """

    memory: ClassMemory
    handed_in: CompleteModelVersionRequest
    head: Head
    snapshot: DatasetSnapshot
    left_out: frozenset[str] = frozenset()
    moment: Moment | None = None
    sketch: Sketch | None = None

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        sketched = 0 if self.sketch is None else self.sketch.nbytes
        return self.memory.nbytes + sketched + self.head.weights.nbytes + self.snapshot.hashes.nbytes


class FitMemories:
    """What the models trained last left. Safe to use from several threads.

    Losing one costs time and nothing else: the next training of its model is a whole one.

    Args:
        most_bytes: Of their numbers, over all models.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[bytes, Kept]] = OrderedDict()

    def take(self, job: TrainingJob) -> Kept | None:
        """Take out what the last training of the model left, if it was asked for the same in the same space."""
        with self._lock:
            asked, kept = self._kept.pop(job.model.uid, (b"", None))
            return kept if asked == _asked(job) else None

    def forget(self, job: TrainingJob) -> None:
        """Forget what the last training of the model left."""
        with self._lock:
            self._kept.pop(job.model.uid, None)

    def can_grow(self, job: TrainingJob) -> bool:
        """Whether the last training of the model left what a small one could go on from."""
        with self._lock:
            asked, kept = self._kept.get(job.model.uid, (b"", None))
            return kept is not None and kept.sketch is not None and asked == _asked(job)

    def wants_sketch(self, job: TrainingJob) -> bool:
        """Whether the next training of the model could be a small one if a sketch of its pictures were made."""
        with self._lock:
            _, kept = self._kept.get(job.model.uid, (b"", None))
            if kept is None or kept.sketch is not None or kept.moment is None:
                return False
            return is_large(len(kept.memory.pictures.ids), len(kept.head.concepts))

    def keep(self, job: TrainingJob, kept: Kept) -> None:
        """Keep what a training left; of what there is no room for, that unused for longest goes."""
        with self._lock:
            self._kept[job.model.uid] = _asked(job), kept
            self._kept.move_to_end(job.model.uid)
            total = sum(one.nbytes for _, one in self._kept.values())
            while total > self._most_bytes:
                _, (_, dropped) = self._kept.popitem(last=False)
                total -= dropped.nbytes


def _asked(job: TrainingJob) -> bytes:
    """Everything that the meaning of a memory's numbers depends on."""
    model = job.model
    asked = TrainingJob(space=job.space, seed=job.seed, training=job.training)
    asked.model.type = model.type
    asked.model.concepts.extend(model.concepts)
    asked.model.negative_concept = model.negative_concept
    asked.model.closed_environment = model.closed_environment
    return asked.SerializeToString(deterministic=True)
