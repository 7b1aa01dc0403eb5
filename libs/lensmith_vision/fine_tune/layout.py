"""From a training of a head to a job that fine-tunes on the same pictures and folds. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lensmith_vision.decode import ImageLimits
from lensmith_vision.errors import ImageError, TrainingError
from lensmith_vision.fine_tune.job import (
    FEWEST_PICTURES,
    JOB_FILE,
    RESULT_FOLDER,
    START_FOLDER,
    STATE_FOLDER,
    TESTED,
    Ints,
    Job,
    Pixels,
    Taught,
    pick_rounds,
    put_file,
    read_job,
    read_taught,
    write_job,
)
from lensmith_vision.fine_tune.rival import Rival
from lensmith_vision.folds import groups_of
from lensmith_vision.pack import load_card
from lensmith_vision.training import TrainingSet

__all__ = ["Layout", "lay_out", "read_layout"]

_LAYOUT_FILE = "layout.json"


@dataclass(frozen=True, eq=False)
class Layout:
    """How a job's pictures belong to the training of the head.

    Attributes:
        job: What was laid out.
        rows: Row of each picture of the job in the rival's scores.
        groups: Group of near copies of each picture of the job.
        unreadable: Ids of pictures that take no part because they cannot be decoded.
    """

    job: Job
    rows: Ints
    groups: Ints
    unreadable: tuple[str, ...]


def lay_out(
    folder: Path,
    start: Path,
    data: TrainingSet,
    rival: Rival,
    pictures: Iterable[tuple[str, bytes]],
    *,
    network: str,
    seed: int = 0,
    max_epochs: int = 0,
    threads: int = 0,
    limits: ImageLimits | None = None,
) -> Layout:
    """Lay out a job: copy the start, decode the pictures, and hold out what the head held out.

    Args:
        folder: Where to; anything of another layout in it is replaced, and what was learnt from that goes.
        start: The pack to begin from; it may be another than that of the features.
        data: What the head was trained on.
        rival: The head that the network has to beat.
        pictures: Id and bytes of each picture, in any order; those that took no part in the head are passed over.
        network: Id of the card of the network that comes out.
        seed: Of everything random.
        max_epochs: Most passes over the pictures; 0: as many as suit their number.
        threads: Of the processor; 0: all.
        limits: How large a picture may be.

    Raises:
        TrainingError: ``TOO_FEW_IMAGES``: nearly none of the pictures can be had; ``NO_TEST_IMAGES``: none of those
            to evaluate on.
        PackError: The start is no pack.
    """
    known = rival.known
    card = load_card(start)
    _begin(folder, start)
    kept, unreadable = _decoded(Pixels(folder, card.resize, len(known.ids), writable=True), known.ids, pictures, limits)
    rows = np.asarray(kept, np.int64)
    folds = known.folds[rows]
    _check(known.folds, folds)
    groups = _groups(data, [known.ids[row] for row in kept])
    taught = Taught(
        folds,
        groups,
        None if known.labels is None else known.labels[rows],
        None if known.targets is None else known.targets[rows],
    )
    job = Job(
        known.type,
        known.concepts,
        network,
        card.resize,
        pick_rounds(folds),
        known.method,
        seed=seed,
        max_epochs=max_epochs,
        threads=threads,
    )
    # Before the job, which makes the folder one that is laid out.
    put_file(folder / _LAYOUT_FILE, json.dumps({"rows": rows.tolist(), "unreadable": unreadable}).encode())
    write_job(folder, job, taught)
    return Layout(job, rows, groups, tuple(unreadable))


def _begin(folder: Path, start: Path) -> None:
    """Make a folder with a start in it and no job yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / JOB_FILE).unlink(missing_ok=True)
    # Networks that learnt from other folds have seen what these hold out.
    for name in (START_FOLDER, STATE_FOLDER, RESULT_FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(start, folder / START_FOLDER)


def _check(wanted: Ints, had: Ints) -> None:
    """Refuse where what could be had is not enough to learn from, or to evaluate on."""
    learnt = int((had != TESTED).sum())
    if learnt < FEWEST_PICTURES or len(np.unique(had[had != TESTED])) < int(wanted.max()) + 1:
        raise TrainingError("TOO_FEW_IMAGES", f"only {learnt} images can be had, too few to fine-tune on")
    if (wanted == TESTED).any() and not (had == TESTED).any():
        raise TrainingError("NO_TEST_IMAGES", "none of the images to evaluate on can be had any more")


def _decoded(
    pixels: Pixels, ids: Sequence[str], pictures: Iterable[tuple[str, bytes]], limits: ImageLimits | None
) -> tuple[list[int], list[str]]:
    """Put pictures where the job reads them: their rows among the ids in that order, and ids of those that are none."""
    places = {uid: row for row, uid in enumerate(ids)}
    kept: list[int] = []
    unreadable: list[str] = []
    for uid, content in pictures:
        row = places.pop(uid, None)
        if row is None:
            continue
        try:
            pixels.put(len(kept), content, limits)
        except ImageError:
            unreadable.append(uid)
        else:
            kept.append(row)
    return kept, unreadable


def read_layout(folder: Path, rival: Rival) -> Layout | None:
    """Read how a folder was laid out for the same training of a head; None: it was not, or for another one.

    Args:
        folder: That a process may have been killed over.
        rival: The head as it was fitted again.
    """
    try:
        job, taught = read_job(folder), read_taught(folder)
        document = json.loads((folder / _LAYOUT_FILE).read_bytes())
        rows = np.asarray(document["rows"], np.int64)
        known = rival.known.rows(rows)
    except (OSError, ValueError, KeyError, IndexError, TrainingError):
        return None
    same = (job.concepts, job.method) == (known.concepts, known.method) and np.array_equal(taught.folds, known.folds)
    for ours, theirs in ((taught.labels, known.labels), (taught.targets, known.targets)):
        same = same and (ours is None) == (theirs is None)
        same = same and (ours is None or theirs is None or np.array_equal(ours, theirs, equal_nan=True))
    return Layout(job, rows, taught.groups, tuple(document["unreadable"])) if same else None


def _groups(data: TrainingSet, ids: list[str]) -> Ints:
    places = {uid: row for row, uid in enumerate(data.ids)}
    chosen = np.asarray([places[uid] for uid in ids], np.int64)
    return groups_of(data.features[chosen], [data.group_ids[row] for row in chosen])
