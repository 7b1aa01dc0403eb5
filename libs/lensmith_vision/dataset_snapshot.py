"""The inputs that a version was trained on, as they were then: ids, hashes of their bytes, labels.

A snapshot is bound to its SHA-256, which stands in the version. The hash is that of a text anybody can write again: for
each input, in order of uid, one line of JSON, ``["{uid}", "{sha256}", {"{concept}": true | false | number, …}]``, its
concepts in order of code points, ASCII only, numbers as Python writes them (``12.0``, ``0.1``, ``1e+16``), each line
ended by a line feed. So a listing can be held against it with nothing but a hash function. Most inputs share a few sets
of labels, which the file holds once.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lensmith_vision.errors import VisionError

__all__ = ["MOST_BYTES", "NO_FOLD", "DatasetSnapshot", "Labels", "extended", "load", "save", "take"]

MOST_BYTES = 16 << 20
"""A larger file is not kept: it would not fit into one message beside what else is handed in."""
NO_FOLD = -1
"""Fold of an input that was held out in none."""

Labels = Mapping[str, "bool | float"]
"""By own id of the concept: whether the input shows it, or its number."""

_KEY = "lensmith_dataset_snapshot"
_FORMAT = "1"
_HASH_BYTES = 32
_LINES = 4096
_TENSORS = {"ids": 1, "sha256": 2, "label_sets": 1, "labels": 1, "folds": 1}


@dataclass(frozen=True, eq=False)
class DatasetSnapshot:
    """Inputs in order of uid.

    Attributes:
        ids: uids, [n].
        hashes: SHA-256 of each input's bytes, [n, 32] uint8.
        label_sets: The different sets of labels, as JSON with sorted keys.
        labels: Place of each input's labels among `label_sets`, [n] int32.
        folds: Fold in which each was held out, [n] int16, or `NO_FOLD`.
    """

    ids: tuple[str, ...]
    hashes: npt.NDArray[np.uint8]
    label_sets: tuple[str, ...]
    labels: npt.NDArray[np.int32]
    folds: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.ids)

    def sha256(self) -> str:
        """Return the hash that binds the version to this snapshot, lower-case hex."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """Yield the text that is hashed, some thousand lines at a time."""
        width = 2 * _HASH_BYTES
        for start in range(0, len(self), _LINES):
            hashes = self.hashes[start : start + _LINES].tobytes().hex()
            rows = zip(self.ids[start : start + _LINES], self.labels[start : start + _LINES].tolist(), strict=True)
            yield "".join(
                f'["{uid}", "{hashes[row * width : (row + 1) * width]}", {self.label_sets[place]}]\n'
                for row, (uid, place) in enumerate(rows)
            ).encode()

    def labels_of(self, row: int) -> dict[str, bool | float]:
        """Return the labels of one input."""
        found: dict[str, bool | float] = json.loads(self.label_sets[int(self.labels[row])])
        return found


def take(
    inputs: Iterable[tuple[str, str, Labels]], concepts: Collection[str], folds: Mapping[str, int]
) -> DatasetSnapshot:
    """Take a snapshot.

    Args:
        inputs: uid, SHA-256 of the bytes in hex, and labels of each, in order of uid.
        concepts: Whose labels matter; others are left out.
        folds: By uid, the fold in which it was held out.
    """
    wanted = frozenset(concepts)
    ids: list[str] = []
    hashes: list[str] = []
    places: list[int] = []
    # Inputs share a few sets of labels, which mostly are one object each; kept, or another one might take its name.
    seen: dict[int, tuple[Labels, int]] = {}
    texts: dict[str, int] = {}
    for uid, sha256, labels in inputs:
        ids.append(uid)
        hashes.append(sha256)
        known = seen.get(id(labels))
        if known is None:
            text = json.dumps({name: value for name, value in labels.items() if name in wanted}, sort_keys=True)
            known = seen[id(labels)] = labels, texts.setdefault(text, len(texts))
        places.append(known[1])
    return DatasetSnapshot(
        tuple(ids),
        np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(ids), _HASH_BYTES),
        tuple(texts),
        np.asarray(places, np.int32),
        np.asarray([folds.get(uid, NO_FOLD) for uid in ids], np.int16),
    )


def extended(snapshot: DatasetSnapshot, more: DatasetSnapshot) -> DatasetSnapshot:
    """Add inputs that a snapshot does not hold."""
    ids = list(snapshot.ids)
    places = np.asarray([bisect_left(snapshot.ids, uid) for uid in more.ids], np.int64)
    for place, uid in sorted(zip(places.tolist(), more.ids, strict=True), reverse=True):
        ids.insert(place, uid)
    known = {text: place for place, text in enumerate(snapshot.label_sets)}
    sets = np.asarray([known.setdefault(text, len(known)) for text in more.label_sets], np.int32)
    return DatasetSnapshot(
        tuple(ids),
        np.insert(snapshot.hashes, places, more.hashes, axis=0),
        tuple(known),
        np.insert(snapshot.labels, places, sets[more.labels]),
        np.insert(snapshot.folds, places, more.folds),
    )


def save(snapshot: DatasetSnapshot) -> bytes:
    """Write a snapshot as safetensors: some 75 bytes an input, and what its labels need beyond those of others."""
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "ids": _text("\n".join(snapshot.ids)),
        "sha256": np.ascontiguousarray(snapshot.hashes),
        "label_sets": _text("\n".join(snapshot.label_sets)),
        "labels": snapshot.labels,
        "folds": snapshot.folds,
    }
    return safetensors.numpy.save(tensors, metadata={_KEY: _FORMAT})


def load(data: bytes) -> DatasetSnapshot:
    """Read a snapshot, trusting nothing in the file.

    Raises:
        VisionError: ``DATASET_SNAPSHOT_INVALID``.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _invalid("it is no safetensors file") from error
    if {name: tensor.ndim for name, tensor in tensors.items()} != _TENSORS:
        raise _invalid("its tensors are not those of a snapshot")
    ids, sets = _lines(tensors["ids"]), _lines(tensors["label_sets"])
    hashes, labels, folds = tensors["sha256"], tensors["labels"], tensors["folds"]
    if hashes.dtype != np.uint8 or labels.dtype != np.int32 or folds.dtype != np.int16:
        raise _invalid("its tensors are of other types")
    if hashes.shape != (len(ids), _HASH_BYTES) or labels.shape != (len(ids),) or folds.shape != (len(ids),):
        raise _invalid("its tensors are not of one length")
    if len(ids) and (int(labels.min()) < 0 or int(labels.max()) >= len(sets)):
        raise _invalid("an input has labels that are not there")
    for text in sets:
        _check_labels(text)
    return DatasetSnapshot(ids, hashes, sets, labels, folds)


def _check_labels(text: str) -> None:
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid("labels are no JSON") from error
    values = labels.values() if isinstance(labels, dict) else [None]
    if not all(isinstance(value, bool | int | float) and math.isfinite(value) for value in values):
        raise _invalid("labels are neither positive, negative nor a number")


def _text(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _lines(data: npt.NDArray[np.generic]) -> tuple[str, ...]:
    try:
        text = data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise _invalid("its texts are not UTF-8") from error
    return tuple(text.split("\n")) if text else ()


def _invalid(why: str) -> VisionError:
    return VisionError("DATASET_SNAPSHOT_INVALID", f"the dataset snapshot cannot be read: {why}")
