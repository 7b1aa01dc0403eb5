"""What can be asked of an evaluation, and what of a version may change; the test hands in the scores."""

import numpy as np
import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.v1 import evaluation_pb2 as evaluation_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.training_settings_pb2 import ThresholdAim
from lensmith_vision import out_of_fold
from lensmith_vision.evaluation import Evaluation
from lensmith_vision.heads import Head
from lensmith_vision.out_of_fold import OutOfFoldPredictions
from lensmith_vision.report import Decisions, evaluate
from lensmith_vision.report import ThresholdAim as Aim
from tests.lensmith_registry.rig import DIM, SCOPES, SPACE, TRASH, Rig, refusal
from tests.polling import until

CONCEPTS = ("glass", "metal")
FULL_KEY = "key-that-may-see-inputs"
INPUTS = tuple(f"00000000-0000-4000-8000-{number:012d}" for number in range(60))


def _scores(skill: float, seed: int) -> OutOfFoldPredictions:
    """Answers of which more are right the more skill there is; the first thirty inputs are glass."""
    truth = np.repeat([0, 1], 30)
    logits = np.random.default_rng(seed).standard_normal((60, 2)).astype(np.float32)
    logits[np.arange(60), truth] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return OutOfFoldPredictions(
        type="multi_class",
        method="out_of_fold",
        ids=INPUTS,
        concepts=CONCEPTS,
        scores=scores.astype(np.float32),
        folds=np.arange(60) % 5,
        groups=np.arange(60),
        labels=np.eye(2, dtype=np.float32)[truth],
    )


def _evaluation(scores: OutOfFoldPredictions) -> Evaluation:
    half = np.full(2, 0.5, np.float32)
    head = Head("multi_class", SPACE, CONCEPTS, np.zeros((DIM, 2), np.float32), np.zeros(2, np.float32), half)
    return evaluate(head, Decisions(scores.scores, scores.folds, labels=scores.labels), 0.1, Aim())


async def _trained(rig: Rig, skill: float, seed: int) -> ModelVersion:
    """A READY version with scores of that skill."""
    scores = _scores(skill, seed)
    version = await rig.train("sorter")
    await rig.complete(
        await rig.claim(version),
        seed=seed,
        out_of_fold=out_of_fold.save(scores),
        evaluation_json=_evaluation(scores).to_json().encode(),
    )
    return await rig.until_state(version.name, "READY")


@pytest.fixture
async def version(rig: Rig) -> ModelVersion:
    """A version that is right about most inputs; the key beside it may see training pictures."""
    rig.auth.add_key(FULL_KEY, "trash", [*SCOPES, "Inputs:Get"])
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    return await _trained(rig, 1.5, 1)


async def _evaluated(rig: Rig, version: ModelVersion, **fields: object) -> evaluation_pb.Evaluation:
    request = pb.GetEvaluationRequest(name=f"{version.name}/evaluation", **fields)
    return await rig.models.GetEvaluation(request, metadata=rig.key())


async def _update(rig: Rig, version: ModelVersion, *paths: str, etag: str = "", **fields: object) -> ModelVersion:
    request = pb.UpdateModelVersionRequest(
        model_version=ModelVersion(name=version.name, etag=etag, **fields), update_mask={"paths": paths}
    )
    return await rig.models.UpdateModelVersion(request, metadata=rig.key())


async def _inputs(rig: Rig, version: ModelVersion, **fields: object) -> pb.ListEvaluatedInputsResponse:
    request = pb.ListEvaluatedInputsRequest(parent=version.name, **fields)
    return await rig.models.ListEvaluatedInputs(request, metadata=rig.key(FULL_KEY))


async def test_evaluation_that_stands_for_a_version_is_taken_over_and_comes_alone(rig: Rig, version: ModelVersion):
    job = await rig.claim(await rig.train("sorter"))
    both = await refusal(rig.complete(job, evaluation_of=version.uid))
    assert both.reason == "EVALUATION_AMBIGUOUS"
    later = await rig.complete(job, evaluation_of=version.uid, evaluation_json=b"")
    later = await rig.until_state(later.name, "READY")
    assert (await _evaluated(rig, later)).accuracy == (await _evaluated(rig, version)).accuracy
    assert (await _inputs(rig, later)).total_size == 60


async def test_figures_are_those_at_the_thresholds_that_were_asked_for(rig: Rig, version: ModelVersion):
    stored = await _evaluated(rig, version)
    assert not stored.other_thresholds
    assert stored.intervals["accuracy"].low < stored.accuracy < stored.intervals["accuracy"].high
    scores = _scores(1.5, 1)
    for asked in (0.2, 0.8):
        moved = await _evaluated(rig, version, thresholds=[asked])
        taken = scores.scores[:, 0] >= asked
        glass = moved.concepts[0]
        assert moved.other_thresholds
        assert glass.threshold == pytest.approx(asked)
        assert glass.recall == pytest.approx(taken[:30].mean())
        assert glass.precision == pytest.approx(taken[:30].sum() / taken.sum())
        assert glass.intervals["recall"].low <= glass.recall <= glass.intervals["recall"].high
        # What no threshold moves stays.
        assert (moved.accuracy, glass.roc_auc) == (stored.accuracy, stored.concepts[0].roc_auc)
    careful = await _evaluated(rig, version, min_precision=0.95)
    assert all(concept.precision >= 0.95 for concept in careful.concepts)


async def test_thresholds_are_refused_when_they_make_no_sense(rig: Rig, version: ModelVersion):
    for fields, reason in (
        ({"thresholds": [0.1, 0.2, 0.3]}, "THRESHOLDS_INVALID"),
        ({"thresholds": [1.5]}, "THRESHOLDS_INVALID"),
        ({"thresholds": [0.5], "best_f1": True}, "THRESHOLD_AIM_INVALID"),
        ({"min_recall": 0.0}, "THRESHOLD_AIM_INVALID"),
    ):
        assert (await refusal(_evaluated(rig, version, **fields))).reason == reason
    assert (await refusal(_update(rig, version, "thresholds", "threshold_aim", thresholds=[0.5]))).reason == (
        "UPDATE_MASK_INVALID"
    )
    assert (await refusal(_update(rig, version, "threshold_aim"))).reason == "THRESHOLD_AIM_INVALID"
    assert (await refusal(_update(rig, version, "concepts"))).reason == "UPDATE_MASK_INVALID"


async def test_serving_obeys_new_thresholds_when_a_version_is_updated(rig: Rig, version: ModelVersion):
    assert version.has_evaluation_scores
    changed = await _update(rig, version, "thresholds", "note", etag=version.etag, thresholds=[0.3, 0.9], note="strict")
    assert (list(changed.thresholds), changed.note) == ([0.3, 0.9], "strict")
    assert changed.update_actor.startswith("keys/")
    assert changed.HasField("update_time")
    assert not changed.HasField("threshold_aim")
    assert (await refusal(_update(rig, version, "note", etag=version.etag, note="late"))).reason == "ETAG_MISMATCH"
    now = await _evaluated(rig, version)
    assert [concept.threshold for concept in now.concepts] == [pytest.approx(0.3), pytest.approx(0.9)]
    assert now.other_thresholds
    aimed = await _update(rig, version, "threshold_aim", threshold_aim=ThresholdAim(min_recall=0.9))
    assert aimed.threshold_aim.min_recall == 0.9
    assert all(concept.recall >= 0.9 for concept in (await _evaluated(rig, version)).concepts)
    request = serving_pb.ResolveModelRequest(app_id=TRASH, model="sorter")
    served = await rig.serving.ResolveModel(request, metadata=rig.token("inference", TRASH))
    assert list(served.thresholds) == list(aimed.thresholds)


async def test_wrong_answers_are_listed_surest_first_and_page_by_page(rig: Rig, version: ModelVersion):
    scores = _scores(1.5, 1)
    wrong = np.flatnonzero(scores.scores.argmax(axis=1) != np.repeat([0, 1], 30))
    surest = wrong[np.argsort(-scores.scores[wrong].max(axis=1), kind="stable")]
    listed, token = [], ""
    while True:
        page = await _inputs(rig, version, wrong_only=True, page_size=3, page_token=token)
        assert page.total_size == len(wrong)
        listed += page.evaluated_inputs
        # A note that somebody writes meanwhile changes no answer.
        await _update(rig, version, "note", note=f"after {len(listed)}")
        if not (token := page.next_page_token):
            break
    assert [one.input for one in listed] == [f"apps/trash/inputs/{INPUTS[row]}" for row in surest]
    first = listed[0]
    assert not first.correct
    assert set(first.actual_concepts) | set(first.predicted_concepts) == set(CONCEPTS)
    assert first.confidence == pytest.approx(max(score.value for score in first.scores))
    mistaken = await _inputs(rig, version, actual_concept="glass", predicted_concept="metal")
    assert mistaken.total_size == int((wrong < 30).sum())
    everything = await _inputs(rig, version, page_size=1000, order="EVALUATED_INPUT_ORDER_LEAST_CONFIDENT")
    told = [one.confidence for one in everything.evaluated_inputs]
    assert told == sorted(told)
    assert (await refusal(_inputs(rig, version, actual_concept="gold"))).reason == "CONCEPT_NOT_IN_VERSION"
    request = pb.ListEvaluatedInputsRequest(parent=version.name)
    refused = await refusal(rig.models.ListEvaluatedInputs(request, metadata=rig.key()))
    assert (refused.reason, refused.metadata["scope"]) == ("SCOPE_MISSING", "Inputs:Get")


async def test_curves_pass_through_the_figures_at_a_threshold(rig: Rig, version: ModelVersion):
    request = pb.GetEvaluationCurvesRequest(name=f"{version.name}/evaluation", concepts=["glass"])
    (curve,) = (await rig.models.GetEvaluationCurves(request, metadata=rig.key())).curves
    assert curve.concept == "glass"
    scores = _scores(1.5, 1).scores[:, 0]
    for point in curve.points:
        taken = scores >= np.float32(point.threshold)
        assert point.recall == pytest.approx(taken[:30].mean())
        assert point.false_positive_rate == pytest.approx(taken[30:].mean())
        assert point.precision == pytest.approx(taken[:30].sum() / taken.sum())
    assert (curve.points[-1].recall, curve.points[-1].false_positive_rate) == (1.0, 1.0)


async def test_better_version_is_told_from_one_that_is_only_luckier(rig: Rig, version: ModelVersion):
    same, weak, better = await _trained(rig, 1.5, 3), await _trained(rig, 0.3, 4), await _trained(rig, 4.0, 2)
    compared = await _compare(rig, weak, better.number)
    assert compared.verdict == evaluation_pb.COMPARISON_VERDICT_BETTER
    assert (compared.input_count, compared.figure) == (60, "accuracy")
    assert compared.other_value - compared.value == pytest.approx((compared.fixed_count - compared.broken_count) / 60)
    assert 0 < compared.difference_interval.low < compared.difference_interval.high
    assert compared.p_value < 0.05
    backwards = await _compare(rig, better, weak.number)
    assert backwards.verdict == evaluation_pb.COMPARISON_VERDICT_WORSE
    assert (await _compare(rig, version, same.number)).verdict == evaluation_pb.COMPARISON_VERDICT_UNDECIDED
    request = pb.ListChangedInputsRequest(parent=weak.name, other_version=better.number, page_size=1000)
    changed = await rig.models.ListChangedInputs(request, metadata=rig.key(FULL_KEY))
    assert changed.total_size == compared.fixed_count + compared.broken_count == len(changed.changed_inputs)
    for one in changed.changed_inputs:
        fixed = one.change == evaluation_pb.INPUT_CHANGE_FIXED
        assert (one.first.correct, one.other.correct) == (not fixed, fixed)


async def _compare(rig: Rig, version: ModelVersion, other: int) -> evaluation_pb.VersionComparison:
    request = pb.CompareModelVersionsRequest(name=version.name, other_version=other)
    return await rig.models.CompareModelVersions(request, metadata=rig.key())


async def test_reason_is_given_when_a_version_has_no_scores(rig: Rig, version: ModelVersion):
    old = await rig.train("sorter")
    await rig.complete(await rig.claim(old), seed=5)
    old = await rig.until_state(old.name, "READY")
    assert not old.has_evaluation_scores
    assert (await _evaluated(rig, old)).accuracy == 0.9
    for asked in (_evaluated(rig, old, thresholds=[0.5]), _inputs(rig, old), _compare(rig, version, old.number)):
        refused = await refusal(asked)
        assert (refused.reason, refused.metadata["code"]) == ("EVALUATION_SCORES_NOT_STORED", "FAILED_PRECONDITION")
    assert (await refusal(_compare(rig, version, 99))).reason == "VERSION_NOT_FOUND"
    # Its thresholds can be changed all the same; the figures stay those of the training.
    assert list((await _update(rig, old, "thresholds", thresholds=[0.7])).thresholds) == [0.7, 0.7]
    assert not (await _evaluated(rig, old)).other_thresholds


async def test_scores_go_when_their_version_is_deleted(make_rig, s3):
    async with make_rig(purge_grace_seconds=0, purge_seconds=0.1) as rig:
        rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
        await rig.create("sorter")
        first = await _trained(rig, 1.5, 1)
        second = await _trained(rig, 1.5, 2)
        assert _stored(s3) == {first.uid, second.uid}
        await rig.models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=first.name), metadata=rig.key())

        async def gone() -> bool:
            return _stored(s3) == {second.uid}

        await until(gone)


def _stored(s3) -> set[str]:
    """Versions whose scores are among the blobs."""
    return {one.object_name.split("/")[2] for one in s3.client.list_objects(s3.name, "evaluations/", recursive=True)}
