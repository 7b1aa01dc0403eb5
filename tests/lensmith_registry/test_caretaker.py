"""What registry looks after by itself: forgotten versions, deleted apps, bytes that must go."""

import asyncio
import io

import grpc
import pytest

from lensmith_api.internal.v1.events_pb2 import AppDeleted, Event
from lensmith_api.v1 import model_service_pb2 as pb
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.suggestion_service_pb2 import ListSuggestionsRequest, ListSuggestionsResponse
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from lensmith_platform.bus import Bus, WorkConsumer, connect
from tests.lensmith_registry.rig import OTHER, OTHER_KEY, SCOPES, TRASH, Rig, refusal
from tests.polling import until

MAY_SEE = "key-that-may-see-inputs"


@pytest.fixture
async def bus(nats_url: str):
    async with await connect(nats_url, wait_seconds=10) as connected:
        yield connected


class Heard:
    """Versions announced to trainers."""

    def __init__(self) -> None:
        self.uids: list[str] = []

    async def handle(self, event: Event) -> None:
        self.uids.append(event.model_version_queued.version_uid)

    async def times(self, count: int) -> bool:
        return len(self.uids) >= count


async def _announcements(bus: Bus, rig: Rig, count: int) -> list[str]:
    heard = Heard()
    consumer = asyncio.create_task(WorkConsumer(bus, "test--hear", "models.version_queued", heard.handle).run())
    await until(lambda: heard.times(count))
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)
    return heard.uids


async def _suggestions(rig: Rig, version: ModelVersion) -> ListSuggestionsResponse:
    request = ListSuggestionsRequest(parent=version.name)
    return await SuggestionServiceStub(rig.channel).ListSuggestions(request, metadata=rig.key(MAY_SEE))


async def test_waiting_version_is_announced_again_when_nobody_takes_it(make_rig, bus: Bus):
    async with make_rig(silent_seconds=0.1, reconcile_seconds=0.1) as rig:
        version = await rig.queued()
        uids = await _announcements(bus, rig, 3)
    assert set(uids) == {version.uid}


async def test_version_of_a_dead_trainer_is_announced_again(make_rig, bus: Bus):
    async with make_rig(lease_seconds=0.1, silent_seconds=0.3, reconcile_seconds=0.1) as rig:
        version = await rig.queued()
        await rig.claim(version)
        uids = await _announcements(bus, rig, 2)
        assert set(uids) == {version.uid}
        assert (await rig.claim(version)).lease == 2


async def test_learning_curve_is_announced_again_when_many_wait_whose_versions_are_gone(make_rig):
    async with make_rig(silent_seconds=0.3, reconcile_seconds=0.1) as rig:
        ready = await rig.trained()
        # As many as are taken at once, and all of them wait for longer.
        await rig.sql(
            """
            WITH gone AS (
              INSERT INTO registry.model_versions
                (app_id, model_id, number, state, space, base_model, model_snapshot, seed, note, actor, deleted_at)
              SELECT app_id, model_id, number + more, state, space, base_model, model_snapshot, seed, note, actor, now()
              FROM registry.model_versions CROSS JOIN generate_series(1, 100) AS more
              RETURNING app_id, id)
            INSERT INTO registry.learning_curves (app_id, version_id, state, announced_at)
            SELECT app_id, id, 'QUEUED', now() - interval '1 hour' FROM gone
            """
        )
        await rig.models.ComputeLearningCurve(pb.ComputeLearningCurveRequest(name=ready.name), metadata=rig.key())

        async def announced_again() -> bool:
            return bool(await rig.sql("SELECT FROM registry.learning_curves WHERE announced_at > created_at"))

        await until(announced_again)


async def test_version_is_announced_again_when_nobody_has_looked_through_it(make_rig):
    async with make_rig(silent_seconds=0.1, reconcile_seconds=60) as rig:
        ready = await rig.trained()
        # Its event came and went, with whoever had it in work.
        await rig.sql("UPDATE registry.model_versions SET out_of_fold = 'evaluations/7'")

        async def announced_again() -> bool:
            return bool(await rig.sql("SELECT FROM registry.model_versions WHERE announced_at > completed_at"))

        await until(announced_again)
        rig.auth.add_key(MAY_SEE, "trash", [*SCOPES, "Inputs:Get"])
        assert (await _suggestions(rig, ready)).pending
        await rig.sql("UPDATE registry.model_versions SET completed_at = completed_at - interval '8 days'")
        assert (await refusal(_suggestions(rig, ready))).reason == "SUGGESTIONS_NOT_MADE"


async def test_version_becomes_ready_when_the_news_of_its_head_was_lost(make_rig):
    async with make_rig(silent_seconds=0.3, reconcile_seconds=0.1) as rig:
        version = await rig.queued()
        job = await rig.claim(version)
        await rig.sql("CREATE RULE lose AS ON INSERT TO registry.outbox DO INSTEAD NOTHING")
        await rig.complete(job)
        await rig.sql("DROP RULE lose ON registry.outbox")
        assert (await rig.until_state(version.name, "READY")).production


async def test_everything_of_an_app_goes_when_the_app_is_deleted(make_rig, bus: Bus, s3):
    async with make_rig(purge_grace_seconds=0, purge_seconds=0.1) as rig:
        await rig.trained()
        await rig.create("kept", app="other", key=OTHER_KEY)
        await bus.publish(Event(app_id=TRASH, app_deleted=AppDeleted(app_uid="uid-trash")))
        await until(lambda: _gone(rig))
        await until(lambda: _no_heads(s3))
        rows = await rig.sql("SELECT app_id, model FROM registry.models")
        assert [(row["app_id"], row["model"]) for row in rows] == [(OTHER, "kept")]
        assert not await rig.sql("SELECT 1 FROM registry.app_spaces WHERE app_id = $1", TRASH)
        assert (await refusal(rig.model("sorter"))).reason == "MODEL_NOT_FOUND"


async def _gone(rig: Rig) -> bool:
    return not await rig.sql("SELECT 1 FROM registry.models WHERE app_id = $1", TRASH)


async def _no_heads(s3) -> bool:
    return not list(s3.client.list_objects(s3.name, "heads/", recursive=True))


async def test_bytes_of_a_deleted_version_stay_for_the_grace(make_rig, s3):
    async with make_rig(purge_seconds=0.1) as rig:
        await rig.trained()
        await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
        before = await rig.sql("SELECT count(*) AS rows FROM registry.model_versions")
        assert before[0]["rows"] == 1
        assert not await _no_heads(s3)
        await rig.sql("UPDATE registry.model_versions SET deleted_at = now() - interval '25 hours'")
        await until(lambda: _no_heads(s3))


async def test_bytes_that_a_trainer_sent_too_late_go_with_their_version(make_rig, s3):
    async with make_rig(lease_seconds=0.1, purge_grace_seconds=0, purge_seconds=0.1) as rig:
        version = await rig.queued()
        await rig.claim(version)
        await until(lambda: _claimed_again(rig, version))
        # By the time they arrived, nobody named them any more.
        late = f"heads/{TRASH}/{version.uid}/{'0' * 64}"
        await asyncio.to_thread(s3.client.put_object, s3.name, late, io.BytesIO(b"late"), 4)
        await rig.models.DeleteModel(pb.DeleteModelRequest(name="apps/trash/models/sorter"), metadata=rig.key())
        await until(lambda: _gone(rig))
        assert await _no_heads(s3)


async def _claimed_again(rig: Rig, version: ModelVersion) -> bool:
    try:
        return (await rig.claim(version)).lease == 2
    except grpc.aio.AioRpcError:
        return False
