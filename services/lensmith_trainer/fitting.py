"""From the data of a job to what is handed in. Blocking: it runs in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask

from lensmith_api.internal.v1.training_job_service_pb2 import CompleteModelVersionRequest, TrainingJob
from lensmith_api.v1.model_version_pb2 import EvaluationSummary, Finding, FindingSeverity
from lensmith_trainer.fit_memory import FitMemories, Kept
from lensmith_trainer.holding import Holding, TrainingRows
from lensmith_trainer.training_set import method_of, options_of, snapshot_of, training_set_of
from lensmith_vision import dataset_snapshot, heads, out_of_fold, preflight
from lensmith_vision.dataset_snapshot import DatasetSnapshot
from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.growth import Sketch
from lensmith_vision.refit import ClassMemory
from lensmith_vision.training import Fitted, Progress, TrainingSet, fit_head_again

__all__ = [
    "evaluation_stands",
    "findings_to_proto",
    "fit_job",
    "request_of",
    "sketch_job",
    "take_down",
    "without_artefacts",
]

_LARGE = ("head", "evaluation_json", "out_of_fold", "dataset_snapshot")
_SMALL = FieldMask(paths=[name for name in CompleteModelVersionRequest.DESCRIPTOR.fields_by_name if name not in _LARGE])


def fit_job(
    job: TrainingJob,
    taken: TrainingRows,
    memories: FitMemories,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> CompleteModelVersionRequest:
    """Fit a head and evaluate it, or go on from the last fit of the model where little changed.

    Raises:
        TrainingError: The data cannot be trained on, or the training was stopped.
    """
    data = training_set_of(job.model, job.space, taken)
    taken.forget_features()
    kept = memories.take(job)
    if kept is not None and not any(row.test for row in taken.rows):
        request = _again(job, data, taken, kept, memories)
        if request is not None:
            return request
    options, method = options_of(job.model, job.training, job.seed), method_of(job.training)
    test = np.fromiter((row.test for row in taken.rows), np.bool_, len(taken.rows))
    fitted = fit_and_evaluate(data, test, options, method, progress, cancelled, kept.memory if kept else None)
    # The features are most of the memory, and what is handed in needs some as well.
    del data
    request, snapshot = _handed_in(job, taken, fitted)
    if fitted.memory is not None and method == "out_of_fold":
        left_out = frozenset(fitted.left_out)
        slim = without_artefacts(request)
        memories.keep(job, Kept(fitted.memory, slim, fitted.head, snapshot, left_out, taken.moment))
    return request


def without_artefacts(request: CompleteModelVersionRequest) -> CompleteModelVersionRequest:
    """What a version hands in, for a later one to start from: what is large is left out, its evaluation is named."""
    slim = CompleteModelVersionRequest()
    # Not all of it copied and the large part cleared again: a message keeps the memory of what was cleared.
    _SMALL.MergeMessage(request, slim)
    slim.evaluation_of = request.evaluation_of or request.version_uid
    return slim


def sketch_job(job: TrainingJob, holding: Holding, memories: FitMemories) -> None:
    """Get ready for a few more pictures, while nobody waits for it."""
    kept = memories.take(job)
    if kept is None:
        return
    pictures = kept.memory.pictures
    changed = None if kept.moment is None else holding.changed_since(kept.moment)
    # What is gone or has other bytes by now makes the next training a whole one anyway.
    if changed is not None and changed.isdisjoint(pictures.ids):
        sketch = Sketch.of(len(pictures.ids), lambda rows: holding.vectors(pictures.ids[row] for row in rows))
        kept = replace(kept, sketch=sketch)
        holding.release()
    memories.keep(job, kept)


def request_of(job: TrainingJob, taken: TrainingRows, fitted: Fitted) -> CompleteModelVersionRequest:
    """Make what is handed in of a head and its evaluation."""
    return _handed_in(job, taken, fitted)[0]


def _handed_in(
    job: TrainingJob, taken: TrainingRows, fitted: Fitted
) -> tuple[CompleteModelVersionRequest, DatasetSnapshot]:
    scores = fitted.out_of_fold
    folds = dict(zip(scores.ids, scores.folds.tolist(), strict=True)) if scores.method == "out_of_fold" else {}
    with ThreadPoolExecutor(1) as executor:
        # Of very many scores the most is done outside the interpreter.
        written = executor.submit(out_of_fold.save, scores)
        request = CompleteModelVersionRequest(
            app_id=job.app_id,
            version_uid=job.version_uid,
            lease=job.lease,
            head=heads.save(fitted.head),
            evaluation_json=fitted.evaluation.to_json().encode(),
            concepts=fitted.head.concepts,
            thresholds=fitted.head.thresholds.tolist(),
            input_count=fitted.input_count,
            findings=findings_to_proto(fitted.findings),
            summary=EvaluationSummary(**fitted.evaluation.summary()),
        )
        snapshot = snapshot_of(job.model, taken.rows, fitted.left_out, folds)
        take_down(request, snapshot)
        request.out_of_fold = written.result()
    return request, snapshot


def _again(
    job: TrainingJob, data: TrainingSet, taken: TrainingRows, kept: Kept, memories: FitMemories
) -> CompleteModelVersionRequest | None:
    """Fit the head alone where the last evaluation still stands; None: it does not."""
    again = fit_head_again(data, options_of(job.model, job.training, job.seed), kept.memory)
    if again is None:
        return None
    request = CompleteModelVersionRequest()
    request.CopyFrom(kept.handed_in)
    request.version_uid, request.lease = job.version_uid, job.lease
    request.head, request.input_count = heads.save(again.head), again.input_count
    del request.findings[:]
    request.findings.extend(findings_to_proto([*again.findings, *evaluation_stands(again.memory)]))
    pictures = again.memory.pictures
    folds: Mapping[str, int] = dict(zip(pictures.ids, pictures.folds.tolist(), strict=True))
    snapshot = snapshot_of(job.model, taken.rows, again.left_out, folds)
    take_down(request, snapshot)
    left_out = frozenset(again.left_out)
    memories.keep(job, Kept(again.memory, without_artefacts(request), again.head, snapshot, left_out, taken.moment))
    return request


def evaluation_stands(memory: ClassMemory) -> list[preflight.Finding]:
    """Say that the figures of a version are those before its last pictures came, if they are."""
    new, total = memory.unevaluated, len(memory.pictures.ids)
    if not new:
        return []
    since = "the last image" if new == 1 else f"the last {new:,} images"
    text = (
        f"accuracy and the other figures are those measured before {since} came: {new:,} of {total:,} can hardly move "
        "them; they are measured anew when more than 2 of 1,000 images have come since"
    )
    return [preflight.Finding("EVALUATION_STANDS", preflight.Severity.HINT, text)]


def take_down(request: CompleteModelVersionRequest, snapshot: DatasetSnapshot) -> None:
    """Hand in what a version was trained on."""
    request.dataset_sha256 = snapshot.sha256()
    listing = dataset_snapshot.save(snapshot)
    request.dataset_snapshot = listing if len(listing) <= dataset_snapshot.MOST_BYTES else b""


def findings_to_proto(findings: Iterable[preflight.Finding]) -> list[Finding]:
    """Convert what was noticed about the data."""
    return [
        Finding(
            reason=finding.reason,
            severity=FindingSeverity.Value(f"FINDING_SEVERITY_{finding.severity.value}"),
            message=finding.message,
            concept=finding.concept or "",
        )
        for finding in findings
    ]
