"""Versions of very many concepts, labels and suggestions: answers stay small, and nobody else waits for them."""

import asyncio
import gc
import hashlib
import sys
import time
import traceback
from collections.abc import Awaitable
from typing import TypeVar

import numpy as np

from lensmith_api.internal.v1.learning_curve_job_service_pb2 import PutLearningCurveRequest
from lensmith_api.internal.v1.learning_curve_job_service_pb2_grpc import LearningCurveJobServiceStub
from lensmith_api.internal.v1.suggestion_job_service_pb2 import PutSuggestionsRequest
from lensmith_api.internal.v1.suggestion_job_service_pb2_grpc import SuggestionJobServiceStub
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.evaluation_pb2 import ConceptLearningCurve, LearningCurve, LearningCurvePoint
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionAction, SuggestionKind, SuggestionLabel
from lensmith_api.v1.suggestion_service_pb2 import (
    AcceptSuggestionsRequest,
    AcceptSuggestionsResponse,
    AllSuggestions,
    ListSuggestionsRequest,
)
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from lensmith_registry import evaluations
from lensmith_vision import dataset_snapshot, out_of_fold
from lensmith_vision.evaluation import ConceptEvaluation, Evaluation
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from tests.lensmith_registry.peers import labels_of
from tests.lensmith_registry.rig import DIM, SCOPES, TRASH, Rig
from tests.polling import until

FIXER = "key-of-a-fixer"
WRONG = SuggestionKind.SUGGESTION_KIND_WRONG_LABEL
T = TypeVar("T")


async def test_others_are_answered_while_an_evaluation_of_thousands_of_concepts_is_shown(rig: Rig) -> None:
    version = await rig.trained()
    intervals = dict.fromkeys(("precision", "recall", "f1", "roc_auc", "average_precision"), (0.1, 0.9))
    concepts = tuple(
        ConceptEvaluation(f"concept-{number}", 20, 1000, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9, intervals)
        for number in range(5000)
    )
    evaluation = Evaluation("5-fold out-of-fold", 10_000, 10_000, 0.1, accuracy=0.5, concepts=concepts)
    await rig.sql("UPDATE registry.model_versions SET evaluation = $1", evaluation.to_json())
    request = pb.GetEvaluationRequest(name=f"{version.name}/evaluation")
    shown, waited = await _longest_wait(rig.models.GetEvaluation(request, metadata=rig.key()))
    assert (len(shown.concepts), shown.concepts[7].intervals["f1"].high) == (5000, 0.9)
    assert waited < 0.5
    of_card = pb.GetModelCardRequest(name=f"{version.name}/card")
    card, waited = await _longest_wait(rig.models.GetModelCard(of_card, metadata=rig.key()))
    assert len(card.evaluation.concepts) == 5000
    assert waited < 0.5


async def test_others_are_answered_while_a_learning_curve_of_thousands_of_concepts_comes_and_goes(
    rig: Rig,
) -> None:
    version = await rig.trained()
    asked = pb.ComputeLearningCurveRequest(name=version.name)
    await rig.models.ComputeLearningCurve(asked, metadata=rig.key())
    points = [LearningCurvePoint(images=part, value=0.5, range={"low": 0.1, "high": 0.9}) for part in range(1, 7)]
    concepts = [ConceptLearningCurve(concept=f"concept-{number}", points=points) for number in range(5000)]
    found = PutLearningCurveRequest(app_id=TRASH, version_uid=version.uid)
    found.learning_curve.CopyFrom(LearningCurve(figure="accuracy", points=points, concepts=concepts))
    stub = LearningCurveJobServiceStub(rig.channel)
    _, waited = await _longest_wait(stub.PutLearningCurve(found, metadata=rig.token("trainer", TRASH)))
    assert waited < 0.5
    request = pb.GetLearningCurveRequest(name=f"{version.name}/learningCurve")
    curve, waited = await _longest_wait(rig.models.GetLearningCurve(request, metadata=rig.key()))
    assert curve.concepts == found.learning_curve.concepts
    assert waited < 0.5


async def test_inputs_of_a_version_are_listed_in_smaller_pages_when_they_have_very_many_labels(rig: Rig) -> None:
    rig.auth.add_key(FIXER, "trash", [*SCOPES, "Inputs:Get"])
    labels = {f"concept-{number:03d}": number % 2 == 0 for number in range(500)}
    hashes = [hashlib.sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(600)]
    inputs = [(f"00000000-0000-4000-8000-{number:012d}", digest, labels) for number, digest in enumerate(hashes)]
    snapshot = dataset_snapshot.take(inputs, labels, {})
    job = await rig.claim(await rig.queued())
    version = await rig.complete(job, dataset_snapshot=dataset_snapshot.save(snapshot), input_count=len(inputs))
    await rig.until_state(version.name, "READY")
    request = pb.ListModelVersionInputsRequest(parent=version.name, page_size=1000)
    listed: list[str] = []
    while not listed or request.page_token:
        # More than 4 MB in one answer would be refused by this very client.
        call = rig.models.ListModelVersionInputs(request, metadata=rig.key(FIXER))
        page, waited = await _longest_wait(call)
        assert page.inputs
        assert waited < 0.5
        listed += [one.uid for one in page.inputs]
        request.page_token = page.next_page_token
    assert listed == [uid for uid, _, _ in inputs]


async def test_others_are_answered_while_thousands_of_suggestions_are_decided_on(rig: Rig) -> None:
    version = await rig.trained()
    doubts = _doubts(rig, version.uid, 3000)
    _, waited = await _longest_wait(_put(rig, doubts))
    assert waited < 0.5
    request = ListSuggestionsRequest(parent=version.name, page_size=1000)
    listed = SuggestionServiceStub(rig.channel).ListSuggestions(request, metadata=rig.key(FIXER))
    answer, waited = await _longest_wait(listed)
    assert len(answer.suggestions) == 1000
    assert waited < 0.5
    dismissed, waited = await _longest_wait(_accept(rig, version.name, SuggestionAction.SUGGESTION_ACTION_DISMISS))
    assert dismissed.accepted_count == 3000
    assert waited < 0.5


async def test_suggestions_are_followed_when_their_model_tells_ten_thousand_concepts_apart(rig: Rig) -> None:
    version = await rig.trained()
    await _put(rig, _doubts(rig, version.uid, 60))
    # All of them go with each label that is changed, and no message holds more than 64 MiB.
    await rig.sql(
        """
        UPDATE registry.model_versions SET model_snapshot = jsonb_set(model_snapshot, '{concepts}', (
          SELECT jsonb_agg(rpad('concept-' || number, 120, 'x')) FROM generate_series(1, 10000) AS number))
        """
    )
    answer = await _accept(rig, version.name, SuggestionAction.SUGGESTION_ACTION_APPLY)
    assert (answer.accepted_count, answer.skipped_count) == (60, 0)
    assert labels_of(rig.dataset.inputs[TRASH]["picture-59"][1].labels) == {"glass": True}


async def test_large_versions_are_read_one_after_the_other_when_a_caller_gives_up(rig: Rig) -> None:
    rig.auth.add_key(FIXER, "trash", [*SCOPES, "Inputs:Get"])
    version = await rig.queued(counts={f"concept-{number:03d}": 5 for number in range(100)})
    job = await rig.claim(version)
    random = np.random.default_rng(0)
    rows, width = 60_000, len(job.model.concepts)
    scores = OutOfFoldPredictions(
        type="multi_class",
        method="out_of_fold",
        ids=tuple(f"00000000-0000-4000-8000-{number:012d}" for number in range(rows)),
        concepts=tuple(job.model.concepts),
        scores=random.dirichlet(np.ones(width), rows).astype(np.float32),
        folds=np.arange(rows) % 5,
        groups=np.arange(rows),
        classes=random.integers(0, width, rows),
    )
    version = await rig.complete(job, out_of_fold=out_of_fold.save(scores), input_count=rows)
    await rig.until_state(version.name, "READY")
    # More than two million scores: only one such version is to be in memory.
    request = pb.CompareModelVersionsRequest(name=version.name, other_version=version.number)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, _at_work())
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    call = rig.models.CompareModelVersions(request, metadata=rig.key(FIXER))
    await until(lambda: _true(_at_work() > 0))
    call.cancel()
    await rig.models.CompareModelVersions(request, metadata=rig.key(FIXER))
    watching.cancel()
    assert most == 1


async def _true(value: bool) -> bool:
    return value


def _at_work() -> int:
    """How many threads read the scores of a version, or compare two."""
    work = {out_of_fold.load.__code__, evaluations._compared.__code__}
    stacks = (traceback.walk_stack(top) for top in sys._current_frames().values())
    return sum(any(frame.f_code in work for frame, _ in stack) for stack in stacks)


async def _longest_wait(call: Awaitable[T]) -> tuple[T, float]:
    """Await a call; tell in which part of its time, at most, nothing else came to its turn.

    Time of the processor: what other programs of the machine take holds up nobody here.
    """
    waits: list[float] = []

    async def wait() -> None:
        last = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            waits.append(now - last)
            last = now

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    # It would walk through everything that the test process holds, which is more than a service does.
    gc.disable()
    began = time.process_time()
    try:
        answer = await call
    finally:
        gc.enable()
        waiting.cancel()
    return answer, max(waits) / (time.process_time() - began)


def _doubts(rig: Rig, version_uid: str, count: int) -> PutSuggestionsRequest:
    """So many wrong labels, of pictures that dataset has."""
    request = PutSuggestionsRequest(app_id=TRASH, version_uid=version_uid)
    for number in range(count):
        uid = f"picture-{number}"
        rig.dataset.add(TRASH, uid, np.zeros(DIM, np.float16), {"metal": True})
        request.suggestions.append(
            Suggestion(
                kind=WRONG,
                message="labelled metal, but looks like glass",
                score=0.97,
                concept="metal",
                other_concept="glass",
                input=uid,
                current=[SuggestionLabel(concept="metal", positive=True)],
                desired=[SuggestionLabel(concept="glass", positive=True)],
            )
        )
    return request


async def _put(rig: Rig, doubts: PutSuggestionsRequest) -> None:
    rig.auth.add_key(FIXER, "trash", [*SCOPES, "Inputs:Get", "Annotations:Add"])
    await SuggestionJobServiceStub(rig.channel).PutSuggestions(doubts, metadata=rig.token("trainer", TRASH))


async def _accept(rig: Rig, version: str, action: SuggestionAction.ValueType) -> AcceptSuggestionsResponse:
    request = AcceptSuggestionsRequest(parent=version, all=AllSuggestions(kind=WRONG), action=action)
    return await SuggestionServiceStub(rig.channel).AcceptSuggestions(request, metadata=rig.key(FIXER))
