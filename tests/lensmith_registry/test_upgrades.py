"""Upgrades: an app is switched to another base model when all of it is ready, and else stays as it was."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lensmith_api.internal.v1 import serving_service_pb2 as serving_pb
from lensmith_api.internal.v1 import training_job_service_pb2 as job_pb
from lensmith_api.internal.v1.events_pb2 import AppDeleted, Event
from lensmith_api.internal.v1.space_service_pb2 import SpaceProgress
from lensmith_api.v1 import base_model_service_pb2 as base_pb
from lensmith_api.v1 import model_service_pb2 as model_pb
from lensmith_api.v1 import upgrade_service_pb2 as pb
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.model_pb2 import Model
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.upgrade_pb2 import ModelUpgradeOutcome, Upgrade, UpgradeState
from lensmith_platform.bus import connect
from lensmith_platform.errors import InternalError, to_status
from tests.lensmith_registry.pack_variants import files_of, import_pack, variant
from tests.lensmith_registry.rig import DIM, KEY, OPERATOR_KEY, OTHER_KEY, PLAIN, READ_KEY, SPACE, TRASH, Rig, refusal
from tests.polling import until

RUNNING = SpaceProgress(inputs=60, embedded=20)
COMPLETE = SpaceProgress(inputs=60, embedded=60, complete=True)
UPGRADED = ModelUpgradeOutcome.MODEL_UPGRADE_OUTCOME_UPGRADED
KEPT = ModelUpgradeOutcome.MODEL_UPGRADE_OUTCOME_KEPT
QUICK = {"upgrade_seconds": 0.05, "watch_poll_seconds": 0.5}


@dataclass
class Move:
    """An app with a trained model `sorter` on `plain`, while `better` is installed."""

    rig: Rig
    better: BaseModel

    async def start(self, key: str = KEY, **fields: object) -> Upgrade:
        request = pb.CreateUpgradeRequest(parent="apps/trash", **fields)
        return await self.rig.upgrades.CreateUpgrade(request, metadata=self.rig.key(key))

    async def get(self, number: int = 1, key: str = KEY) -> Upgrade:
        request = pb.GetUpgradeRequest(name=f"apps/trash/upgrades/{number}")
        return await self.rig.upgrades.GetUpgrade(request, metadata=self.rig.key(key))

    async def cancel(self, number: int = 1) -> Upgrade:
        request = pb.CancelUpgradeRequest(name=f"apps/trash/upgrades/{number}")
        return await self.rig.upgrades.CancelUpgrade(request, metadata=self.rig.key())

    async def until_state(self, state: str, number: int = 1) -> Upgrade:
        wanted = UpgradeState.Value(f"UPGRADE_STATE_{state}")

        async def arrived() -> Upgrade | None:
            upgrade = await self.get(number)
            assert upgrade.state == wanted or upgrade.state <= UpgradeState.UPGRADE_STATE_SWITCHING, upgrade
            return upgrade if upgrade.state == wanted else None

        return await until(arrived)

    async def candidate(self, model: str = "sorter", number: int = 2) -> job_pb.TrainingJob:
        """The version that waits for a trainer, claimed."""

        async def queued() -> ModelVersion | None:
            return next((one for one in await self.versions(model) if one.number == number), None)

        return await self.rig.claim(await until(queued))

    async def versions(self, model: str = "sorter") -> list[ModelVersion]:
        request = model_pb.ListModelVersionsRequest(parent=f"apps/trash/models/{model}")
        return list((await self.rig.models.ListModelVersions(request, metadata=self.rig.key())).model_versions)

    async def train_candidate(self, accuracy: float = 0.95, model: str = "sorter", number: int = 2) -> None:
        job = await self.candidate(model, number)
        await self.rig.complete(job, **{"summary.accuracy": accuracy})

    async def update(self, **fields: object) -> None:
        """Change the model `sorter`."""
        request = model_pb.UpdateModelRequest(
            model=Model(name="apps/trash/models/sorter", **fields), update_mask={"paths": list(fields)}
        )
        await self.rig.models.UpdateModel(request, metadata=self.rig.key())

    async def answering(self, model: str = "sorter") -> tuple[int, str]:
        """Number and space of the version that answers."""
        request = serving_pb.ResolveModelRequest(app_id=TRASH, model=model)
        served = await self.rig.serving.ResolveModel(request, metadata=self.rig.token("inference", TRASH))
        return int(served.name.rpartition("/")[2]), served.base_model.space

    async def space(self) -> str:
        request = serving_pb.ResolveSpaceRequest(app_id=TRASH)
        answer = await self.rig.serving.ResolveSpace(request, metadata=self.rig.token("dataset", TRASH))
        return answer.base_model.space

    async def assert_nothing_changed(self, *, model: str = "sorter") -> None:
        assert await self.answering(model) == (1, SPACE)
        assert await self.space() == SPACE
        assert [one.number for one in await self.versions(model)] == [1]

        async def is_told() -> bool:
            return self.rig.dataset.wanted.get(TRASH) == [SPACE]

        await until(is_told)

    async def add_model(self, model: str) -> None:
        """Another trained model."""
        await self.rig.create(model)
        version = await self.rig.train(model)
        await self.rig.complete(await self.rig.claim(version))
        await self.rig.until_state(version.name, "READY")


@pytest.fixture
async def move(make_rig, tmp_path: Path) -> AsyncIterator[Move]:
    """The app, and registry with short pauses."""
    async with make_rig(**QUICK) as rig:
        await rig.trained()
        better = await import_pack(rig, files_of(variant(tmp_path / "better", id="better", rank=PLAIN.rank + 10)))
        yield Move(rig, better)


async def test_app_is_switched_when_its_models_are_trained_on_the_new_base_model(move: Move):
    move.rig.dataset.progress = RUNNING
    check = await move.rig.upgrades.CheckUpgrade(pb.CheckUpgradeRequest(parent="apps/trash"), metadata=move.rig.key())
    assert (check.base_model.name, check.best_base_model.name, check.upgradable, check.running) == (
        "baseModels/plain",
        "baseModels/better",
        True,
        "",
    )
    started = await move.start()
    assert (started.name, started.from_space, started.space) == ("apps/trash/upgrades/1", SPACE, move.better.space)
    assert started.actor == "keys/key-of-trash"

    async def is_counted() -> bool:
        upgrade = await move.get()
        return (upgrade.input_count, upgrade.embedded_input_count) == (60, 20)

    await until(is_counted)
    assert move.rig.dataset.wanted[TRASH] == [SPACE, move.better.space]
    assert await move.answering() == (1, SPACE)

    move.rig.dataset.progress = COMPLETE
    job = await move.candidate()
    assert job.space == move.better.space
    assert (await move.get()).state == UpgradeState.UPGRADE_STATE_TRAINING
    assert await move.answering() == (1, SPACE)
    await move.rig.complete(job, **{"summary.accuracy": 0.95})

    done = await move.until_state("DONE")
    assert done.message == "your models were upgraded to better: sorter 0.90 → 0.95"
    [model] = done.models
    assert (model.model, model.outcome) == (
        "apps/trash/models/sorter",
        UPGRADED,
    )
    assert (model.from_version, model.to_version, model.figure, model.before, model.after) == (
        1,
        2,
        "accuracy",
        0.9,
        0.95,
    )
    assert await move.answering() == (2, move.better.space)
    assert await move.space() == move.better.space
    assert move.rig.dataset.wanted[TRASH] == [move.better.space]
    version = (await move.versions())[0]
    assert (version.upgrade, version.base_model, version.production) == (
        "apps/trash/upgrades/1",
        "baseModels/better",
        True,
    )
    assert not (await move.rig.model("sorter")).pinned
    # What was trained before can still be asked, and be put into production again.
    await move.rig.models.UpdateModel(
        model_pb.UpdateModelRequest(
            model=Model(name="apps/trash/models/sorter", production_version=1),
            update_mask={"paths": ["production_version"]},
        ),
        metadata=move.rig.key(),
    )
    assert await move.answering() == (1, SPACE)


async def test_no_model_is_switched_before_all_are_trained(move: Move):
    await move.add_model("second")
    await move.start()
    await move.train_candidate()
    version = (await move.versions())[0]
    await move.rig.until_state(version.name, "READY")
    job = await move.candidate("second")
    assert await move.answering() == (1, SPACE)
    assert await move.space() == SPACE
    assert (await move.rig.model("sorter")).production_version == 1
    await move.rig.complete(job)
    await move.until_state("DONE")
    assert await move.answering() == await move.answering("second") == (2, move.better.space)


async def test_everything_stays_as_before_when_no_model_gets_better(move: Move):
    await move.start()
    await move.train_candidate(accuracy=0.87)
    failed = await move.until_state("FAILED")
    assert "version 2 is worse: accuracy 0.870 instead of 0.900" in failed.message
    assert failed.error.message in failed.message
    await move.assert_nothing_changed()
    assert move.rig.dataset.keeps_vectors


async def test_a_model_that_became_worse_is_kept_while_another_is_upgraded(move: Move):
    await move.add_model("second")
    await move.start()
    await move.train_candidate(accuracy=0.87)
    await move.train_candidate(accuracy=0.89, model="second")
    done = await move.until_state("DONE")
    kept, upgraded = sorted(done.models, key=lambda model: model.model != "apps/trash/models/sorter")
    assert kept.outcome == KEPT
    assert upgraded.outcome == UPGRADED
    assert await move.answering() == (1, SPACE)
    assert await move.answering("second") == (2, move.better.space)
    # Unpinning would let production follow the newest success: that is not what was refused.
    await move.update(pinned=False)
    assert await move.answering() == (1, SPACE)


async def test_a_worse_model_is_switched_too_when_it_is_forced(move: Move):
    await move.start(force=True)
    await move.train_candidate(accuracy=0.5)
    done = await move.until_state("DONE")
    assert "sorter 0.90 → 0.50" in done.message
    assert await move.answering() == (2, move.better.space)


async def test_a_pinned_model_is_kept(move: Move):
    await move.add_model("second")
    await move.update(pinned=True)
    await move.start()
    await move.train_candidate(model="second")
    done = await move.until_state("DONE")
    assert done.message.endswith("kept as before: sorter (version 1 is pinned)")
    assert await move.answering() == (1, SPACE)
    assert await move.answering("second") == (2, move.better.space)
    assert [one.number for one in await move.versions()] == [1]


async def test_a_model_whose_training_failed_is_kept(move: Move):
    await move.add_model("second")
    await move.start()
    job = await move.candidate()
    await move.rig.jobs.FailModelVersion(
        job_pb.FailModelVersionRequest(
            app_id=TRASH,
            version_uid=job.version_uid,
            lease=job.lease,
            error=to_status(InternalError("TRAINING_FAILED", "the disk is full")),
        ),
        metadata=move.rig.token("trainer", TRASH),
    )
    await move.train_candidate(model="second")
    done = await move.until_state("DONE")
    assert "sorter (version 2 failed:" in done.message
    assert await move.answering() == (1, SPACE)


async def test_a_model_is_trained_anew_when_its_owner_trained_it_meanwhile(move: Move):
    await move.start()
    job = await move.candidate()
    own = await move.rig.train("sorter")
    assert (own.number, own.space) == (3, SPACE)
    await move.rig.complete(job)
    await move.rig.complete(await move.rig.claim(own))
    await move.rig.until_state(own.name, "READY")
    assert await move.answering() == (3, SPACE)
    await move.train_candidate(number=4)
    await move.until_state("DONE")
    assert await move.answering() == (4, move.better.space)
    # The candidate that was overtaken is nobody's any more.
    assert [one.number for one in await move.versions()] == [4, 3, 1]


async def test_a_model_that_is_new_takes_part_too(move: Move):
    await move.start()
    job = await move.candidate()
    await move.add_model("second")
    assert await move.answering("second") == (1, SPACE)
    await move.rig.complete(job)
    await move.train_candidate(model="second")
    await move.until_state("DONE")
    assert await move.answering("second") == (2, move.better.space)


async def test_a_version_of_the_base_model_before_does_not_take_over_when_it_ends_after_the_switch(move: Move):
    late = await move.rig.claim(await move.rig.train("sorter"))
    # As if an upgrade had switched the app meanwhile, with version 1 as its candidate.
    await move.rig.sql("UPDATE registry.app_spaces SET space = $1", move.better.space)
    await move.rig.sql("UPDATE registry.model_versions SET space = $1 WHERE number = 1", move.better.space)
    await move.rig.complete(late)
    assert (await move.answering())[0] == 1
    assert (await move.rig.model("sorter")).production_version == 1


async def test_a_training_is_judged_anew_when_the_app_is_switched_under_it(move: Move):
    move.rig.dataset.counting.clear()
    counted = move.rig.dataset.calls["CountTrainingData"]
    training = asyncio.create_task(move.rig.train("sorter"))

    async def is_counting() -> bool:
        return move.rig.dataset.calls["CountTrainingData"] > counted

    await until(is_counting)
    await move.rig.sql("UPDATE registry.app_spaces SET space = $1", move.better.space)
    move.rig.dataset.counting.set()
    assert (await training).space == move.better.space


@pytest.mark.parametrize("state", ["EMBEDDING", "TRAINING"])
async def test_everything_is_as_before_when_an_upgrade_is_cancelled(move: Move, state: str):
    move.rig.dataset.progress = RUNNING if state == "EMBEDDING" else COMPLETE
    await move.start()
    await move.until_state(state)
    job = await move.candidate() if state == "TRAINING" else None
    assert (await move.cancel()).state == UpgradeState.UPGRADE_STATE_CANCELLED
    assert (await move.cancel()).state == UpgradeState.UPGRADE_STATE_CANCELLED
    if job is not None:
        assert (await refusal(move.rig.complete(job))).reason in ("VERSION_NOT_FOUND", "LEASE_LOST")
    await move.assert_nothing_changed()
    assert not move.rig.dataset.keeps_vectors
    # And it may be started again.
    assert (await move.start()).name == "apps/trash/upgrades/2"


async def test_an_upgrade_that_is_done_cannot_be_cancelled(move: Move):
    await move.start()
    await move.train_candidate()
    await move.until_state("DONE")
    assert (await refusal(move.cancel())).reason == "UPGRADE_ENDED"
    assert (await refusal(move.start())).reason == "UPGRADE_NOT_NEEDED"


async def test_one_upgrade_runs_when_two_are_started_at_once(move: Move):
    move.rig.dataset.progress = RUNNING
    outcomes = await asyncio.gather(*(move.start() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, Upgrade) for one in outcomes) == 1
    assert (await refusal(move.start())).reason == "UPGRADE_RUNNING"
    # The base model that an app moves to stays installed.
    request = base_pb.DeleteBaseModelRequest(name="baseModels/better")
    refused = await refusal(move.rig.base_models.DeleteBaseModel(request, metadata=move.rig.key(OPERATOR_KEY)))
    assert refused.reason == "BASE_MODEL_IN_USE"


async def test_a_repeated_start_returns_the_same_upgrade(move: Move):
    move.rig.dataset.progress = RUNNING
    first = await move.start(request_id="once")
    assert (await move.start(request_id="once")).uid == first.uid
    assert (await refusal(move.start(request_id="once", force=True))).reason == "REQUEST_ID_REUSED"


async def test_start_is_refused_when_there_is_nowhere_to_go(move: Move):
    assert (await refusal(move.start(base_model="baseModels/plain"))).reason == "UPGRADE_NOT_NEEDED"
    assert (await refusal(move.start(base_model="baseModels/none"))).reason == "BASE_MODEL_NOT_FOUND"
    assert (await refusal(move.start(base_model="better"))).reason == "RESOURCE_NAME_INVALID"
    assert (await refusal(move.start(key=READ_KEY))).reason == "SCOPE_MISSING"


async def test_another_app_sees_and_stops_nothing(move: Move):
    move.rig.dataset.progress = RUNNING
    await move.start()
    assert (await refusal(move.get(key=OTHER_KEY))).reason == "KEY_NOT_FOR_APP"
    assert (await refusal(move.start(key=OTHER_KEY))).reason == "KEY_NOT_FOR_APP"
    listed = await move.rig.upgrades.ListUpgrades(
        pb.ListUpgradesRequest(parent="apps/other"), metadata=move.rig.key(OTHER_KEY)
    )
    assert not listed.upgrades
    own = await move.rig.upgrades.ListUpgrades(pb.ListUpgradesRequest(parent="apps/trash"), metadata=move.rig.key())
    assert [one.name for one in own.upgrades] == ["apps/trash/upgrades/1"]


async def test_upgrade_fails_when_its_base_model_embeds_nothing(move: Move):
    status = to_status(InternalError("ENGINE_FAILED", "no such instruction"))
    move.rig.dataset.progress = SpaceProgress(inputs=60, failures=2, error=status)
    await move.start()

    async def is_held_up() -> bool:
        return bool((await move.get()).error.message)

    await until(is_held_up)
    move.rig.dataset.progress = SpaceProgress(inputs=60, failures=8, error=status)
    assert "better cannot embed anything here" in (await move.until_state("FAILED")).message
    await move.assert_nothing_changed()


async def test_upgrade_fails_when_too_many_inputs_would_be_lost(move: Move):
    move.rig.dataset.progress = SpaceProgress(inputs=60, embedded=50, failed=10, complete=True)
    await move.start()
    assert "better cannot embed 10 of 60 inputs" in (await move.until_state("FAILED")).message
    await move.assert_nothing_changed()


async def test_an_app_without_models_is_switched(make_rig, tmp_path: Path):
    async with make_rig(**QUICK) as rig:
        move = Move(rig, BaseModel())
        await move.space()
        better = await import_pack(rig, files_of(variant(tmp_path / "better", id="better", rank=PLAIN.rank + 10)))
        await move.start()
        assert (await move.until_state("DONE")).message == "your pictures were moved to better"
        assert await move.space() == better.space


async def test_an_upgrade_ends_when_dataset_was_away_at_the_switch(move: Move):
    await move.start()
    job = await move.candidate()
    await move.rig.dataset_peer.stop()
    await move.rig.complete(job)
    # What was decided holds, though not everybody has been told.
    await move.until_state("SWITCHING")
    assert await move.answering() == (2, move.better.space)
    assert (await refusal(move.cancel())).reason == "UPGRADE_ENDED"
    await move.rig.dataset_peer.start()
    await move.until_state("DONE")
    assert move.rig.dataset.wanted[TRASH] == [move.better.space]


async def test_an_app_moves_back_when_that_is_asked_for(move: Move):
    await move.start()
    await move.train_candidate()
    await move.until_state("DONE")
    assert move.rig.dataset.keeps_vectors
    await move.start(base_model="baseModels/plain", force=True)
    await move.train_candidate(accuracy=0.9, number=3)
    await move.until_state("DONE", 2)
    assert await move.answering() == (3, SPACE)
    assert await move.space() == SPACE


async def test_one_candidate_is_trained_when_two_registries_run(make_rig, move: Move):
    async with make_rig(**QUICK) as second:
        second.dataset.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
        await move.start()
        await move.train_candidate()
        await move.until_state("DONE")
        assert [one.number for one in await move.versions()] == [2, 1]


async def test_watch_shows_every_state_and_ends_with_a_summary(move: Move):
    await move.start()
    request = pb.WatchUpgradeRequest(name="apps/trash/upgrades/1")
    stream = move.rig.upgrades.WatchUpgrade(request, metadata=move.rig.key())
    states, last, training = set(), None, None
    async for last in stream:
        states.add(last.item.state)
        # Not before it is seen: a candidate is trained in less time than a look may take.
        if last.item.state == UpgradeState.UPGRADE_STATE_TRAINING and training is None:
            training = asyncio.create_task(move.train_candidate())
    assert training is not None
    assert last is not None
    await training
    assert last.summary.upgrade.state == UpgradeState.UPGRADE_STATE_DONE
    assert {UpgradeState.UPGRADE_STATE_TRAINING, UpgradeState.UPGRADE_STATE_DONE} <= states


async def test_nothing_is_left_of_upgrades_when_their_app_is_deleted(move: Move, nats_url: str):
    move.rig.dataset.progress = RUNNING
    await move.start()
    async with await connect(nats_url, wait_seconds=10) as bus:
        await bus.publish(Event(app_id=TRASH, app_deleted=AppDeleted(app_uid="uid-trash")))

    async def are_gone() -> bool:
        return not await move.rig.sql("SELECT FROM registry.upgrades")

    await until(are_gone)
    assert not await move.rig.sql("SELECT FROM registry.model_upgrades")
