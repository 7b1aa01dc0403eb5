"""From TrainModel to READY: preflight, the queue, leases, cancelling, production."""

import asyncio

import numpy as np
import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_platform.errors import PreconditionError, to_status
from tests.lensmith_registry.rig import (
    DIM,
    MULTI_CLASS,
    MULTI_LABEL,
    OTHER,
    OTHER_KEY,
    REGRESSION,
    SPACE,
    TRASH,
    Rig,
    completion,
    refusal,
)
from tests.polling import until

QUEUED, TRAINING, READY, FAILED, CANCELLED = 1, 2, 3, 4, 5


async def test_version_is_queued_with_what_is_to_be_learnt(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"metal": 12, "glass": 30})
    rig.dataset.pending = 3
    await rig.create("sorter")
    version = await rig.train("sorter")
    assert (version.name, version.number, version.state) == ("apps/trash/models/sorter/versions/1", 1, QUEUED)
    assert (version.space, version.base_model) == (SPACE, "baseModels/plain")
    assert list(version.concepts) == ["glass", "metal"]
    found = {(finding.reason, finding.concept) for finding in version.findings}
    assert found == {("MORE_IMAGES", "metal"), ("PENDING_INPUTS", "")}
    assert (await rig.model("sorter")).latest_version == 1


async def test_numbers_have_no_gaps_when_many_train_at_once(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    versions = await asyncio.gather(*(rig.train("sorter") for _ in range(12)))
    assert sorted(version.number for version in versions) == list(range(1, 13))


async def test_one_version_is_queued_when_the_request_id_is_repeated(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    versions = await asyncio.gather(*(rig.train("sorter", request_id="once") for _ in range(6)))
    assert {version.uid for version in versions} == {versions[0].uid}
    await rig.create("another")
    assert (await refusal(rig.train("another", request_id="once"))).reason == "REQUEST_ID_REUSED"
    deleted = pb.DeleteModelVersionRequest(name=versions[0].name)
    await rig.models.DeleteModelVersion(deleted, metadata=rig.key())
    gone = await refusal(rig.train("sorter", request_id="once"))
    assert (gone.reason, gone.metadata["request_id"]) == ("VERSION_NOT_FOUND", "once")
    assert "deleted" in gone.metadata["text"]


async def test_training_is_refused_when_as_many_versions_of_the_app_wait_as_may(make_rig):
    async with make_rig(max_queued_versions=3) as rig:
        rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
        rig.dataset.add_classes(OTHER, DIM, {"glass": 30, "metal": 30})
        names = [f"sorter-{number}" for number in range(6)]
        for name in names:
            await rig.create(name)
        # Of several models at once: a lock of one of them would not keep the others from counting the same.
        answers = await asyncio.gather(*(rig.train(name, request_id=name) for name in names), return_exceptions=True)
        queued = [name for name, answer in zip(names, answers, strict=True) if isinstance(answer, ModelVersion)]
        assert len(queued) == 3
        left = next(name for name in names if name not in queued)
        refused = await refusal(rig.train(left))
        assert (refused.reason, refused.metadata["code"]) == ("TOO_MANY_QUEUED_VERSIONS", "RESOURCE_EXHAUSTED")
        assert (refused.metadata["limit"], refused.metadata["max"]) == ("max_queued_versions", "3")
        # What was queued before is still the answer, and apps do not wait for each other.
        first = await rig.train(queued[0], request_id=queued[0])
        await rig.create("sorter", app="other", key=OTHER_KEY)
        await rig.train("sorter", app="other", key=OTHER_KEY)
        await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=first.name), metadata=rig.key())
        await rig.train(left)
        assert (await refusal(rig.train(queued[0]))).reason == "TOO_MANY_QUEUED_VERSIONS"


async def test_training_is_of_the_model_that_is_there_when_another_one_took_its_name_meanwhile(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    rig.dataset.counting.clear()
    training = asyncio.create_task(rig.train("sorter"))
    await until(lambda: _counted(rig, 1))
    await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
    closed = Model(type=MULTI_LABEL, concepts=["glass", "metal"], closed_environment=True)
    await rig.create("sorter", closed)
    rig.dataset.counting.set()
    version = await training
    job = await rig.claim(version)
    assert (job.model.type, job.model.closed_environment) == (MULTI_LABEL, True)
    assert job.model.uid == (await rig.model("sorter")).uid


async def _counted(rig: Rig, times: int) -> bool:
    return rig.dataset.calls["CountTrainingData"] >= times


HOPELESS = [
    ({"glass": 30}, Model(type=MULTI_CLASS), "TRAINING_ONE_CONCEPT", "two concepts"),
    ({"glass": 30, "metal": 1}, Model(type=MULTI_CLASS), "TRAINING_TOO_FEW_IMAGES", "metal"),
    (
        {"glass": 30},
        Model(type=MULTI_CLASS, concepts=["glass", "paper"]),
        "TRAINING_CONCEPT_NOT_FOUND",
        "no concept paper",
    ),
    ({"glass": 30}, Model(type=MULTI_LABEL, concepts=["glass"]), "TRAINING_NO_NEGATIVES", "glass"),
    ({"glass": 30}, Model(type=REGRESSION, concepts=["glass"]), "TRAINING_TOO_FEW_IMAGES", "glass"),
]


async def test_training_is_refused_when_it_cannot_succeed(rig: Rig):
    for index, (counts, model, reason, named) in enumerate(HOPELESS):
        rig.dataset.forget()
        rig.dataset.add_classes(TRASH, DIM, counts)
        await rig.create(f"sorter-{index}", model)
        refused = await refusal(rig.train(f"sorter-{index}"))
        assert (refused.reason, refused.metadata["code"]) == (reason, "FAILED_PRECONDITION")
        assert named in refused.metadata["text"]
        assert (await rig.model(f"sorter-{index}")).latest_version == 0


async def test_refusal_says_why_in_a_sentence_when_a_thousand_concepts_lack_the_same(rig: Rig):
    names = [f"kind-of-thing-{index:04}" for index in range(1000)]
    rig.dataset.add_classes(TRASH, DIM, dict.fromkeys(names, 2))
    await rig.create("tagger", Model(type=MULTI_LABEL, concepts=names))
    refused = await refusal(rig.train("tagger"))
    assert (refused.reason, refused.metadata["code"]) == ("TRAINING_NO_NEGATIVES", "FAILED_PRECONDITION")
    assert "kind-of-thing-0004 and 995 others have no negative images" in refused.metadata["text"]
    assert len(refused.metadata["text"]) < 400


async def test_training_is_refused_when_a_concept_has_no_positives(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    rig.dataset.add(TRASH, "x", np.zeros(DIM, np.float16), {"paper": False})
    await rig.create("sorter")
    refused = await refusal(rig.train("sorter"))
    assert (refused.reason, refused.metadata["concepts"]) == ("TRAINING_NO_POSITIVES", "paper")


async def test_training_warns_when_concepts_are_out_of_balance(rig: Rig):
    version = await rig.queued(counts={"glass": 60, "metal": 11})
    warned = {finding.reason for finding in version.findings if finding.severity == 2}
    assert warned == {"IMBALANCED"}


async def test_negative_concepts_and_numbers_are_left_out_when_a_model_takes_all_concepts(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    rig.dataset.add(TRASH, "n", np.zeros(DIM, np.float16), {"weight": 3.5})
    await rig.create("tagger", Model(type=MULTI_LABEL, closed_environment=True))
    await rig.create("sorter")
    assert list((await rig.train("sorter")).concepts) == ["glass", "metal"]
    assert list((await rig.train("tagger")).concepts) == ["glass", "metal"]
    # What is left of a deleted model is no class either.
    await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/tagger"), metadata=rig.key())
    assert list((await rig.train("sorter")).concepts) == ["glass", "metal"]


async def test_negative_concept_gives_negatives_when_the_environment_is_open(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30})
    await rig.create("tagger", Model(type=MULTI_LABEL, concepts=["glass"]))
    assert (await refusal(rig.train("tagger"))).reason == "TRAINING_NO_NEGATIVES"
    for index in range(20):
        rig.dataset.add(TRASH, f"none-{index}", np.zeros(DIM, np.float16), {"not-tagger": True})
    assert (await rig.train("tagger")).state == QUEUED


async def test_training_is_unavailable_when_dataset_is_away(rig: Rig):
    rig.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    await rig.create("sorter")
    await rig.dataset_peer.stop()
    assert (await refusal(rig.train("sorter"))).metadata["code"] == "UNAVAILABLE"
    await rig.dataset_peer.start()
    version = await until(lambda: _trained_or_none(rig))
    assert version.number == 1


async def _trained_or_none(rig: Rig):
    try:
        return await rig.train("sorter")
    except Exception:
        return None


async def test_version_goes_from_queued_to_ready_and_serves(rig: Rig):
    version = await rig.queued()
    job = await rig.claim(version)
    assert (job.space, job.name, list(job.model.concepts)) == (SPACE, version.name, ["glass", "metal"])
    training = await rig.version(version.name)
    assert (training.state, training.HasField("start_time")) == (TRAINING, True)
    assert not (await rig.report(job, 0.4)).cancelled
    assert (await rig.version(version.name)).progress.fraction == 0.4
    await rig.complete(job)
    ready = await rig.until_state(version.name, "READY")
    assert (ready.production, ready.input_count, ready.progress.fraction) == (True, 60, 1.0)
    assert ready.summary.accuracy == pytest.approx(0.9)
    assert ready.HasField("end_time")
    model = await rig.model("sorter")
    assert (model.production_version, model.pinned) == (1, False)
    served = await _resolve(rig)
    assert (served.name, list(served.display_names)) == (version.name, ["Glass", "Metal"])
    assert served.head_artefact.startswith(f"heads/{TRASH}/{version.uid}/")
    fetch = rig.serving.FetchArtefact(
        serving_pb.FetchArtefactRequest(head=served.head_artefact), metadata=rig.token("inference", 0)
    )
    assert b"".join([part.chunk async for part in fetch]) == completion(job).head


async def test_evaluation_is_given_when_ready_and_refused_before(rig: Rig):
    version = await rig.queued()
    request = pb.GetEvaluationRequest(name=f"{version.name}/evaluation")
    refused = await refusal(rig.models.GetEvaluation(request, metadata=rig.key()))
    assert (refused.reason, refused.metadata["state"]) == ("VERSION_NOT_READY", "QUEUED")
    await rig.complete(await rig.claim(version))
    await rig.until_state(version.name, "READY")
    evaluation = await rig.models.GetEvaluation(request, metadata=rig.key())
    assert (evaluation.accuracy, evaluation.method) == (0.9, "5-fold out-of-fold")
    assert [row.concept for row in evaluation.concepts] == ["glass", "metal"]
    assert not evaluation.HasField("r2")


async def test_resolving_says_why_when_nothing_can_answer(rig: Rig):
    assert (await refusal(_resolve(rig))).reason == "MODEL_NOT_FOUND"
    version = await rig.queued()
    assert (await refusal(_resolve(rig))).reason == "MODEL_HAS_NO_TRAINED_VERSION"
    refused = await refusal(_resolve(rig, version=1))
    assert (refused.reason, refused.metadata["state"]) == ("VERSION_NOT_READY", "QUEUED")
    assert (await refusal(_resolve(rig, version=2))).reason == "VERSION_NOT_FOUND"
    assert version.number == 1


async def _resolve(rig: Rig, *, version: int = 0) -> serving_pb.ServedModel:
    request = serving_pb.ResolveModelRequest(app_id=TRASH, model="sorter", version=version)
    return await rig.serving.ResolveModel(request, metadata=rig.token("inference", TRASH))


async def test_second_claim_is_refused_while_the_lease_holds(rig: Rig):
    version = await rig.queued()
    await rig.claim(version)
    refused = await refusal(rig.claim(version))
    assert (refused.reason, refused.metadata["code"]) == ("VERSION_LEASED", "FAILED_PRECONDITION")
    assert 0 < float(refused.metadata["lease_left"]) <= float(refused.metadata["lease_seconds"])


async def test_trainer_given_up_for_dead_can_write_no_more(make_rig):
    async with make_rig(lease_seconds=0.2) as rig:
        version = await rig.queued()
        dead = await rig.claim(version)
        alive = await until(lambda: _claimed_or_none(rig, version))
        assert alive.lease == dead.lease + 1
        for late in (rig.report(dead), rig.complete(dead), _fail(rig, dead)):
            refused = await refusal(late)
            assert (refused.reason, refused.metadata["code"]) == ("LEASE_LOST", "ABORTED")
        await rig.complete(alive, seed=1)
        assert (await refusal(rig.complete(dead))).reason == "LEASE_LOST"
        ready = await rig.until_state(version.name, "READY")
        assert ready.production


async def _claimed_or_none(rig: Rig, version) -> job_pb.TrainingJob | None:
    try:
        return await rig.claim(version)
    except Exception:
        return None


async def _fail(rig: Rig, job: job_pb.TrainingJob, **details: object):
    error = to_status(PreconditionError("TRAINING_ONE_CLASS", "there is one class only"))
    if details:
        error.details.add(**details)
    request = job_pb.FailModelVersionRequest(
        app_id=job.app_id, version_uid=job.version_uid, lease=job.lease, error=error
    )
    return await rig.jobs.FailModelVersion(request, metadata=rig.token("trainer", job.app_id))


async def test_silent_trainer_may_still_complete_when_nobody_took_its_lease(make_rig):
    async with make_rig(lease_seconds=0.05) as rig:
        version = await rig.queued()
        job = await rig.claim(version)
        await until(lambda: _lease_over(rig))
        await rig.complete(job)
        assert (await rig.until_state(version.name, "READY")).number == 1


async def _lease_over(rig: Rig) -> bool:
    return (await rig.sql("SELECT lease_expires_at < now() AS over FROM registry.model_versions"))[0]["over"]


async def test_one_ready_version_and_one_head_when_completing_is_repeated(rig: Rig):
    version = await rig.queued()
    job = await rig.claim(version)
    await asyncio.gather(*(rig.complete(job) for _ in range(4)))
    ready = await rig.until_state(version.name, "READY")
    again = await rig.complete(job)
    assert (again.uid, again.state) == (ready.uid, READY)
    rows = await rig.sql("SELECT state FROM registry.model_versions")
    assert [row["state"] for row in rows] == ["READY"]


async def test_head_is_refused_when_serving_could_not_use_it(rig: Rig):
    version = await rig.queued()
    job = await rig.claim(version)
    assert (await refusal(rig.complete(job, head=b"no head"))).reason == "HEAD_INVALID"
    assert (await refusal(rig.complete(job, evaluation_json=b"{"))).reason == "EVALUATION_INVALID"
    other_space = job_pb.TrainingJob()
    other_space.CopyFrom(job)
    other_space.space = "elsewhere"
    assert (await refusal(rig.complete(other_space))).reason == "HEAD_OTHER_SPACE"
    assert (await rig.version(version.name)).state == TRAINING


async def test_failed_version_says_why(rig: Rig):
    version = await rig.queued()
    job = await rig.claim(version)
    for details in ({"type_url": "nobody/knows.this"}, {"type_url": "x/google.rpc.ErrorInfo", "value": b"\xff"}):
        assert (await refusal(_fail(rig, job, **details))).reason == "MESSAGE_INVALID"
    await _fail(rig, job)
    assert (await _fail(rig, job)).state == FAILED
    failed = await rig.version(version.name)
    assert (failed.state, failed.error.code, failed.error.message) == (FAILED, 9, "there is one class only")
    assert (await refusal(rig.claim(version))).reason == "VERSION_ENDED"
    assert (await refusal(_cancel(rig, version))).reason == "VERSION_ENDED"


async def _cancel(rig: Rig, version):
    return await rig.models.CancelModelVersion(pb.CancelModelVersionRequest(name=version.name), metadata=rig.key())


async def test_trainer_learns_that_its_version_was_cancelled(rig: Rig):
    version = await rig.queued()
    job = await rig.claim(version)
    assert (await _cancel(rig, version)).state == CANCELLED
    assert (await _cancel(rig, version)).state == CANCELLED
    assert (await rig.report(job)).cancelled
    assert (await refusal(rig.complete(job))).reason == "VERSION_CANCELLED"
    assert (await rig.model("sorter")).production_version == 0


async def test_version_fails_when_trainers_die_over_it_again_and_again(make_rig):
    async with make_rig(lease_seconds=0.01, max_attempts=2) as rig:
        version = await rig.queued()
        for _ in range(2):
            await until(lambda: _claimed_or_none(rig, version))
        await until(lambda: _lease_over(rig))
        assert (await refusal(rig.claim(version))).reason == "VERSION_ENDED"
        failed = await rig.version(version.name)
        assert failed.state == FAILED
        assert "2 trainers" in failed.error.message


async def test_production_follows_the_newest_success_unless_pinned(rig: Rig):
    await rig.trained()
    second = await rig.train("sorter")
    third = await rig.train("sorter")
    await rig.complete(await rig.claim(third))
    await rig.until_state(third.name, "READY")
    # An older version that is done later does not take production back.
    await rig.complete(await rig.claim(second))
    await rig.until_state(second.name, "READY")
    assert (await rig.model("sorter")).production_version == 3
    pinned = await _pin(rig, ["production_version"], production_version=1)
    assert (pinned.production_version, pinned.pinned) == (1, True)
    fourth = await rig.train("sorter")
    await rig.complete(await rig.claim(fourth))
    await rig.until_state(fourth.name, "READY")
    assert (await rig.model("sorter")).production_version == 1
    assert (await _resolve(rig)).name.endswith("/versions/1")
    assert (await _resolve(rig, version=4)).name.endswith("/versions/4")
    free = await _pin(rig, ["pinned"], pinned=False)
    assert (free.production_version, free.pinned) == (4, False)


async def _pin(rig: Rig, paths: list[str], **fields: object) -> Model:
    request = pb.UpdateModelRequest(model=Model(name="apps/trash/models/sorter", **fields))
    request.update_mask.paths[:] = paths
    return await rig.models.UpdateModel(request, metadata=rig.key())


async def test_version_is_deleted_unless_it_is_in_production(rig: Rig):
    first = await rig.trained()
    request = pb.DeleteModelVersionRequest(name=first.name)
    assert (await refusal(rig.models.DeleteModelVersion(request, metadata=rig.key()))).reason == "VERSION_IN_PRODUCTION"
    second = await rig.train("sorter")
    job = await rig.claim(second)
    await rig.models.DeleteModelVersion(pb.DeleteModelVersionRequest(name=second.name), metadata=rig.key())
    assert (await refusal(rig.report(job))).reason == "VERSION_NOT_FOUND"
    # Its number is not used again.
    assert (await rig.train("sorter")).number == 3
    listed = await rig.models.ListModelVersions(
        pb.ListModelVersionsRequest(parent="apps/trash/models/sorter", page_size=1), metadata=rig.key()
    )
    assert [version.number for version in listed.model_versions] == [3]
    rest = pb.ListModelVersionsRequest(parent="apps/trash/models/sorter", page_token=listed.next_page_token)
    page = await rig.models.ListModelVersions(rest, metadata=rig.key())
    assert [version.number for version in page.model_versions] == [1]


async def test_versions_are_listed_in_smaller_pages_when_they_know_very_many_concepts(rig: Rig):
    await rig.queued(counts={f"concept-{number:03d}": 5 for number in range(500)})
    await rig.sql(
        """
        INSERT INTO registry.model_versions (app_id, model_id, number, state, space, base_model, model_snapshot, seed,
          note, actor, concepts, display_names, findings)
        SELECT app_id, model_id, number + more, 'CANCELLED', space, base_model, model_snapshot, seed, note, actor,
          concepts, display_names, findings
        FROM registry.model_versions CROSS JOIN generate_series(1, 200) AS more
        """
    )
    request = pb.ListModelVersionsRequest(parent="apps/trash/models/sorter", page_size=1000)
    pages = []
    while not pages or request.page_token:
        # More than 4 MB in one answer would be refused by this very client.
        page = await rig.models.ListModelVersions(request, metadata=rig.key())
        pages.append([version.number for version in page.model_versions])
        request.page_token = page.next_page_token
    assert len(pages) > 1
    assert all(pages)
    assert [number for numbers in pages for number in numbers] == list(range(201, 0, -1))
