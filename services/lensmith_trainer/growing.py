"""A retrain after a few new pictures of many: what takes as long as there are pictures is left out. Blocking."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lensmith_api.internal.v1.training_job_service_pb2 import CompleteModelVersionRequest, TrainingJob
from lensmith_api.v1.model_pb2 import ModelType
from lensmith_trainer.fit_memory import FitMemories, Kept
from lensmith_trainer.fitting import evaluation_stands, findings_to_proto, take_down, without_artefacts
from lensmith_trainer.holding import Holding, Row
from lensmith_trainer.training_set import labels_needed
from lensmith_vision import dataset_snapshot, heads
from lensmith_vision.growth import NewPictures, Sketch, grow
from lensmith_vision.preflight import ConceptCount, check_counts, has_errors

__all__ = ["grow_job"]

_STAYING = ("LEFT_OUT_", "DUPLICATE_IMAGES", "CONFLICTING_LABELS")
"""What does not change where pictures of other bytes come that all take part."""


def grow_job(job: TrainingJob, holding: Holding, memories: FitMemories) -> CompleteModelVersionRequest | None:
    """Go on from the last fit of the model where pictures were only added to it; None: more changed than that."""
    kept = memories.take(job)
    if kept is None:
        return None
    request = None
    if kept.sketch is not None and job.model.type == ModelType.MODEL_TYPE_MULTI_CLASS:
        request = _grown(job, holding, memories, kept, kept.sketch)
    if request is None:
        memories.keep(job, kept)
    return request


def _grown(
    job: TrainingJob, holding: Holding, memories: FitMemories, kept: Kept, sketch: Sketch
) -> CompleteModelVersionRequest | None:
    added = _added(job, holding, kept)
    if added is None:
        return None
    rows, classes = added
    pictures = kept.memory.pictures

    def look(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return holding.vectors(pictures.ids[place] for place in places.tolist())

    uids, bytes_of = [row.uid for row in rows], [row.sha256 for row in rows]
    new = NewPictures(uids, bytes_of, holding.vectors(uids), np.asarray(classes, np.int64))
    grown = grow(kept.memory, sketch, new, look)
    if grown is None:
        return None
    findings = check_counts("multi_class", _counts(job, grown.memory.pictures.classes))
    if has_errors(findings):
        return None
    folds = dict(zip(uids, grown.folds.tolist(), strict=True))
    more = dataset_snapshot.take(((row.uid, row.sha256, row.labels) for row in rows), labels_needed(job.model), folds)
    snapshot = dataset_snapshot.extended(kept.snapshot, more)
    head = replace(kept.head, weights=grown.weights, bias=grown.bias)
    request = CompleteModelVersionRequest()
    request.CopyFrom(kept.handed_in)
    request.version_uid, request.lease = job.version_uid, job.lease
    request.head, request.input_count = heads.save(head), len(snapshot)
    staying = [finding for finding in kept.handed_in.findings if finding.reason.startswith(_STAYING)]
    del request.findings[:]
    request.findings.extend([*findings_to_proto([*findings, *evaluation_stands(grown.memory)]), *staying])
    take_down(request, snapshot)
    slim = without_artefacts(request)
    memories.keep(job, Kept(grown.memory, slim, head, snapshot, kept.left_out, holding.moment, grown.sketch))
    return request


def _added(job: TrainingJob, holding: Holding, kept: Kept) -> tuple[list[Row], list[int]] | None:
    """The pictures that came since, and the class of each; None: something else changed too."""
    changed = None if kept.moment is None else holding.changed_since(kept.moment)
    if changed is None or not changed.isdisjoint(kept.left_out):
        return None
    columns = {concept: column for column, concept in enumerate(job.model.concepts)}
    needed = frozenset(labels_needed(job.model))
    rows, classes = [], []
    for uid in sorted(changed):
        row = holding.row(uid)
        place = bisect_left(kept.snapshot.ids, uid)
        if place < len(kept.snapshot) and kept.snapshot.ids[place] == uid:
            if row is None or not _is_as_it_was(row, kept, place, needed):
                return None
        elif row is not None and not row.test and not needed.isdisjoint(row.labels):
            shown = [columns[name] for name, value in row.labels.items() if value is True and name in columns]
            if len(shown) != 1:
                return None
            rows.append(row)
            classes.append(shown[0])
    return rows, classes


def _is_as_it_was(row: Row, kept: Kept, place: int, needed: Collection[str]) -> bool:
    labels = {name: value for name, value in row.labels.items() if name in needed}
    same_bytes = bytes.fromhex(row.sha256) == kept.snapshot.hashes[place].tobytes()
    return not row.test and same_bytes and labels == kept.snapshot.labels_of(place)


def _counts(job: TrainingJob, classes: npt.NDArray[np.int64]) -> list[ConceptCount]:
    positives = np.bincount(classes, minlength=len(job.model.concepts)).tolist()
    return [
        ConceptCount(concept, count, len(classes) - count)
        for concept, count in zip(job.model.concepts, positives, strict=True)
    ]
