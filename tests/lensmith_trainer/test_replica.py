"""The replica on disk: right, or noticed to be wrong and made anew."""

import asyncio
import os
import sqlite3
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from lensmith_api.internal.v1.training_data_service_pb2 import (
    CompleteInputs,
    StreamTrainingDataResponse,
    TrainingInput,
    TrainingLabel,
    TrainingLabels,
)
from lensmith_api.internal.v1.training_data_service_pb2_grpc import TrainingDataServiceStub
from lensmith_trainer.metrics import Metrics
from lensmith_trainer.replica import Replica, ReplicaDamagedError
from lensmith_trainer.replicas import Replicas
from tests.polling import until


def _input(uid: str, **fields: object) -> TrainingInput:
    values = {
        "sha256": b"\1" * 32,
        "vector": np.arange(4, dtype="<f2").tobytes(),
        "labels": [TrainingLabel(concept="glass", positive=True)],
        **fields,
    }
    return TrainingInput(input_uid=uid, **values)


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path / "replica.sqlite", 7, "space")


def _write(replica: Replica, *inputs: TrainingInput, cursor: str = "1") -> None:
    with replica.update(replica.hold()) as update:
        update.apply(StreamTrainingDataResponse(inputs=inputs))
        update.finish(cursor)


def test_inputs_come_back_in_order_of_uid(replica: Replica):
    number = TrainingLabel(concept="weight", number=2.5)
    labels = [TrainingLabel(concept="glass", positive=False), number]
    _write(replica, _input("b"), _input("a", labels=labels), cursor="17")
    taken = replica.hold().take(["glass"])
    assert [row.uid for row in taken.rows] == ["a", "b"]
    assert taken.rows[0].labels == {"glass": False, "weight": 2.5}
    assert taken.rows[0].sha256 == "01" * 32
    assert taken.features[1].tolist() == [0, 1, 2, 3]
    assert replica.cursor() == replica.hold().cursor == "17"
    assert len(replica.hold().take(["metal"])) == 0


@pytest.mark.parametrize("change", [{"deleted": True}, {"test": True}, {"vector": b""}, {"labels": []}])
def test_input_is_forgotten_when_it_can_take_part_no_more(replica: Replica, change: dict[str, object]):
    _write(replica, _input("a"), _input("b"))
    _write(replica, _input("a", **change))
    assert [row.uid for row in replica.hold().take(["glass"]).rows] == ["b"]


def test_applying_twice_is_the_same_as_once(replica: Replica):
    for _ in range(2):
        _write(replica, _input("a"), _input("b"))
    assert len(replica.hold().take(["glass"])) == 2


def test_what_is_held_is_what_is_written_down_when_changes_come_in_any_order(replica: Replica):
    random = np.random.RandomState(0)
    holding = replica.hold()
    for step in range(60):
        inputs = []
        for number in random.permutation(400)[:25]:
            vector = random.randn(8).astype("<f2").tobytes()
            gone = {"deleted": True} if random.rand() < 0.3 else {"vector": vector}
            inputs.append(_input(f"input-{number:03d}", **gone))
        with replica.update(holding) as update:
            update.apply(StreamTrainingDataResponse(inputs=inputs[:20]))
            update.apply(StreamTrainingDataResponse(inputs=inputs[20:]))
            update.finish(str(step))
    held, written = holding.take(["glass"]), replica.hold().take(["glass"])
    assert held.rows == written.rows
    assert np.array_equal(held.features, written.features)


def _side_by_side(**fields: object) -> StreamTrainingDataResponse:
    sets = [
        TrainingLabels(labels=[TrainingLabel(concept="glass", positive=True)]),
        TrainingLabels(labels=[TrainingLabel(concept="glass", number=1.0)]),
    ]
    values = {
        "input_uids": ["a", "b", "c"],
        "sha256s": b"".join(bytes([number]) * 32 for number in range(3)),
        "tests": [1],
        "vectors": np.arange(12, dtype="<f2").tobytes(),
        "label_sets": sets,
        "labels": [0, 1, 0],
        **fields,
    }
    return StreamTrainingDataResponse(complete=CompleteInputs(**values))


def test_inputs_are_held_alike_when_they_come_side_by_side_or_one_by_one(replica: Replica, tmp_path: Path):
    number = [TrainingLabel(concept="glass", number=1.0)]
    vectors = np.arange(12, dtype="<f2").reshape(3, 4)
    changed = [{}, {"test": True, "labels": number}, {}]
    alone = Replica(tmp_path / "alone.sqlite", 7, "space")
    inputs = [
        _input(uid, sha256=bytes([place]) * 32, vector=vectors[place].tobytes(), **changed[place])
        for place, uid in enumerate("abc")
    ]
    _write(alone, *inputs)
    with replica.update(replica.hold()) as update:
        assert update.apply(_side_by_side()) == 3
        update.finish("1")
    one, other = (each.hold().take(["glass"], tests=True) for each in (alone, replica))
    assert one.rows == other.rows
    assert [type(row.labels["glass"]) for row in other.rows] == [bool, float, bool]
    assert np.array_equal(one.features, other.features)


@pytest.mark.parametrize(
    "wrong",
    [{"sha256s": b"\1" * 32}, {"vectors": b"\1" * 13}, {"vectors": b""}, {"labels": [0]}, {"labels": [0, 1, 2]}],
)
def test_a_message_is_refused_when_it_says_less_of_some_inputs(replica: Replica, wrong: dict[str, object]):
    with replica.update(replica.hold()) as update, pytest.raises(ValueError, match="side by side"):
        update.apply(_side_by_side(**wrong))


def test_damage_is_noticed_when_a_row_was_changed(replica: Replica, tmp_path: Path):
    _write(replica, _input("a"))
    with sqlite3.connect(tmp_path / "replica.sqlite") as database:
        database.execute("UPDATE inputs SET test = 1")
    database.close()
    with pytest.raises(ReplicaDamagedError):
        replica.hold()


@pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
def test_damage_is_noticed_when_vectors_are_not_those_that_were_written(
    replica: Replica, tmp_path: Path, content: bytes
):
    _write(replica, _input("a"))
    (tmp_path / "replica.vectors").write_bytes(content)
    with pytest.raises(ReplicaDamagedError):
        replica.hold()


def test_nothing_is_changed_when_an_update_is_not_finished(replica: Replica):
    _write(replica, _input("a"), _input("b"))
    with replica.update(replica.hold()) as update:
        other = np.ones(4, dtype="<f2").tobytes()
        inputs = [_input("a", vector=other), _input("b", deleted=True), _input("c", vector=other)]
        update.apply(StreamTrainingDataResponse(inputs=inputs))
    taken = replica.hold().take(["glass"])
    assert [row.uid for row in taken.rows] == ["a", "b"]
    assert taken.features.tolist() == [[0, 1, 2, 3]] * 2


def test_places_are_used_again_when_inputs_are_gone(replica: Replica):
    for step in range(8):
        new = [_input(f"input-{step}-{index}") for index in range(200)]
        _write(replica, *new, *(_input(f"input-{step - 1}-{index}", deleted=True) for index in range(200)))
    assert replica.hold().nbytes == 1024 * 8


def _generation(step: int) -> list[TrainingInput]:
    """Two hundred inputs whose vectors tell which they are, instead of those of the step before."""
    vector = np.full(4, step % 1000, "<f2").tobytes()
    gone = [_input(f"{step - 1}-{index}", deleted=True) for index in range(200)]
    return [*(_input(f"{step}-{index}", vector=vector) for index in range(200)), *gone]


def test_vectors_are_those_of_their_inputs_when_places_change_hands_while_they_are_read(replica: Replica):
    _write(replica, *_generation(0))
    before = replica.hold()
    for step in range(1, 5):
        _write(replica, *_generation(step))
    # Whoever holds and takes later finds other vectors in the places that it knows of.
    assert before.take(["glass"]).features.max() > 0
    done = threading.Event()

    def go_on() -> None:
        for later in range(5, 65):
            _write(replica, *_generation(later))
        done.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    reads = 0
    while not done.is_set() or reads < 3:
        try:
            taken = replica.read(["glass"])
        except ReplicaDamagedError:
            continue  # it was written faster than it was read, and that was told
        steps = [float(row.uid.partition("-")[0]) for row in taken.rows]
        assert len(steps) == 200
        assert taken.features[:, 0].tolist() == steps
        reads += 1
    writer.join()


def test_reading_makes_no_replica_when_there_is_none(replica: Replica, tmp_path: Path):
    with pytest.raises(ReplicaDamagedError):
        replica.read(["glass"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["head", "middle", "cut", "text"])
def test_damage_is_noticed_when_the_file_was_overwritten(replica: Replica, tmp_path: Path, where: str):
    _write(replica, *(_input(f"input-{index:050}") for index in range(200)))
    path = tmp_path / "replica.sqlite"
    content = bytearray(path.read_bytes())
    if where == "head":
        content[:100] = b"\0" * 100
    elif where == "middle":
        content[len(content) // 2 : len(content) // 2 + 4096] = os.urandom(4096)
    elif where == "cut":
        del content[len(content) // 2 :]
    else:
        content = bytearray(b"this is no database at all " * 100)
    path.write_bytes(content)
    with pytest.raises(ReplicaDamagedError):
        replica.hold()
    replica.discard()
    assert len(replica.hold().take(["glass"])) == 0
    assert replica.cursor() == ""


@pytest.mark.parametrize(("app_id", "space"), [(8, "space"), (7, "other")])
def test_replica_is_refused_when_it_is_of_something_else(replica: Replica, tmp_path: Path, app_id: int, space: str):
    _write(replica, _input("a"))
    with pytest.raises(ReplicaDamagedError):
        Replica(tmp_path / "replica.sqlite", app_id, space).cursor()


async def test_replica_is_made_anew_when_it_was_damaged(farm, tmp_path: Path):
    async with farm.trainer():
        version = await farm.rig.queued()
        await farm.rig.until_state(version.name, "READY")
    (file,) = (tmp_path / "cache").glob("*.sqlite")
    await asyncio.to_thread(file.write_bytes, b"nonsense" * 1000)
    async with farm.trainer():
        version = await farm.rig.train("sorter")
        ready = await farm.rig.until_state(version.name, "READY")
    assert ready.input_count == 60
    assert farm.rig.dataset.calls["inputs"] == 120


async def test_replica_is_made_anew_when_dataset_knows_its_cursor_no_more(farm, tmp_path: Path):
    async with farm.trainer():
        version = await farm.rig.queued()
        await farm.rig.until_state(version.name, "READY")
        (file,) = (tmp_path / "cache").glob("*.sqlite")
        with sqlite3.connect(file) as database:
            database.execute("UPDATE meta SET value = 'of another life' WHERE name = 'cursor'")
        database.close()
        version = await farm.rig.train("sorter")
        assert (await farm.rig.until_state(version.name, "READY")).input_count == 60


async def test_replicas_go_when_they_take_too_much_room(farm, tmp_path: Path):
    async with farm.trainer(cache_bytes=0):
        version = await farm.rig.queued()
        await farm.rig.until_state(version.name, "READY")
        # Not out of sight only: the system keeps the bytes of a file that somebody still maps.
        await until(lambda: asyncio.to_thread(_none_left, tmp_path / "cache"))


def _none_left(cache: Path) -> bool:
    mapped = Path("/proc/self/maps")
    return not [*cache.glob("*.sqlite"), *cache.glob("*.vectors")] and (
        not mapped.exists() or str(cache) not in mapped.read_text()
    )


async def test_replicas_go_when_nobody_has_asked_for_them_for_a_week(farm, tmp_path: Path):
    cache = tmp_path / "cache"
    async with farm.trainer():
        version = await farm.rig.queued()
        await farm.rig.until_state(version.name, "READY")
    (used,) = cache.glob("*.sqlite")
    for name in ("8-0123456789abcdef.sqlite", "8-0123456789abcdef.vectors"):
        (cache / name).write_bytes(b"of an app that is gone")
        os.utime(cache / name, (0, 0))
    async with farm.trainer():
        pass
    assert [path.name for path in cache.glob("*.sqlite")] == [used.name]
    assert not (cache / "8-0123456789abcdef.vectors").exists()


async def test_room_is_counted_when_files_come_and_go(tmp_path: Path):
    stop = threading.Event()
    (tmp_path / "8-other.sqlite").touch()

    def churn() -> None:
        # As a database is opened and closed by another trainer.
        log = tmp_path / "8-other.sqlite-wal"
        while not stop.is_set():
            log.touch()
            log.unlink()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        async with grpc.aio.insecure_channel("unix:/nobody/listens") as channel:
            dataset = TrainingDataServiceStub(channel)
            replicas = Replicas(tmp_path, 1 << 30, 1 << 30, dataset, 60.0, Metrics(CollectorRegistry()))
            for _ in range(2000):
                await replicas.prepare()
    finally:
        stop.set()
        churning.join()
