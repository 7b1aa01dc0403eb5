"""What a trainer finds to fix in the data of a version, and what is done about it."""

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from lensmith_api.internal.v1.suggestion_job_service_pb2 import SuggestionJob
from lensmith_api.v1 import suggestion_service_pb2 as pb
from lensmith_api.v1.model_pb2 import Model, ModelType
from lensmith_api.v1.model_version_pb2 import ModelVersion
from lensmith_api.v1.suggestion_pb2 import SuggestionAction, SuggestionKind, SuggestionState
from lensmith_api.v1.suggestion_service_pb2_grpc import SuggestionServiceStub
from lensmith_trainer.holding import TrainingRows
from lensmith_trainer.suggestions import suggestions_of
from lensmith_vision import out_of_fold
from lensmith_vision.heads import HeadType
from tests.lensmith_registry.peers import labels_of
from tests.lensmith_registry.rig import DIM, SCOPES, TRASH, Rig, refusal
from tests.lensmith_trainer.conftest import Farm
from tests.polling import until

ALL = "key-that-may-see-pictures"
WRONG = SuggestionKind.SUGGESTION_KIND_WRONG_LABEL
FLIPPED = [f"glass-0-{index:04d}" for index in (3, 11, 20)]


def _labels(rig: Rig, uid: str) -> dict[str, bool | float]:
    return labels_of(rig.dataset.inputs[TRASH][uid][1].labels)


async def _look(rig: Rig, version: ModelVersion, **wanted: object) -> pb.ListSuggestionsResponse:
    """What is suggested, once that is known."""
    request = pb.ListSuggestionsRequest(parent=version.name, page_size=1000, **wanted)

    async def known() -> pb.ListSuggestionsResponse | None:
        answer = await SuggestionServiceStub(rig.channel).ListSuggestions(request, metadata=rig.key(ALL))
        return None if answer.pending else answer

    # It is the last to be given a processor; and what a killed trainer had in work comes again after 20 seconds.
    return await until(known, seconds=120)


async def _accept(rig: Rig, version: ModelVersion, **asked: object) -> pb.AcceptSuggestionsResponse:
    request = pb.AcceptSuggestionsRequest(parent=version.name, **asked)
    return await SuggestionServiceStub(rig.channel).AcceptSuggestions(request, metadata=rig.key(ALL))


def _flip(rig: Rig, uids: Sequence[str], label: str) -> None:
    for uid in uids:
        item = rig.dataset.inputs[TRASH][uid][1]
        rig.dataset.add(TRASH, uid, np.frombuffer(item.vector, "<f2"), {label: True}, sha256=item.sha256)


async def _trained(farm: Farm) -> ModelVersion:
    """A version of two clear classes, with three labels turned, a drawing, and pictures nobody has labelled."""
    rig, data = farm.rig, farm.rig.dataset
    rig.auth.add_key(ALL, "trash", [*SCOPES, "Inputs:Get", "Annotations:Add"])
    data.add_classes(TRASH, DIM, {"glass": 30, "metal": 30})
    _flip(rig, FLIPPED, "metal")
    random = np.random.RandomState(9)
    for index in range(4):
        data.add(TRASH, f"unlabelled-{index}", random.randn(DIM).astype(np.float16), {})
    await rig.create("sorter")
    version = await rig.train("sorter")
    return await rig.until_state(version.name, "READY")


async def test_turned_labels_are_found_and_made_right_in_one_call(farm: Farm):
    async with farm.trainer():
        version = await _trained(farm)
        found = await _look(farm.rig, version)
        wrong = [one for one in found.suggestions if one.kind == WRONG]

        # The peer names inputs as dataset would.
        assert {one.input for one in wrong} == {f"apps/trash/inputs/own-{uid}" for uid in FLIPPED}
        assert all(one.concept == "metal" and one.other_concept == "glass" and one.score >= 0.5 for one in wrong)
        counts = {count.kind: (count.open, count.total) for count in found.counts}
        assert counts[WRONG] == (3, 3)
        assert counts[SuggestionKind.SUGGESTION_KIND_LABEL_NEXT][0] > 0

        answer = await _accept(farm.rig, version, all=pb.AllSuggestions(kind=WRONG))
        assert (answer.accepted_count, answer.skipped_count) == (3, 0)
        assert all(_labels(farm.rig, uid) == {"glass": True} for uid in FLIPPED)
        assert farm.rig.dataset.actors == {"keys/key-of-trash"}

        # Again by name: nothing is left to do, and that is fine.
        changes = farm.rig.dataset.changes
        again = await _accept(farm.rig, version, suggestions=[one.name for one in wrong])
        assert again.accepted_count == 3
        assert farm.rig.dataset.changes == changes
        second = await farm.rig.train("sorter")
        second = await farm.rig.until_state(second.name, "READY")
        assert WRONG not in {one.kind for one in (await _look(farm.rig, second)).suggestions}


async def test_labels_that_changed_meanwhile_are_left_alone_and_dismissed_ones_stay_away(farm: Farm):
    async with farm.trainer():
        version = await _trained(farm)
        wrong = (await _look(farm.rig, version, kind=WRONG)).suggestions
        first, second, third = sorted(wrong, key=lambda one: one.input)
        farm.rig.dataset.add_classes(TRASH, DIM, {"paper": 2}, seed=3)
        _flip(farm.rig, [FLIPPED[0]], "paper")

        done = await _accept(farm.rig, version, suggestions=[first.name, second.name])
        assert [result.state for result in done.results] == [
            SuggestionState.SUGGESTION_STATE_STALE,
            SuggestionState.SUGGESTION_STATE_ACCEPTED,
        ]
        assert (done.accepted_count, done.skipped_count) == (1, 1)
        assert "changed" in done.results[0].status.message
        assert _labels(farm.rig, FLIPPED[0]) == {"paper": True}
        dismissed = await _accept(
            farm.rig, version, suggestions=[third.name], action=SuggestionAction.SUGGESTION_ACTION_DISMISS
        )
        assert dismissed.accepted_count == 1
        assert _labels(farm.rig, FLIPPED[2]) == {"metal": True}

        _flip(farm.rig, [FLIPPED[0]], "glass")
        later = await farm.rig.train("sorter")
        later = await farm.rig.until_state(later.name, "READY")
        assert third.input not in {one.input for one in (await _look(farm.rig, later, kind=WRONG)).suggestions}


async def test_suggestions_are_refused_to_keys_that_may_not_see_pictures_or_change_labels(farm: Farm):
    async with farm.trainer():
        version = await _trained(farm)
        stub = SuggestionServiceStub(farm.rig.channel)
        request = pb.ListSuggestionsRequest(parent=version.name)
        assert (await refusal(stub.ListSuggestions(request, metadata=farm.rig.key()))).reason == "SCOPE_MISSING"
        for asked, reason in (
            ({}, "SUGGESTIONS_REQUIRED"),
            ({"suggestions": ["x"]}, "RESOURCE_NAME_INVALID"),
            ({"all": pb.AllSuggestions()}, "FIELD_INVALID"),
        ):
            assert (await refusal(_accept(farm.rig, version, **asked))).reason == reason
        answer = await _accept(farm.rig, version, suggestions=["999"])
        assert answer.skipped_count == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await _accept(farm.rig, ModelVersion(name="apps/trash/models/sorter/versions/99"), suggestions=["1"])


async def _looking(pid: int) -> psutil.Process:
    """The process that looks through the data, started by the trainer with this pid."""

    async def started() -> psutil.Process | None:
        for process in psutil.Process(pid).children():
            try:
                if "lensmith_trainer.spare_work" in process.cmdline():
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    return await until(started, seconds=60)


async def test_suggestions_are_there_once_when_the_process_that_looks_is_killed(farm: Farm):
    async with farm.trainer():
        version = await _trained(farm)
        (await _looking(os.getpid())).kill()
        found = await _look(farm.rig, version, kind=WRONG)
    assert {one.input.split("/")[-1] for one in found.suggestions} == {f"own-{uid}" for uid in FLIPPED}
    assert len(found.suggestions) == len(FLIPPED)


async def test_suggestions_are_there_when_files_are_damaged_that_memory_holds_whole(farm: Farm, tmp_path: Path):
    async with farm.trainer():
        await _look(farm.rig, await _trained(farm))
        received = farm.rig.dataset.calls["inputs"]
        (file,) = (tmp_path / "cache").glob("*.sqlite")
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE inputs SET checksum = checksum + 1")
        version = await farm.rig.train("sorter")
        version = await farm.rig.until_state(version.name, "READY")
        assert farm.rig.dataset.calls["inputs"] == received

        found = await _look(farm.rig, version, kind=WRONG)

        # The files were made anew, once.
        assert farm.rig.dataset.calls["inputs"] == 2 * received
    assert len(found.suggestions) == len(FLIPPED)


async def test_suggestions_are_there_once_when_the_trainer_is_killed_while_it_looks(farm: Farm):
    first = farm.spawn()
    version = await _trained(farm)
    looking = await _looking(first.pid)
    first.kill()
    await asyncio.to_thread(first.wait)
    # Nobody is left to take its answer, so it ends.
    await asyncio.to_thread(looking.wait, 120)
    async with farm.trainer():
        found = await _look(farm.rig, version, kind=WRONG)
    assert len(found.suggestions) == len(FLIPPED)


@pytest.mark.parametrize(
    ("kind", "type_"),
    [("regression", ModelType.MODEL_TYPE_REGRESSION), ("multi_label", ModelType.MODEL_TYPE_MULTI_LABEL)],
)
def test_nothing_is_suggested_when_all_pictures_of_the_version_are_gone(kind: HeadType, type_: ModelType.ValueType):
    number = kind == "regression"
    scores = out_of_fold.OutOfFoldPredictions(
        type=kind,
        method="out_of_fold",
        ids=("a", "b"),
        concepts=("glass",),
        scores=np.asarray([[0.25], [0.75]], np.float32),
        folds=np.asarray([0, 1]),
        groups=np.asarray([0, 1]),
        labels=None if number else np.asarray([[0.0], [1.0]], np.float32),
        targets=np.asarray([0.0, 1.0], np.float32) if number else None,
    )
    job = SuggestionJob(model=Model(type=type_, concepts=["glass"]), out_of_fold=out_of_fold.save(scores))

    assert suggestions_of(job, TrainingRows([], np.empty((0, DIM), np.float16)), []) == []
