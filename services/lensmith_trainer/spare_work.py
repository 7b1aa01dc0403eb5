"""The process that does what nobody waits for: ``python -m lensmith_trainer.spare_work``, started by `SpareProcess`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import Message

from lensmith_api.internal.v1.curation_service_pb2 import StreamUnlabelledInputsResponse
from lensmith_api.internal.v1.learning_curve_job_service_pb2 import LearningCurveJob
from lensmith_api.internal.v1.suggestion_job_service_pb2 import PutSuggestionsRequest, SuggestionJob
from lensmith_trainer.learning_curves import curve_of
from lensmith_trainer.replica import Replica, ReplicaDamagedError
from lensmith_trainer.spare_process import REPLICA_DAMAGED, Task, read_frames, write_frame
from lensmith_trainer.suggestions import suggestions_of
from lensmith_trainer.training_set import labels_needed
from lensmith_vision.threads import share_memory


def main() -> int:
    """Do one piece of work."""
    share_memory()
    # Whatever a library prints must not be taken for the answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    head, *parts = read_frames(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(sys.stdin.buffer,), daemon=True).start()
    task = Task.from_bytes(head)
    replica = Replica(Path(task.replica), task.app_id, task.space)
    work = _suggest if task.work == "suggest" else _learning_curve
    try:
        answer = work(replica, parts)
    except ReplicaDamagedError as error:
        sys.stderr.write(f"the work comes again: {error}\n")
        # At once: nothing may be closed before the status is told, for the trainer kills whoever is silent.
        os._exit(REPLICA_DAMAGED)
    write_frame(answers, answer.SerializeToString())
    return 0


def _end_with(trainer: BinaryIO) -> None:
    """End when the trainer does: somebody else has the work then."""
    trainer.read()
    os._exit(1)


def _suggest(replica: Replica, parts: Sequence[bytes]) -> Message:
    job = SuggestionJob.FromString(parts[0])
    unlabelled = [one for part in parts[1:] for one in StreamUnlabelledInputsResponse.FromString(part).inputs]
    rows = replica.read(labels_needed(job.model), tests=True)
    return PutSuggestionsRequest(suggestions=suggestions_of(job, rows, unlabelled))


def _learning_curve(replica: Replica, parts: Sequence[bytes]) -> Message:
    job = LearningCurveJob.FromString(parts[0])
    return curve_of(job, replica.read(labels_needed(job.model)))


if __name__ == "__main__":
    sys.exit(main())
