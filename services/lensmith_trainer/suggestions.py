"""Looking through the data of a trained version for what to fix, once it is handed in and nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lensmith_api.internal.v1.curation_service_pb2 import StreamUnlabelledInputsRequest
from lensmith_api.internal.v1.events_pb2 import Event
from lensmith_api.internal.v1.suggestion_job_service_pb2 import (
    GetSuggestionJobRequest,
    PutSuggestionsRequest,
    SuggestionJob,
)
from lensmith_api.internal.v1.training_data_service_pb2 import TrainingInput
from lensmith_api.v1.suggestion_pb2 import InputToLabel, Suggestion, SuggestionKind, SuggestionLabel
from lensmith_platform.errors import NotFoundError, PreconditionError
from lensmith_platform.service_auth import service_call_app
from lensmith_trainer.holding import TrainingRows
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.replicas import Replicas
from lensmith_trainer.spare_process import SpareProcess, Task
from lensmith_trainer.training_set import labels_needed, training_set_of
from lensmith_vision import heads, out_of_fold
from lensmith_vision.curation import suggestion as curation
from lensmith_vision.curation.curate import suggest
from lensmith_vision.curation.next_labels import MOST_CANDIDATES
from lensmith_vision.curation.suggestion import Curated, Pictures
from lensmith_vision.folds import groups_of
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.training import TrainingSet

if TYPE_CHECKING:  # the generated stubs name these classes for type checkers only
    from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceAsyncStub
    from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import SuggestionJobServiceAsyncStub

__all__ = ["SuggestionJobs", "suggestions_of"]

_PAUSE_SECONDS = 1.0
_STREAM_SECONDS = 120.0
_LOG = logging.getLogger(__name__)


class SuggestionJobs:
    """Looks through the data of versions.

    It is work of its own, after the version is handed in and in a process of its own: READY waits for nothing of it,
    and whoever dies over it leaves an event that another one takes up. Of versions that follow each other fast, only
    the newest is done.

    Args:
        registry: Who gives and takes it.
        curation: dataset, which has the pictures that nobody has labelled.
        replicas: Training data.
        spare: Where it runs.
        metrics: Where its seconds are counted.
    """

    def __init__(
        self,
        registry: SuggestionJobServiceAsyncStub,
        curation: CurationServiceAsyncStub,
        replicas: Replicas,
        spare: SpareProcess,
        metrics: Metrics,
    ) -> None:
        self._registry = registry
        self._curation = curation
        self._replicas = replicas
        self._spare = spare
        self._metrics = metrics

    async def start(self, event: Event) -> None:
        """Look through the data of the version that an event tells of, if anybody wants that.

        Raises:
            LensmithError: registry or dataset is away, or the work failed; try again later.
        """
        # Whoever labels a few pictures and trains again is not to wait for this; the next version has its turn then.
        await asyncio.sleep(_PAUSE_SECONDS)
        with service_call_app(event.app_id):
            async with self._spare.turn:
                await self._suggest(event.app_id, event.model_version_completed.version_uid)

    async def _suggest(self, app_id: int, uid: str) -> None:
        try:
            # In its turn only: what was superseded while it waited is not looked through any more.
            job = await self._registry.GetSuggestionJob(GetSuggestionJobRequest(app_id=app_id, version_uid=uid))
        except (NotFoundError, PreconditionError) as error:
            _LOG.info("nothing is suggested for %s: %s", uid, error)
            return
        async with self._replicas.lent(app_id, job.space) as replica:
            task = Task("suggest", str(replica), app_id, job.space)
            name = job.name
            with self._metrics.train_part_seconds.labels("suggest").time():
                parts = [job.SerializeToString(), *await self._unlabelled(app_id, job)]
                # Scores of many pictures are many megabytes, and a fit may need the room meanwhile.
                del job
                answer = await self._spare.run(task, parts)
        request = PutSuggestionsRequest.FromString(answer)
        request.app_id, request.version_uid = app_id, uid
        try:
            await self._registry.PutSuggestions(request)
        except NotFoundError:
            _LOG.info("%s was deleted meanwhile", name)

    async def _unlabelled(self, app_id: int, job: SuggestionJob) -> list[bytes]:
        request = StreamUnlabelledInputsRequest(
            app_id=app_id,
            space=job.space,
            concepts=labels_needed(job.model),
            limit=MOST_CANDIDATES,
            seed=job.seed,
        )
        stream = self._curation.StreamUnlabelledInputs(request, timeout=_STREAM_SECONDS)
        # An empty part would read as the end.
        return [part.SerializeToString() async for part in stream if part.inputs]


def suggestions_of(job: SuggestionJob, taken: TrainingRows, unlabelled: list[TrainingInput]) -> list[Suggestion]:
    """Look through the data of a version.

    Raises:
        VisionError: What registry has of the version is damaged.
    """
    scores = out_of_fold.load(job.out_of_fold)
    tested = np.asarray([row.test for row in taken.rows], dtype=np.bool_)
    fitted, tests = _chosen(taken, ~tested), _chosen(taken, tested)
    data = training_set_of(job.model, job.space, fitted)
    curated = _curated(data, fitted, scores, job.model.negative_concept, closed=job.model.closed_environment)
    if len(curated.ids) == 0:
        return []
    head = heads.load(job.head)
    found = suggest(
        curated,
        head,
        unlabelled=_unlabelled(head, data, unlabelled),
        tests=Pictures([row.uid for row in tests.rows], tests.features, [row.sha256 for row in tests.rows]),
        seed=job.seed,
    )
    return [_suggestion_to_proto(one) for one in found]


def _chosen(taken: TrainingRows, chosen: npt.NDArray[np.bool_]) -> TrainingRows:
    """The inputs that a mask chooses."""
    if chosen.all():
        return taken
    return TrainingRows([taken.rows[row] for row in np.flatnonzero(chosen).tolist()], taken.features[chosen])


def _curated(
    data: TrainingSet, taken: TrainingRows, scores: OutOfFoldPredictions, negative: str, *, closed: bool
) -> Curated:
    """Bring labels as they are now and scores together; pictures whose labels changed since are left out."""
    place = {uid: row for row, uid in enumerate(scores.ids)}
    rows = np.asarray([place.get(uid, -1) for uid in data.ids], dtype=np.int64)
    held_out = rows >= 0
    values = scores.scores
    # A hundred megabytes are copied only where they are in another order.
    if len(rows) != len(values) or not np.array_equal(rows, np.arange(len(values))):
        values = np.full((len(rows), len(data.concepts)), np.nan, np.float32)
        values[held_out] = scores.scores[rows[held_out]]
    labels = _labels(data, closed=closed)
    same = _unchanged(data, labels, scores, rows)
    curated = Curated(
        type=scores.type,
        concepts=data.concepts,
        ids=data.ids,
        features=data.features,
        group_ids=data.group_ids,
        groups=groups_of(data.features, data.group_ids) if len(rows) else np.empty(0, np.int64),
        given=[row.labels for row in taken.rows],
        scores=values,
        labels=labels,
        targets=data.targets,
        negative=negative,
    )
    return curated.rows(same)


def _unchanged(
    data: TrainingSet, labels: npt.NDArray[np.float32] | None, scores: OutOfFoldPredictions, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which pictures have labels [n], the same as when they were held out in these rows; -1: they were not."""
    held_out = rows >= 0
    if data.shown is not None and scores.classes is not None:
        same: npt.NDArray[np.bool_] = data.shown >= 0
        same[held_out] &= data.shown[held_out] == scores.classes[rows[held_out]]
        return same
    now, then = (labels, scores.labels) if labels is not None else (data.targets, scores.targets)
    if now is None or then is None:
        raise ValueError("data and scores are of different types of models")
    known = np.isfinite(now)
    same = known if known.ndim == 1 else np.asarray(known.any(axis=1), dtype=np.bool_)
    same[held_out] &= _equal(now[held_out], then[rows[held_out]])
    return same


def _labels(data: TrainingSet, *, closed: bool) -> npt.NDArray[np.float32] | None:
    """Labels [n, c], those laid out that follow: of concepts that exclude each other, or of a closed environment."""
    if data.shown is not None:
        laid_out = np.zeros((len(data.ids), len(data.concepts)), np.float32)
        known = np.flatnonzero(data.shown >= 0)
        laid_out[known, data.shown[known]] = 1
        return laid_out
    return np.nan_to_num(data.labels, nan=0.0) if data.labels is not None and closed else data.labels


def _equal(now: npt.NDArray[np.float32], then: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    equal = (now == then) | (np.isnan(now) & np.isnan(then))
    return equal if equal.ndim == 1 else np.asarray(equal.all(axis=1), dtype=np.bool_)


def _unlabelled(head: heads.Head, data: TrainingSet, inputs: list[TrainingInput]) -> Pictures | None:
    """Pictures to choose from; None where the head sees with other eyes than those that their vectors come from."""
    if head.space != data.space or head.dim != data.features.shape[1]:
        return None
    vectors = np.frombuffer(b"".join(one.vector for one in inputs), dtype="<f2")
    return Pictures(
        ids=[one.input_uid for one in inputs],
        features=vectors.reshape(len(inputs), head.dim).astype(np.float32),
        group_ids=[one.sha256.hex() for one in inputs],
    )


def _suggestion_to_proto(one: curation.Suggestion) -> Suggestion:
    return Suggestion(
        kind=SuggestionKind.Value(f"SUGGESTION_KIND_{one.kind}"),
        message=one.message,
        score=one.score,
        concept=one.concept,
        other_concept=one.other,
        input=one.picture,
        related_inputs=one.related,
        current=_labels_to_proto(one.current),
        desired=_labels_to_proto(one.desired),
        inputs_to_label=[
            InputToLabel(
                input=asked.picture, label=_labels_to_proto({asked.concept: asked.value})[0], score=asked.score
            )
            for asked in one.asked
        ],
        few_negatives=one.few_negatives,
    )


def _labels_to_proto(labels: curation.Labels) -> list[SuggestionLabel]:
    return [
        SuggestionLabel(concept=concept, positive=value)
        if isinstance(value, bool)
        else SuggestionLabel(concept=concept, number=value)
        for concept, value in sorted(labels.items())
    ]
