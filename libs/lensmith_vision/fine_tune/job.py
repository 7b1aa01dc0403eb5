"""What is to be fine-tuned, in a folder: the start, the pictures as pixels, their labels, and what shall be held out.

The folder is all that the process that fine-tunes gets and gives. Its checkpoints lie there too, so whoever starts it
again on the same folder goes on where it was killed. Nothing in it is pickled: JSON, safetensors, ONNX, raw pixels.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lensmith_vision import resize
from lensmith_vision.decode import ImageLimits, decode
from lensmith_vision.errors import TrainingError
from lensmith_vision.heads import HeadType
from lensmith_vision.out_of_fold import EvaluationMethod
from lensmith_vision.resize import ResizePolicy

__all__ = [
    "FEWEST_PICTURES",
    "TESTED",
    "Job",
    "Pixels",
    "Taught",
    "bytes_of_pixels",
    "pick_rounds",
    "read_job",
    "read_taught",
    "write_job",
]

FEWEST_PICTURES = 12
"""Fewer are not worth the attempt."""

TESTED = -1
"""In place of a fold: the picture is one that the version is evaluated on, and that nothing is chosen by."""

JOB_FILE, TAUGHT_FILE, START_FOLDER, STATE_FOLDER, RESULT_FOLDER = (
    "job.json",
    "taught.safetensors",
    "start",
    "state",
    "result",
)
_EXACT_FILE, _ROOMY_FILE = "exact.u8", "roomy.u8"
_ROOM = 1.25
"""How much more pixels a side are kept for cutting than the network takes."""

_FORMAT = 1
_ENOUGH_HELD_OUT = 200
_LEAST_ROUNDS, _MOST_ROUNDS = 2, 3

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """How to fine-tune.

    Attributes:
        type: Type of the head.
        concepts: Own ids, in the order of the logits; one for regression.
        network: Id of the card of the network that comes out; its space has this name.
        resize: How the start wants pictures.
        rounds: Folds to hold out, one after the other; each costs one training, and one more is made of everything.
        method: On which pictures the version is evaluated: those held out in rounds, or those in no fold. Nothing
            learns from pictures in no fold, but where they are a fifth of all (``split``) a further training does:
            its network is the result, that of the training before is evaluated.
        seed: The same job gives the same network, on the same machine.
        max_epochs: Most passes over the pictures; 0: as many as suit their number.
        batch_size: Pictures a step; 0: as suits their number.
        threads: Of the processor, for one process; 0: all that there are.
    """

    type: HeadType
    concepts: tuple[str, ...]
    network: str
    resize: ResizePolicy
    rounds: tuple[int, ...]
    method: EvaluationMethod = "out_of_fold"
    seed: int = 0
    max_epochs: int = 0
    batch_size: int = 0
    threads: int = 0


@dataclass(frozen=True, eq=False)
class Taught:
    """What the pictures of a job show, one row each, in the order of the pixels.

    Attributes:
        folds: Fold of each row, the same that the head is evaluated by; near copies share one. `TESTED`: in none.
        groups: Group of near copies of each row.
        labels: [n, c] with 1 positive, 0 negative, NaN unknown; None for regression.
        targets: [n] for regression; None otherwise.
    """

    folds: Ints
    groups: Ints
    labels: Floats | None = None
    targets: Floats | None = None

    def __post_init__(self) -> None:
        rows = len(self.folds)
        given = [array for array in (self.labels, self.targets) if array is not None]
        if len(given) != 1 or len(given[0]) != rows or self.groups.shape != (rows,):
            raise TrainingError("TRAINING_SET_INVALID", "a job has labels or targets, one row for each picture")

    def __len__(self) -> int:
        return len(self.folds)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> Taught:
        """Return some rows."""
        return Taught(
            self.folds[chosen],
            self.groups[chosen],
            None if self.labels is None else self.labels[chosen],
            None if self.targets is None else self.targets[chosen],
        )


class Pixels:
    """The pictures of a job: as serving sees them, and with room to cut from.

    Args:
        folder: Of the job.
        policy: How the network wants pictures.
        rows: Number of pictures.
        writable: Whether they are being written; made where they are missing, kept where they are not.
    """

    def __init__(self, folder: Path, policy: ResizePolicy, rows: int, *, writable: bool = False) -> None:
        self._policy = policy
        self._roomy_policy = _roomy(policy)
        exact = (rows, policy.height, policy.width, 3)
        roomy = (rows, self._roomy_policy.height, self._roomy_policy.width, 3)
        self.exact = _mapped(folder / _EXACT_FILE, exact, writable)
        self.roomy = _mapped(folder / _ROOMY_FILE, roomy, writable)

    def put(self, row: int, data: bytes, limits: ImageLimits | None = None) -> None:
        """Decode a picture into a row.

        Raises:
            ImageError: It is none, or one beyond the limits.
        """
        # Serving decodes with this hint, and a JPEG decoded at another size differs.
        image = decode(data, limits, min_side_hint=self._policy.min_side_hint)
        self.exact[row] = resize.apply(image, self._policy)
        if min(image.shape[:2]) < self._roomy_policy.min_side_hint:
            image = decode(data, limits, min_side_hint=self._roomy_policy.min_side_hint)
        self.roomy[row] = resize.apply(image, self._roomy_policy)


def bytes_of_pixels(policy: ResizePolicy) -> int:
    """Return the room on disk that the pixels of one picture take."""
    return sum(one.height * one.width * 3 for one in (policy, _roomy(policy)))


def _roomy(policy: ResizePolicy) -> ResizePolicy:
    return replace(
        policy,
        height=round(policy.height * _ROOM),
        width=round(policy.width * _ROOM),
        short_side=round(policy.short_side * _ROOM),
    )


def pick_rounds(folds: Ints) -> tuple[int, ...]:
    """Choose which folds are held out: as many as it takes to judge, each being a whole training."""
    count = int(folds.max()) + 1
    held_out = np.cumsum(np.bincount(folds[folds != TESTED], minlength=count))
    needed = int(np.searchsorted(held_out, _ENOUGH_HELD_OUT)) + 1
    return tuple(range(min(max(needed, _LEAST_ROUNDS), _MOST_ROUNDS, count)))


def write_job(folder: Path, job: Job, taught: Taught) -> None:
    """Write a job; whoever reads it finds all of it or nothing. The pixels and the start must lie there before."""
    tensors = {"folds": taught.folds, "groups": taught.groups}
    arrays: dict[str, npt.NDArray[np.generic]] = {**tensors}
    for name, values in (("labels", taught.labels), ("targets", taught.targets)):
        if values is not None:
            arrays[name] = np.ascontiguousarray(values, np.float32)
    put_file(folder / TAUGHT_FILE, safetensors.numpy.save(arrays))
    put_file(folder / JOB_FILE, json.dumps({"format": _FORMAT, **asdict(job)}, indent=1).encode())


def read_job(folder: Path) -> Job:
    """Read a job.

    Raises:
        TrainingError: There is none, or of another format.
    """
    try:
        document = json.loads((folder / JOB_FILE).read_bytes())
        if document.pop("format") != _FORMAT or document["type"] not in get_args(HeadType):
            raise ValueError("its format or its type is unknown")
        if document.get("method", "out_of_fold") not in get_args(EvaluationMethod):
            raise ValueError("its method is unknown")
        return Job(
            type=cast(HeadType, document.pop("type")),
            concepts=tuple(document.pop("concepts")),
            rounds=tuple(document.pop("rounds")),
            resize=ResizePolicy(**document.pop("resize")),
            **document,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError("FINE_TUNE_JOB_INVALID", f"{folder.name} holds no job: {error}") from error


def read_taught(folder: Path) -> Taught:
    """Read what the pictures of a job show.

    Raises:
        TrainingError: The file is missing or damaged.
    """
    try:
        arrays = safetensors.numpy.load((folder / TAUGHT_FILE).read_bytes())
        return Taught(arrays["folds"], arrays["groups"], arrays.get("labels"), arrays.get("targets"))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise TrainingError("FINE_TUNE_JOB_INVALID", f"{folder.name} holds no labels: {error}") from error


def put_file(path: Path, data: bytes) -> None:
    """Write a file that is found complete or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def _mapped(path: Path, shape: tuple[int, ...], writable: bool) -> Pictures:
    if not writable:
        return np.memmap(path, np.uint8, "r", shape=shape)
    size = int(np.prod(shape))
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                # Taken now: writing to a mapped file on a full disk would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, size)
    return np.memmap(path, np.uint8, "r+", shape=shape)
