"""Apps that move to another base model: their inputs get vectors of it, and nothing else changes meanwhile."""

import asyncio
import hashlib
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from lensmith_api.internal.v1.curation_service_pb2 import StreamUnlabelledInputsRequest
from lensmith_api.internal.v1.curation_service_pb2_grpc import CurationServiceStub
from lensmith_api.internal.v1.space_service_pb2 import SetSpacesRequest, SpaceProgress
from lensmith_api.internal.v1.training_data_service_pb2 import CountTrainingDataRequest
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.input_service_pb2 import DeleteInputsRequest
from lensmith_dataset.app import build
from lensmith_platform.errors import InvalidInputError, QuotaExceededError, to_status
from lensmith_platform.server import running
from tests.lensmith_dataset.conftest import APP_IDS, FAILED, READY, Rig, Start, new_input, reason_of
from tests.pictures import picture
from tests.polling import until
from tests.rpc_errors import failing

NEW = "better-1-fp32"
QUICK = {"backfill_poll_seconds": 0.05, "backfill_batch": 4, "purge_interval_seconds": 0.1}


@dataclass
class Move:
    """An app on its way from one space to another."""

    rig: Rig
    app: str = "a"

    @property
    def old(self) -> BaseModel:
        return self.rig.registry.base_model

    @property
    def new(self) -> BaseModel:
        return BaseModel(name="baseModels/better", space=NEW, dimensions=self.old.dimensions)

    async def set(
        self, revision: int, current: BaseModel, target: BaseModel | None = None, *, keep: bool = False
    ) -> SpaceProgress:
        app_id = APP_IDS[self.app]
        request = SetSpacesRequest(app_id=app_id, revision=revision, current=current, target=target, keep_vectors=keep)
        return (await self.rig.spaces.SetSpaces(request, metadata=self.rig.token("registry", app_id))).progress

    async def begin(self, revision: int = 2) -> SpaceProgress:
        return await self.set(revision, self.old, self.new)

    async def arrived(self, revision: int = 2) -> SpaceProgress:
        """Wait until nothing is left to do."""

        async def complete() -> SpaceProgress | None:
            progress = await self.begin(revision)
            return progress if progress.complete else None

        return await until(complete)

    async def end(self, revision: int = 3) -> SpaceProgress:
        return await self.set(revision, self.new, keep=True)

    async def vectors(self, space: str) -> dict[str, np.ndarray]:
        """Vectors by uid of the input, as a trainer gets those that have no label."""
        app_id = APP_IDS[self.app]
        request = StreamUnlabelledInputsRequest(app_id=app_id, space=space, limit=1000)
        metadata = self.rig.token("trainer", app_id)
        stream = CurationServiceStub(self.rig.channel).StreamUnlabelledInputs(request, metadata=metadata)
        return {item.input_uid: np.frombuffer(item.vector, "<f2") async for part in stream for item in part.inputs}

    async def has(self, space: str, count: int) -> bool:
        return len(await self.vectors(space)) == count


@pytest.fixture
async def move(start: Start) -> Move:
    """An app with six pictures on the old base model."""
    move = Move(await start(**QUICK))
    await move.rig.create(*(new_input(picture(seed)) for seed in range(6)))
    await move.rig.indexed()
    return move


async def test_inputs_get_vectors_of_a_second_space_and_stay_ready_when_their_app_moves(move: Move) -> None:
    before = await move.vectors(move.old.space)
    progress = await move.arrived()

    assert (progress.inputs, progress.embedded, progress.failed) == (6, 6, 0)
    after = await move.vectors(NEW)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[uid], -before[uid]) for uid in before)
    assert (await move.vectors(move.old.space)).keys() == before.keys()
    assert (await move.rig.counts()).ready == 6


async def test_new_inputs_get_vectors_of_both_spaces_when_their_app_moves(move: Move) -> None:
    await move.arrived()
    [added] = await move.rig.create(new_input(picture(10)))
    await move.rig.indexed()

    assert added.input.uid in await move.vectors(move.old.space)
    await until(lambda: move.has(NEW, 7))


async def test_input_gets_a_vector_of_the_new_space_when_it_was_embedded_just_before_the_switch(move: Move) -> None:
    await move.arrived()
    asked = len(move.rig.inference.batches)
    move.rig.inference.open.clear()
    [added] = await move.rig.create(new_input(picture(10)))

    async def is_being_embedded() -> bool:
        return len(move.rig.inference.batches) > asked

    await until(is_being_embedded)
    await move.end()
    move.rig.inference.open.set()
    await move.rig.indexed()

    await until(lambda: move.has(NEW, 7))
    assert (await move.rig.get(added.input.name)).status == READY


async def test_new_inputs_are_ready_in_the_new_space_when_their_app_has_moved(move: Move) -> None:
    await move.arrived()
    await move.end()
    asked = move.rig.registry.calls
    await move.rig.create(new_input(picture(10)))
    await move.rig.indexed()

    assert await move.has(NEW, 7)
    assert len(await move.vectors(move.old.space)) == 6
    # Whatever registry said a moment ago, dataset was told better.
    assert move.rig.registry.calls == asked


async def test_a_picture_that_cannot_be_embedded_anew_holds_nothing_up_and_is_reported(move: Move) -> None:
    bad = hashlib.sha256(picture(3)).digest()
    move.rig.inference.refused[bad] = to_status(InvalidInputError("IMAGE_TOO_SMALL", "too small for this network"))
    progress = await move.arrived()
    assert (progress.embedded, progress.failed) == (5, 1)
    assert (await move.rig.counts()).ready == 6

    await move.end()
    counts = await move.rig.counts()
    assert (counts.ready, counts.failed) == (5, 1)
    [row] = await move.rig.sql("SELECT uid FROM inputs WHERE status = 3")
    failed = await move.rig.get(f"apps/a/inputs/{row['uid']}")
    assert (failed.status, reason_of(failed.error)) == (FAILED, "IMAGE_TOO_SMALL")


async def test_a_picture_that_breaks_its_batch_does_not_keep_the_others_from_moving(start: Start) -> None:
    move = Move(await start(**QUICK, index_give_up_attempts=2))
    await move.rig.create(*(new_input(picture(seed)) for seed in range(6)))
    await move.rig.indexed()
    move.rig.inference.poison.add(hashlib.sha256(picture(3)).digest())

    progress = await move.arrived()
    assert (progress.embedded, progress.failed) == (5, 1)


async def test_a_base_model_that_embeds_nothing_is_told_of(move: Move) -> None:
    move.rig.inference.closed_spaces.add(NEW)

    async def is_told() -> SpaceProgress | None:
        progress = await move.begin()
        return progress if progress.failures >= 2 else None

    progress = await until(is_told)
    assert (progress.embedded, progress.failed, progress.complete) == (0, 0, False)
    assert "out of luck" in progress.error.message
    move.rig.inference.closed_spaces.clear()
    assert (await move.arrived()).failures == 0


async def test_a_busy_inference_is_waited_for(move: Move) -> None:
    move.rig.inference.refusals += [QuotaExceededError("INFERENCE_OVERLOADED", "busy")]
    progress = await move.arrived()
    assert (progress.embedded, progress.failures) == (6, 0)


async def test_vectors_of_the_new_space_go_when_the_move_is_called_off(move: Move) -> None:
    await move.arrived()
    await move.set(3, move.old)

    async def are_gone() -> bool:
        return not await move.rig.sql("SELECT FROM embeddings WHERE space = $1", NEW)

    await until(are_gone)
    assert await move.has(move.old.space, 6)
    await move.rig.create(new_input(picture(10)))
    await move.rig.indexed()
    assert await move.has(move.old.space, 7)
    assert not await move.rig.sql("SELECT FROM embeddings WHERE space = $1", NEW)


async def test_moving_back_embeds_nothing_anew_when_the_vectors_are_still_kept(move: Move) -> None:
    await move.arrived()
    await move.end()
    batches = len(move.rig.inference.batches)

    async def is_back() -> bool:
        return (await move.set(4, move.new, move.old)).complete

    await until(is_back)
    assert len(move.rig.inference.batches) == batches


async def test_vectors_of_the_old_space_go_when_they_were_kept_long_enough(start: Start) -> None:
    move = Move(await start(**QUICK, retired_space_hours=0))
    await move.rig.create(*(new_input(picture(seed)) for seed in range(6)))
    await move.rig.indexed()
    await move.arrived()
    await move.end()

    async def are_gone() -> bool:
        return not await move.rig.sql("SELECT FROM embeddings WHERE space = $1", move.old.space)

    await until(are_gone)
    assert await move.has(NEW, 6)


async def test_what_is_older_than_what_was_said_is_refused(move: Move) -> None:
    await move.begin(4)
    with failing(grpc.StatusCode.ABORTED, "SPACES_CHANGED"):
        await move.set(3, move.old)
    await move.arrived(4)


async def test_only_registry_says_which_spaces_an_app_wants(move: Move) -> None:
    request = SetSpacesRequest(app_id=7, revision=2, current=move.old, target=move.new)
    for metadata in (move.rig.token("trainer", 7), move.rig.key("a")):
        with failing(grpc.StatusCode.PERMISSION_DENIED):
            await move.rig.spaces.SetSpaces(request, metadata=metadata)


async def test_another_app_stays_where_it_is(move: Move) -> None:
    other = Move(move.rig, "b")
    await move.rig.create(new_input(picture(0)), app="b")
    await move.rig.indexed("b")
    await move.arrived()
    assert len(await other.vectors(other.old.space)) == 1
    assert not await other.vectors(NEW)


async def test_inputs_that_lack_their_vector_are_pending_for_a_training_in_that_space(move: Move) -> None:
    move.rig.inference.open.clear()

    async def pending() -> int:
        await move.begin()
        request = CountTrainingDataRequest(app_id=7, space=NEW)
        counted = await move.rig.training.CountTrainingData(request, metadata=move.rig.token("registry", 7))
        return counted.pending_inputs

    await until(pending)
    assert await pending() == 6
    move.rig.inference.open.set()
    await move.arrived()
    assert await pending() == 0


async def test_deleted_inputs_are_passed_over_when_their_app_moves(move: Move) -> None:
    uids = list(await move.vectors(move.old.space))
    move.rig.inference.open.clear()
    await move.begin()

    async def is_listed() -> bool:
        return len(await move.rig.sql("SELECT FROM missing_embeddings")) == 6

    await until(is_listed)
    await move.rig.inputs.DeleteInputs(
        DeleteInputsRequest(parent="apps/a", input_ids=uids[:2]), metadata=move.rig.key()
    )
    move.rig.inference.open.set()
    progress = await move.arrived()
    assert (progress.inputs, progress.embedded) == (4, 4)
    assert not await move.rig.sql("SELECT FROM missing_embeddings")


async def test_every_input_is_in_the_new_space_when_many_arrive_while_the_app_is_switched(move: Move) -> None:
    async def add(seed: int) -> None:
        await move.rig.create(new_input(picture(seed)))

    adding = [asyncio.create_task(add(seed)) for seed in range(100, 124)]
    await move.arrived()
    await move.end()
    await asyncio.gather(*adding)
    await move.rig.indexed()
    await until(lambda: move.has(NEW, 30))
    assert not await move.rig.sql("SELECT FROM missing_embeddings WHERE space = $1", NEW)


async def test_two_indexers_share_the_work_when_an_app_moves(start: Start) -> None:
    move = Move(await start(**QUICK))
    await move.rig.create(*(new_input(picture(seed)) for seed in range(24)))
    await move.rig.indexed()
    async with running(move.rig.settings.model_copy(update={"roles": "indexer"}), build):
        progress = await move.arrived()

    assert progress.embedded == 24
    # Once for each space: what one has taken, the other leaves alone.
    assert set(move.rig.inference.calls.values()) == {2}


async def test_what_a_killed_indexer_had_taken_is_embedded_by_another(start: Start) -> None:
    move = Move(await start(**QUICK, roles="api"))
    alone = move.rig.settings.model_copy(update={"roles": "indexer", "backfill_lease_seconds": 0.5})
    async with running(alone, build) as first:
        await move.rig.create(*(new_input(picture(seed)) for seed in range(6)))
        await move.rig.indexed()
        asked = len(move.rig.inference.batches)
        move.rig.inference.open.clear()
        await move.begin()

        async def is_at_work() -> bool:
            return len(move.rig.inference.batches) > asked

        await until(is_at_work)
        first.background.cancel()
        await asyncio.wait([first.background])
    assert (await move.begin()).embedded == 0
    move.rig.inference.open.set()
    async with running(alone, build):
        assert (await move.arrived()).embedded == 6
