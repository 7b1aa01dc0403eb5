"""Fine-tuning one version: its head as for any other, then the whole network in a process of its own, then the better.

A version's folder holds all that a process which was killed had reached; whoever takes the version up again on the same
machine goes on from there, with the very same training data.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from lensmith_api.internal.v1.training_job_service_pb2 import CompleteModelVersionRequest, TrainingJob
from lensmith_trainer.fitting import request_of
from lensmith_trainer.holding import TrainingRows
from lensmith_trainer.kept_rows import keep_rows, kept_bytes, kept_rows
from lensmith_trainer.learning_process import check_start, is_checked, learn
from lensmith_trainer.network_transfer import NetworkTransfer
from lensmith_trainer.progress import FETCHED, FITTED, JobProgress
from lensmith_trainer.scratch import Scratch
from lensmith_trainer.training_set import method_of, options_of, training_set_of
from lensmith_vision.errors import TrainingError
from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.fine_tune.job import RESULT_FOLDER, bytes_of_pixels
from lensmith_vision.fine_tune.judgement import Judgement, judge
from lensmith_vision.fine_tune.layout import Layout, lay_out, read_layout
from lensmith_vision.fine_tune.outcome import PACK_FOLDER, read_result
from lensmith_vision.fine_tune.rival import Rival, rival_of
from lensmith_vision.networks import network_id
from lensmith_vision.pack import load_card, space_of
from lensmith_vision.preflight import Finding, Severity
from lensmith_vision.training import Progress, TrainingSet

__all__ = ["FineTuning"]

_Result = TypeVar("_Result")
_HEAD_DONE = 0.06
_LOOK_SECONDS = 0.2
_GRAPH_COPIES = 60
"""How often a network lies in its folder at most: as packs store it, and in checkpoints of four trainings."""


@dataclass(frozen=True, eq=False)
class _Before:
    """The head that a network has to beat, and what it learnt from."""

    taken: TrainingRows
    data: TrainingSet
    rival: Rival


class FineTuning:
    """Fine-tunes versions.

    Args:
        transfer: What comes from other services, and goes there.
        scratch: Folders to work in.
        threads: Where heads are fitted and pictures decoded; not those that other versions wait for.
        cores: Threads of each process that learns.
        processes: How many learn a network together.
    """

    def __init__(
        self, transfer: NetworkTransfer, scratch: Scratch, threads: Executor, cores: int, processes: int
    ) -> None:
        self._transfer = transfer
        self._scratch = scratch
        self._threads = threads
        self._cores = cores
        self._processes = processes

    async def trained(
        self, job: TrainingJob, progress: JobProgress, fetch: Callable[[], Awaitable[TrainingRows]]
    ) -> CompleteModelVersionRequest:
        """Train a version and return what is to be handed in, once its network is where it belongs.

        Args:
            job: The version.
            progress: Kept up to date.
            fetch: Fetches its training data, where none is kept of an earlier try.

        Raises:
            TrainingError: The data cannot be trained on, or the network cannot learn on.
            PreconditionError: FINE_TUNING_TOO_LARGE.
            LensmithError: Something that another try may cure.
        """
        async with self._scratch.held(job.version_uid) as folder:
            # Named for what it is: its name stands in what people read when it cannot learn.
            start = folder / "base" / job.space.partition(".")[0]
            if not await asyncio.to_thread(is_checked, start):
                await self._transfer.fetch_pack(job.space, start)
                progress.message = "looking whether the base model can learn on"
                await check_start(start)
            before = await self._before(job, folder, progress, fetch)
            laid = await self._laid_out(job, folder, start, before, progress)
            progress.stage, progress.message = "fine_tuning", f"{len(laid.rows)} images are there, learning begins"
            await learn(folder, lambda fraction, message: _learnt(progress, fraction, message), self._processes)
            progress.fraction, progress.stage, progress.message = FITTED, "storing", ""
            judged = await self._in_thread(lambda: _judged(job, folder, laid, before.rival))
            request = await self._in_thread(lambda: _request_of(job, before, laid, judged))
            if judged.kept:
                request.network_space = judged.fitted.head.space
                await self._transfer.put_network(job, folder / RESULT_FOLDER / PACK_FOLDER)
            return request

    async def forget(self, version_uid: str) -> None:
        """Remove what a version that is over left behind."""
        await self._scratch.discard(version_uid)

    async def _before(
        self, job: TrainingJob, folder: Path, progress: JobProgress, fetch: Callable[[], Awaitable[TrainingRows]]
    ) -> _Before:
        """Fit the head, from nothing that earlier versions left, so that it is the same again after a kill."""
        taken = await self._in_thread(lambda: kept_rows(folder))
        if taken is None:
            taken = await fetch()
            fetched = taken
            await self._in_thread(lambda: keep_rows(folder, fetched))
        rows = taken

        def fit() -> _Before:
            data = training_set_of(job.model, job.space, rows)
            options, method = options_of(job.model, job.training, job.seed), method_of(job.training)
            test = np.fromiter((row.test for row in rows.rows), np.bool_, len(rows.rows))
            fitted = fit_and_evaluate(data, test, options, method, tell, progress.stop.is_set)
            return _Before(rows, data, rival_of(data, fitted, options, cancelled=progress.stop.is_set))

        def tell(done: Progress) -> None:
            progress.fraction, progress.stage, progress.message = _HEAD_DONE * done.fraction, done.stage, ""

        return await self._in_thread(fit)

    async def _laid_out(
        self, job: TrainingJob, folder: Path, start: Path, before: _Before, progress: JobProgress
    ) -> Layout:
        """Bring the pictures into the folder, unless they are there."""
        laid = await self._in_thread(lambda: read_layout(folder, before.rival))
        if laid is not None:
            return laid
        ids = before.rival.known.ids
        card = load_card(start)
        room = len(ids) * bytes_of_pixels(card.resize) + _GRAPH_COPIES * card.bytes + kept_bytes(folder)
        await self._scratch.make_room(folder, room)
        progress.stage = "fetching"
        coming = self._transfer.pictures(job.app_id, ids)
        pictures = _pulled(coming, asyncio.get_running_loop(), len(ids), progress)
        laying = asyncio.ensure_future(
            self._in_thread(
                lambda: lay_out(
                    folder,
                    start,
                    before.data,
                    before.rival,
                    pictures,
                    network=network_id(job.version_uid),
                    seed=job.seed,
                    max_epochs=job.training.max_epochs,
                    threads=self._cores,
                )
            )
        )
        try:
            return await asyncio.shield(laying)
        finally:
            # The thread writes into the folder, which must not be let go before; it looks at `stop` all the while.
            if not laying.done():
                progress.stop.set()
                await asyncio.wait({laying})
            await coming.aclose()

    async def _in_thread(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _pulled(
    coming: AsyncIterator[tuple[str, bytes]], loop: asyncio.AbstractEventLoop, count: int, progress: JobProgress
) -> Iterator[tuple[str, bytes]]:
    """Yield what comes, in another thread: it asks the loop for one picture after the other, so few are in memory.

    Raises:
        TrainingError: TRAINING_STOPPED: nobody wants the result any more.
    """

    async def next_one() -> tuple[str, bytes] | None:
        return await anext(coming, None)

    for number in range(count):
        asked = asyncio.run_coroutine_threadsafe(next_one(), loop)
        while not asked.done() and not progress.stop.is_set():
            wait({asked}, _LOOK_SECONDS)
        if progress.stop.is_set():
            asked.cancel()
            raise TrainingError("TRAINING_STOPPED", "the training was stopped")
        picture = asked.result()
        if picture is None:
            return
        progress.fraction = _HEAD_DONE + (FETCHED - _HEAD_DONE) * number / count
        progress.message = f"{number + 1} of {count} images received"
        yield picture


def _learnt(progress: JobProgress, fraction: float, message: str) -> None:
    progress.fraction = FETCHED + (FITTED - FETCHED) * min(max(fraction, 0.0), 1.0)
    progress.stage, progress.message = "fine_tuning", message


def _judged(job: TrainingJob, folder: Path, laid: Layout, rival: Rival) -> Judgement:
    space = space_of(load_card(folder / RESULT_FOLDER / PACK_FOLDER)).id
    aim = options_of(job.model, job.training, job.seed).thresholds
    return judge(rival, read_result(folder), laid.rows, space, aim, laid.groups)


def _request_of(job: TrainingJob, before: _Before, laid: Layout, judged: Judgement) -> CompleteModelVersionRequest:
    """Make what is handed in: of the network where it is kept, else of the head."""
    if not judged.kept:
        return request_of(job, before.taken, judged.fitted)
    known = before.rival.known.ids
    seen = {known[row] for row in laid.rows}
    left_out = {row.uid: "the picture is gone" for row in before.taken.rows if row.uid not in seen}
    left_out |= {uid: "the picture cannot be read" for uid in laid.unreadable} | before.rival.fitted.left_out
    missing = len(known) - len(seen)
    findings = judged.fitted.findings
    if missing:
        text = f"{missing} images could not be had or read any more and took no part"
        findings = (*findings, Finding("PICTURES_MISSING", Severity.HINT, text))
    return request_of(job, before.taken, replace(judged.fitted, findings=findings, left_out=left_out))
