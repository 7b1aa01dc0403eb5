"""What registry and trainer ask: a dataset with concepts and labelled vectors."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lensmith_api.internal.v1 import curation_service_pb2 as curation_pb
from lensmith_api.internal.v1 import training_data_service_pb2 as data_pb
from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceServicer
from lensmith_api.internal.v1.space_service_pb2 import SetSpacesResponse, SpaceProgress
from lensmith_api.internal.v1.space_service_pb2_grpc import SpaceServiceServicer
from lensmith_api.internal.v1.training_data_service_pb2_grpc import (
    TrainingDataServiceServicer,
)
from lensmith_api.v1 import concept_service_pb2 as concept_pb
from lensmith_api.v1.concept_pb2 import Concept
from lensmith_api.v1.concept_service_pb2_grpc import ConceptServiceServicer
from lensmith_platform.errors import OK, ConflictError, InvalidInputError, to_status
from tests.peers import abort

BATCH = 64
COPIES = 20


def labels_of(labels: Iterable[data_pb.TrainingLabel]) -> dict[str, bool | float]:
    """Labels by concept."""
    return {one.concept: one.number if one.WhichOneof("value") == "number" else one.positive for one in labels}


def _tests_among(inputs: Iterable[data_pb.TrainingInput], concepts: Container[str]) -> data_pb.TestInputCount:
    count = data_pb.TestInputCount()
    for item in inputs:
        if item.test:
            said = {name: value for name, value in labels_of(item.labels).items() if name in concepts and item.vector}
            count.inputs += 1
            count.annotated += bool(said)
            count.positives += any(value is True for value in said.values())
            count.numbers += any(not isinstance(value, bool) for value in said.values())
    return count


@dataclass
class Dataset(TrainingDataServiceServicer, CurationServiceServicer, SpaceServiceServicer, ConceptServiceServicer):
    """Knows concepts and labelled vectors; a cursor is the number of the last change that it tells of.

    Attributes:
        calls: RPCs by name, and streamed inputs under `inputs`.
        open: Streams end only while this is set.
        streaming: Set when a stream has sent everything but its end.
        pending: What CountTrainingData says of inputs that wait.
        counting: CountTrainingData answers only while this is set.
        copying: CopyLabels answers only while this is set.
        swapping: The first SwapLabels, done as it is, answers only while this is set.
        progress: What SetSpaces answers.
        wanted: The spaces that each app was said to want last, the current one first.
        actors: Who changed labels.
        pictures: Bytes by uid of the input.
        keeps_vectors: Whether the vectors of spaces that are wanted no more were to be kept for a while.
    """

    concepts: dict[int, dict[str, str]] = field(default_factory=dict)
    inputs: dict[int, dict[str, tuple[int, data_pb.TrainingInput]]] = field(default_factory=dict)
    changes: int = 0
    calls: Counter = field(default_factory=Counter)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    streaming: asyncio.Event = field(default_factory=asyncio.Event)
    pending: int = 0
    counting: asyncio.Event = field(default_factory=asyncio.Event)
    copying: asyncio.Event = field(default_factory=asyncio.Event)
    swapping: asyncio.Event = field(default_factory=asyncio.Event)
    progress: SpaceProgress = field(default_factory=lambda: SpaceProgress(complete=True))
    wanted: dict[int, list[str]] = field(default_factory=dict)
    keeps_vectors: bool = False
    actors: set[str] = field(default_factory=set)
    copies_after: list[int] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counting.set()
        self.copying.set()
        self.swapping.set()
        self.open.set()

    def forget(self) -> None:
        """Forget all inputs and concepts."""
        self.inputs.clear()
        self.concepts.clear()

    def add(
        self,
        app_id: int,
        uid: str,
        vector: npt.NDArray[np.float16] | None,
        labels: Mapping[str, bool | float],
        *,
        sha256: bytes = b"",
        test: bool = False,
        deleted: bool = False,
    ) -> None:
        """Add an input, or change it."""
        self.changes += 1
        for concept in labels:
            self.concepts.setdefault(app_id, {}).setdefault(concept, concept.title())
        self.inputs.setdefault(app_id, {})[uid] = (
            self.changes,
            data_pb.TrainingInput(
                input_uid=uid,
                deleted=deleted,
                sha256=sha256 or hashlib.sha256(uid.encode()).digest(),
                test=test,
                vector=b"" if vector is None else vector.astype("<f2").tobytes(),
                labels=[
                    data_pb.TrainingLabel(concept=concept, positive=value)
                    if isinstance(value, bool)
                    else data_pb.TrainingLabel(concept=concept, number=value)
                    for concept, value in labels.items()
                ],
            ),
        )

    def add_classes(self, app_id: int, dim: int, counts: Mapping[str, int], *, seed: int = 0) -> None:
        """Add clearly separable classes."""
        random = np.random.RandomState(seed)
        for concept, count in counts.items():
            centre = random.randn(dim)
            for index in range(count):
                vector = (centre + 0.3 * random.randn(dim)).astype(np.float16)
                self.add(app_id, f"{concept}-{seed}-{index:04d}", vector, {concept: True})

    async def SetSpaces(self, request, context):
        self.calls["SetSpaces"] += 1
        target = [request.target.space] if request.HasField("target") else []
        self.wanted[request.app_id] = [request.current.space, *target]
        self.keeps_vectors = request.keep_vectors
        return SetSpacesResponse(progress=self.progress)

    async def CountTrainingData(self, request, context):
        self.calls["CountTrainingData"] += 1
        await self.counting.wait()
        known = self.concepts.get(request.app_id, {})
        wanted = [name for name in sorted(known) if not request.concepts or name in request.concepts]
        there = [item for _, item in self.inputs.get(request.app_id, {}).values() if not item.deleted]
        rows = [item for item in there if item.vector and not item.test]
        counts = {name: data_pb.ConceptCount(concept=name, display_name=known[name]) for name in wanted}
        annotated = 0
        for item in rows:
            labels = [label for label in item.labels if label.concept in counts]
            annotated += bool(labels)
            for label in labels:
                count = counts[label.concept]
                if label.WhichOneof("value") == "number":
                    count.numbers += 1
                elif label.positive:
                    count.positives += 1
                else:
                    count.negatives += 1
        return data_pb.CountTrainingDataResponse(
            concepts=list(counts.values()),
            annotated_inputs=annotated,
            pending_inputs=self.pending,
            pending_annotations=self.pending,
            annotations_cursor=str(self.changes),
            tests=_tests_among(there, counts) if request.tests else None,
        )

    async def CountNewAnnotations(self, request, context):
        self.calls["CountNewAnnotations"] += 1
        if request.annotations_cursor and int(request.annotations_cursor) > self.changes:
            await abort(context, InvalidInputError("CURSOR_INVALID", "no such cursor"))
        after = int(request.annotations_cursor or 0)
        inputs = [item for number, item in self.inputs.get(request.app_id, {}).values() if number > after]
        labels = [label for item in inputs for label in item.labels]
        return data_pb.CountNewAnnotationsResponse(
            count=sum(not request.concepts or label.concept in request.concepts for label in labels),
            annotations_cursor=str(self.changes),
            pending_annotations=self.pending,
        )

    async def NameInputs(self, request, context):
        return data_pb.NameInputsResponse(input_ids=[f"own-{uid}" for uid in request.input_uids])

    async def StreamTrainingData(self, request, context) -> AsyncIterator[data_pb.StreamTrainingDataResponse]:
        self.calls["StreamTrainingData"] += 1
        if request.cursor and not request.cursor.isdigit():
            await abort(context, InvalidInputError("CURSOR_INVALID", "no such cursor"))
        after, upto = int(request.cursor or 0), self.changes
        changed = [item for number, item in self.inputs.get(request.app_id, {}).values() if number > after]
        for start in range(0, len(changed), BATCH):
            self.calls["inputs"] += len(changed[start : start + BATCH])
            yield data_pb.StreamTrainingDataResponse(inputs=changed[start : start + BATCH])
        self.streaming.set()
        await self.open.wait()
        yield data_pb.StreamTrainingDataResponse(next_cursor=str(upto))

    async def StreamPictures(self, request, context):
        self.calls["StreamPictures"] += 1
        for uid in request.input_uids:
            if uid in self.pictures:
                yield data_pb.StreamPicturesResponse(input_uid=uid, content=self.pictures[uid])

    async def StreamUnlabelledInputs(self, request, context):
        self.calls["StreamUnlabelledInputs"] += 1
        items = [item for _, item in self.inputs.get(request.app_id, {}).values() if item.vector and not item.labels]
        yield curation_pb.StreamUnlabelledInputsResponse(inputs=items[: request.limit])

    async def SwapLabels(self, request, context):
        self.calls["SwapLabels"] += 1
        first = self.calls["SwapLabels"] == 1
        self.actors.add(request.actor)
        statuses = []
        for swap in request.swaps:
            _, item = self.inputs[request.app_id][swap.input_uid]
            have, expected, desired = labels_of(item.labels), labels_of(swap.expected), labels_of(swap.desired)
            if have not in (expected, desired):
                statuses.append(to_status(ConflictError("LABELS_CHANGED", "they changed")))
                continue
            statuses.append(OK)
            if have != desired:
                vector = np.frombuffer(item.vector, "<f2")
                self.add(request.app_id, swap.input_uid, vector, desired, sha256=item.sha256)
        if first:
            await self.swapping.wait()
        return curation_pb.SwapLabelsResponse(statuses=statuses)

    async def CopyLabels(self, request, context):
        self.calls["CopyLabels"] += 1
        await self.copying.wait()
        self.actors.add(request.actor)
        waiting = [
            (place, uid, item, labels)
            for place, (uid, (_, item)) in enumerate(self.inputs[request.app_id].items(), start=1)
            if (labels := labels_of(item.labels)).get(request.from_concept) is True
            and labels.get(request.to_concept) is not True
            and place > request.after
        ]
        self.copies_after.append(request.after)
        last = request.after
        for place, uid, item, labels in waiting[:COPIES]:
            vector = np.frombuffer(item.vector, "<f2")
            self.add(request.app_id, uid, vector, {**labels, request.to_concept: True}, sha256=item.sha256)
            last = place
        return curation_pb.CopyLabelsResponse(
            copied_count=len(waiting[:COPIES]), more=len(waiting) > COPIES, after=last
        )

    async def CreateConcepts(self, request, context):
        self.calls["CreateConcepts"] += 1
        app_id = {"main": 1, "trash": 7, "other": 8}[request.parent.removeprefix("apps/")]
        results = []
        for new in request.concepts:
            known = self.concepts.setdefault(app_id, {})
            results.append(
                concept_pb.CreateConceptResult(
                    concept=Concept(name=f"{request.parent}/concepts/{new.concept_id}"), existed=new.concept_id in known
                )
            )
            known.setdefault(new.concept_id, new.display_name)
        return concept_pb.CreateConceptsResponse(results=results)
