"""Micro-batching: pictures of concurrent requests share passes of a base network.

Everything here runs on the event loop; only the passes themselves run in threads. Each picture has a future of its own,
made when it is handed in, so an answer cannot come to another picture whatever the batches look like.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt
import structlog

from lensmith_inference.metrics import Metrics, label_of
from lensmith_platform.errors import DependencyUnavailableError, InternalError
from lensmith_vision.engine import Engine, Outputs

__all__ = ["Batcher", "Expectation", "Seen"]

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a base network made of one picture.

    Attributes:
        space: The space of the features: whoever scores them says so again.
        features: [d] float32.
        logits: [k] float32 when they were asked for and the pack has them.
        feature_map: [d, h, w] float32 when it was asked for and the pack has one.
    """

    space: str
    features: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None
    feature_map: npt.NDArray[np.float32] | None = None


@dataclass(eq=False)
class _Item:
    pixels: npt.NDArray[np.uint8]
    logits: bool
    feature_map: bool
    future: "asyncio.Future[Seen]"
    arrived: float


@dataclass(eq=False)
class _Queue:
    items: deque[_Item] = field(default_factory=deque)
    expected: int = 0


class Expectation:
    """Pictures of one request that are still on their way to a batch."""

    def __init__(self, batcher: "Batcher", space: str, count: int) -> None:
        self._batcher = batcher
        self._space = space
        self._left = 0
        self._change(count)

    async def submit(self, pixels: npt.NDArray[np.uint8], *, logits: bool, feature_map: bool = False) -> Seen:
        """Hand in one of the pictures and wait for what the base network makes of it.

        Args:
            pixels: [H, W, 3], resized as the space wants it.
            logits: Also give the logits.
            feature_map: Also give the last feature map.

        Raises:
            InternalError: The pass failed.
            DependencyUnavailableError: The service is stopping.
        """
        self._left -= 1
        return await self._batcher.submit(self._space, pixels, logits=logits, feature_map=feature_map, expected=True)

    def gone(self) -> None:
        """Say that one of the pictures will not come."""
        self._change(-1)

    def end(self) -> None:
        """Say that no more of the pictures will come."""
        self._change(-self._left)

    def _change(self, by: int) -> None:
        self._left += by
        self._batcher.expect(self._space, by)


class Batcher:
    """Gathers pictures by space and runs them in batches.

    A batch goes when it is full, when nothing more is on its way to it, or when its oldest picture has waited long
    enough, and only when one of the engine's threads is free: until then more pictures may join.

    Args:
        engine: Runs the batches.
        threads: Batches at once.
        max_batch: Most pictures in a batch.
        wait_seconds: How long a picture waits for others that are on their way.
        metrics: Where sizes and times are counted.
    """

    def __init__(self, engine: Engine, *, threads: int, max_batch: int, wait_seconds: float, metrics: Metrics) -> None:
        self._engine = engine
        self._free = threads
        self._threads = threads
        self._max_batch = max_batch
        self._wait = wait_seconds
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._queues: dict[str, _Queue] = {}
        self._running: set[asyncio.Future[Outputs]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @contextmanager
    def expecting(self, space: str, count: int) -> Iterator[Expectation]:
        """Announce pictures that are being made ready, so that the first of them waits a moment for the others."""
        expectation = Expectation(self, space, count)
        try:
            yield expectation
        finally:
            expectation.end()

    def expect(self, space: str, by: int) -> None:
        """Change the number of pictures on their way to a space."""
        if by:
            self._queues.setdefault(space, _Queue()).expected += by
            self._pump()

    async def submit(
        self,
        space: str,
        pixels: npt.NDArray[np.uint8],
        *,
        logits: bool = False,
        feature_map: bool = False,
        expected: bool = False,
    ) -> Seen:
        """Hand in one picture and wait for what the base network makes of it; see :meth:`Expectation.submit`."""
        if self._closed:
            raise DependencyUnavailableError("INFERENCE_STOPPING", "this server is stopping; ask another")
        queue = self._queues.setdefault(space, _Queue())
        item = _Item(pixels, logits, feature_map, asyncio.get_running_loop().create_future(), perf_counter())
        # Whoever asked may be cancelled after the answer came and before reading it: then a failure is nobody's.
        item.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        queue.items.append(item)
        if expected:
            queue.expected -= 1
        self._pump()
        return await item.future

    async def close(self) -> None:
        """Refuse what waits, let the running batches end, and stop the threads."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for queue in self._queues.values():
            for item in queue.items:
                if not item.future.done():
                    item.future.set_exception(
                        DependencyUnavailableError("INFERENCE_STOPPING", "this server is stopping; ask another")
                    )
            queue.items.clear()
        if self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown()

    def _pump(self) -> None:
        """Start every batch that may go now, and come back when the next one is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = perf_counter()
        while self._free:
            space = self._next_ripe(now)
            if space is None:
                break
            self._start(space, now)
        if not self._free or self._closed:
            return
        waiting = [queue.items[0].arrived for queue in self._queues.values() if queue.items]
        if waiting:
            due = max(0.0, min(waiting) + self._wait - now)
            self._timer = asyncio.get_running_loop().call_later(due, self._pump)

    def _next_ripe(self, now: float) -> str | None:
        """Find the space whose oldest picture waited longest among those with a batch ready to go."""
        chosen: str | None = None
        oldest = now
        for space, queue in list(self._queues.items()):
            while queue.items and queue.items[0].future.done():
                queue.items.popleft()  # whoever asked has gone
            if not queue.items:
                if queue.expected <= 0:
                    del self._queues[space]
                continue
            arrived = queue.items[0].arrived
            ripe = len(queue.items) >= self._max_batch or queue.expected <= 0 or now - arrived >= self._wait
            if ripe and (chosen is None or arrived < oldest):
                chosen, oldest = space, arrived
        return chosen

    def _start(self, space: str, now: float) -> None:
        queue = self._queues[space]
        # What waits is spread over the free threads: two halves side by side are sooner done than one whole.
        size = min(self._max_batch, -(-len(queue.items) // self._free))
        batch: list[_Item] = []
        while queue.items and len(batch) < size:
            item = queue.items.popleft()
            if not item.future.done():
                batch.append(item)
                self._metrics.queue_seconds.observe(now - item.arrived)
        if not batch:
            return
        self._free -= 1
        self._metrics.batch_size.labels(label_of(space)).observe(len(batch))
        running = asyncio.get_running_loop().run_in_executor(self._pool, self._run, space, batch)
        self._running.add(running)
        running.add_done_callback(lambda done: self._finish(space, batch, done))

    def _run(self, space: str, batch: Sequence[_Item]) -> Outputs:
        start = perf_counter()
        pixels = batch[0].pixels[np.newaxis] if len(batch) == 1 else np.stack([item.pixels for item in batch])
        outputs = self._engine.run(
            space,
            pixels,
            logits=any(item.logits for item in batch),
            feature_map=any(item.feature_map for item in batch),
        )
        given = (outputs.features, outputs.logits, outputs.feature_map)
        if any(values is not None and len(values) != len(batch) for values in given):
            raise RuntimeError(f"the engine gave {len(outputs.features)} answers for {len(batch)} pictures")
        self._metrics.engine_seconds.labels(label_of(space)).observe(perf_counter() - start)
        return outputs

    def _finish(self, space: str, batch: Sequence[_Item], done: "asyncio.Future[Outputs]") -> None:
        self._free += 1
        self._running.discard(done)
        error = done.exception() if not done.cancelled() else None
        if error is not None:
            _LOG.error("engine_failed", space=space, images=len(batch), exc_info=error)
        for index, item in enumerate(batch):
            if item.future.done():
                continue  # cancelled while its batch ran
            if done.cancelled() or error is not None:
                failure = InternalError("ENGINE_FAILED", "the base network could not be run on the picture")
                failure.__cause__ = error
                item.future.set_exception(failure)
            else:
                item.future.set_result(_row(space, done.result(), index, item))
        if not self._closed:
            self._pump()


def _row(space: str, outputs: Outputs, index: int, item: _Item) -> Seen:
    """What one picture gets of a batch. Maps are large, so that they do not go to neighbours who did not ask."""
    logits = None if outputs.logits is None else outputs.logits[index]
    given = outputs.feature_map if item.feature_map else None
    return Seen(space, outputs.features[index], logits, None if given is None else given[index].copy())
