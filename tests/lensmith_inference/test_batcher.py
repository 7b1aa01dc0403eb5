"""Micro-batching, with an engine whose answers tell which picture they belong to."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client import CollectorRegistry

from lensmith_inference.batcher import Batcher, Seen
from lensmith_inference.metrics import Metrics
from lensmith_platform.errors import DependencyUnavailableError, InternalError
from lensmith_vision.card import Card
from lensmith_vision.engine import Outputs

Pixels = npt.NDArray[np.uint8]


class EchoEngine:
    """An engine whose feature is the picture's first pixel; it can be held up."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[tuple[str, int, bool]] = []

    def load(self, space_id: str, folder: Path) -> Card:
        raise NotImplementedError

    def unload(self, space_id: str) -> None:
        raise NotImplementedError

    def loaded(self) -> tuple[str, ...]:
        return ()

    def run(self, space_id: str, batch: Pixels, *, feature_map: bool = False, logits: bool = False) -> Outputs:
        self.batches.append((space_id, len(batch), logits))
        self.entered.release()
        self.gate.wait()
        if space_id == "broken":
            raise RuntimeError("no such luck")
        features = batch[:, 0, 0, :1].astype(np.float32)
        return Outputs(features[:-1] if space_id == "short" else features, None, features * 2 if logits else None)


def picture(value: int) -> Pixels:
    return np.full((2, 2, 3), value, np.uint8)


def make(engine: EchoEngine, *, threads: int = 1, max_batch: int = 4, wait: float = 0.0) -> Batcher:
    return Batcher(
        engine, threads=threads, max_batch=max_batch, wait_seconds=wait, metrics=Metrics(CollectorRegistry())
    )


async def entered(engine: EchoEngine) -> None:
    assert await asyncio.to_thread(engine.entered.acquire, True, 10)


async def test_every_picture_gets_its_own_answer_when_hundreds_share_batches() -> None:
    engine = EchoEngine()
    batcher = make(engine, threads=3, max_batch=7, wait=0.001)

    async def request(first: int) -> None:
        with batcher.expecting("space", 5) as expectation:
            seen = await asyncio.gather(
                *(expectation.submit(picture((first + i) % 256), logits=bool(i % 2)) for i in range(5))
            )
        assert [int(one.features[0]) for one in seen] == [(first + i) % 256 for i in range(5)]

    await asyncio.gather(*(request(first) for first in range(200)))
    await batcher.close()
    assert sum(size for _, size, _ in engine.batches) == 1000
    assert max(size for _, size, _ in engine.batches) <= 7


async def test_pictures_join_one_batch_when_the_engine_is_busy() -> None:
    engine = EchoEngine()
    batcher = make(engine)
    engine.gate.clear()
    first = asyncio.create_task(batcher.submit("space", picture(1)))
    await entered(engine)
    others = [asyncio.create_task(batcher.submit("space", picture(i))) for i in range(2, 8)]
    await asyncio.sleep(0)
    engine.gate.set()
    seen = await asyncio.gather(first, *others)
    assert [int(one.features[0]) for one in seen] == list(range(1, 8))
    assert [size for _, size, _ in engine.batches] == [1, 4, 2]
    await batcher.close()


async def test_batch_waits_when_more_pictures_are_on_their_way() -> None:
    engine = EchoEngine()
    batcher = make(engine, wait=60.0)
    with batcher.expecting("space", 3) as expectation:
        first = asyncio.create_task(expectation.submit(picture(1), logits=False))
        await asyncio.sleep(0)
        assert engine.batches == []
        expectation.gone()
        second = asyncio.create_task(expectation.submit(picture(2), logits=False))
        await asyncio.gather(first, second)
    assert [size for _, size, _ in engine.batches] == [2]
    await batcher.close()


async def test_full_batch_goes_at_once_when_more_pictures_are_on_their_way() -> None:
    engine = EchoEngine()
    batcher = make(engine, wait=60.0)
    with batcher.expecting("space", 100) as expectation:
        await asyncio.gather(*(expectation.submit(picture(i), logits=False) for i in range(4)))
    assert [size for _, size, _ in engine.batches] == [4]
    await batcher.close()


async def test_batch_goes_when_its_oldest_picture_waited_long_enough() -> None:
    engine = EchoEngine()
    batcher = make(engine, wait=0.005)
    with batcher.expecting("space", 2) as expectation:
        seen = await expectation.submit(picture(9), logits=False)
    assert int(seen.features[0]) == 9
    await batcher.close()


async def test_work_is_spread_when_several_threads_are_free() -> None:
    engine = EchoEngine()
    batcher = make(engine, threads=2, max_batch=8, wait=60.0)
    with batcher.expecting("space", 8) as expectation:
        await asyncio.gather(*(expectation.submit(picture(i), logits=False) for i in range(8)))
    assert [size for _, size, _ in engine.batches] == [4, 4]
    await batcher.close()


async def test_picture_is_dropped_when_its_request_is_cancelled() -> None:
    engine = EchoEngine()
    batcher = make(engine)
    engine.gate.clear()
    running = asyncio.create_task(batcher.submit("space", picture(1)))
    await entered(engine)
    gone = [asyncio.create_task(batcher.submit("space", picture(2))) for _ in range(3)]
    kept = asyncio.create_task(batcher.submit("space", picture(3)))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    running.cancel()
    await asyncio.gather(*gone, running, return_exceptions=True)
    engine.gate.set()
    assert int((await kept).features[0]) == 3
    assert [size for _, size, _ in engine.batches] == [1, 1]
    await batcher.close()


async def test_spaces_never_share_a_batch_when_both_wait() -> None:
    engine = EchoEngine()
    batcher = make(engine, max_batch=8)
    engine.gate.clear()
    first = asyncio.create_task(batcher.submit("one", picture(0)))
    await entered(engine)
    tasks = [asyncio.create_task(batcher.submit(space, picture(i))) for i in (1, 2) for space in ("one", "two")]
    await asyncio.sleep(0)
    engine.gate.set()
    await asyncio.gather(first, *tasks)
    assert engine.batches == [("one", 1, False), ("one", 2, False), ("two", 2, False)]
    await batcher.close()


@pytest.mark.parametrize("space", ["broken", "short"])
async def test_only_its_batch_fails_when_the_engine_fails(space: str) -> None:
    batcher = make(EchoEngine())
    with pytest.raises(InternalError) as raised:
        await batcher.submit(space, picture(1))
    assert raised.value.reason == "ENGINE_FAILED"
    assert int((await batcher.submit("space", picture(5))).features[0]) == 5
    await batcher.close()


async def test_logits_are_computed_only_when_somebody_wants_them() -> None:
    engine = EchoEngine()
    batcher = make(engine)
    seen: Seen = await batcher.submit("space", picture(4), logits=True)
    assert seen.logits is not None
    assert int(seen.logits[0]) == 8
    assert (await batcher.submit("space", picture(4))).logits is None
    await batcher.close()


async def test_running_batch_ends_and_waiting_pictures_are_refused_when_closing() -> None:
    engine = EchoEngine()
    batcher = make(engine)
    engine.gate.clear()
    running = asyncio.create_task(batcher.submit("space", picture(1)))
    await entered(engine)
    waiting = asyncio.create_task(batcher.submit("space", picture(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    engine.gate.set()
    await closing
    assert int((await running).features[0]) == 1
    with pytest.raises(DependencyUnavailableError):
        await waiting
    with pytest.raises(DependencyUnavailableError):
        await batcher.submit("space", picture(3))
