"""What a version answered about each picture that it was evaluated on, kept so that more can be asked of it later.

Other thresholds, curves, wrong pictures, comparisons and wrong labels all follow from these scores; none needs the
pictures or a new training. The file is bounded, whatever the size of the training set: small sets are kept as they are;
of large ones the low scores are left out and the others rounded; of very large ones a sample of the pictures is kept.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args, overload

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lensmith_vision.errors import VisionError
from lensmith_vision.halves import all_finite
from lensmith_vision.heads import HEAD_TYPES, HeadType
from lensmith_vision.out_of_fold_rows import narrowed
from lensmith_vision.threads import in_threads

__all__ = ["EvaluationMethod", "OutOfFoldPredictions", "Outline", "load", "outline", "save"]

EvaluationMethod = Literal["out_of_fold", "test_set", "split"]
"""On which pictures a version is evaluated."""

_FORMAT = 1
_MAX_ROWS = 200_000
_MAX_CELLS = 1 << 25
_EXACT_CELLS = 2_000_000
_KEPT_CELLS = 3_000_000
_KEPT_POSITIVES = 1_500_000
_SAMPLED_CELLS = 1_000_000
_ROWS = 1024
_MAX_BYTES = 64 << 20
_MAX_HEADER_BYTES = 16 << 20
# Log-odds from -16 to 16 in steps of 1/2048: no score is off by more than 0.0001.
_STEEPEST, _STEPS = 16.0, 65_534
_KEY = "lensmith_out_of_fold"
_DAMAGE = (safetensors.SafetensorError, ValueError, KeyError, TypeError, IndexError, RecursionError)


class _Labels:
    """Labels that take as many times the memory of classes as there are concepts: laid out where they are asked for."""

    @overload
    def __get__(self, one: None, owner: type[object]) -> None: ...

    @overload
    def __get__(self, one: OutOfFoldPredictions, owner: type[object]) -> npt.NDArray[np.float32] | None: ...

    def __get__(self, one: OutOfFoldPredictions | None, owner: type[object]) -> npt.NDArray[np.float32] | None:
        if one is None:
            return None
        given: npt.NDArray[np.float32] | None = vars(one).get("_labels")
        if given is None and one.classes is not None:
            given = vars(one)["_labels"] = np.zeros(one.scores.shape, np.float32)
            given[np.arange(len(given)), one.classes] = 1
        return given

    def __set__(self, one: OutOfFoldPredictions, labels: npt.NDArray[np.float32] | None) -> None:
        vars(one)["_labels"] = labels


@dataclass(frozen=True, eq=False)
class OutOfFoldPredictions:
    """Scores of pictures by fits that have not seen them, beside the truth.

    Attributes:
        type: Type of the head.
        method: On which pictures it was made.
        ids: uid of each input, [n].
        concepts: Own ids in the order of the columns.
        scores: [n, c] float32: calibrated probabilities, or numbers [n, 1] for regression.
        folds: [n], the fold that each was held out with.
        groups: [n], near copies share a number.
        labels: [n, c] float32 with 1 positive, 0 negative, NaN unknown; None for regression.
        targets: [n] float32 for regression; None otherwise.
        floor: Scores up to it may read 0, but never the highest one of a row, nor those of positives up to 1.5 million.
        evaluated: Pictures evaluated; more than n where only a sample is kept.
        interval: For regression, what nine of ten errors stay within.
        classes: [n], the one concept that each picture shows, where that is so; `labels` are laid out of it then.
    """

    type: HeadType
    method: EvaluationMethod
    ids: tuple[str, ...]
    concepts: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    folds: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    labels: _Labels = _Labels()
    targets: npt.NDArray[np.float32] | None = None
    floor: float = 0.0
    evaluated: int = 0
    interval: float | None = None
    classes: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        rows, width = len(self.ids), len(self.concepts)
        regression = self.type == "regression"
        given = vars(self)["_labels"]
        if (self.targets is None) == regression or (given is None and self.classes is None) != regression:
            raise _invalid("a regression has targets, everything else labels")
        if self.scores.shape != (rows, width) or self.folds.shape != (rows,) or self.groups.shape != (rows,):
            raise _invalid("scores must be [pictures, concepts], folds and groups [pictures]")
        if given is not None and given.shape != (rows, width):
            raise _invalid("labels must be [pictures, concepts]")
        if self.classes is not None and self.classes.shape != (rows,):
            raise _invalid("classes must be [pictures]")
        if self.targets is not None and (self.targets.shape != (rows,) or width != 1):
            raise _invalid("targets must be [pictures], of one concept")
        if not all_finite(self.scores):
            raise _invalid("scores must be finite")

    def rows(self, index: npt.NDArray[np.int64]) -> OutOfFoldPredictions:
        """Return the pictures at some places, in that order."""
        labels = None if self.classes is not None else self.labels
        return replace(
            self,
            ids=tuple(self.ids[row] for row in index),
            scores=self.scores[index],
            folds=self.folds[index],
            groups=self.groups[index],
            labels=None if labels is None else labels[index],
            targets=None if self.targets is None else self.targets[index],
            classes=None if self.classes is None else self.classes[index],
        )


@dataclass(frozen=True)
class Outline:
    """What predictions are about: the type of the head, and its concepts."""

    type: HeadType
    concepts: tuple[str, ...]


def save(predictions: OutOfFoldPredictions) -> bytes:
    """Write predictions as safetensors of at most about 40 MB; those of 50,000 pictures and 500 concepts take 15 MB."""
    kept = _bounded(predictions)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "ids": np.frombuffer("\n".join(kept.ids).encode(), dtype=np.uint8),
        "folds": kept.folds.astype(np.uint8 if kept.folds.max(initial=0) < 256 else np.int32),
        "groups": kept.groups.astype(np.int32),
    }
    floor = kept.floor
    if kept.targets is not None:
        tensors |= {"scores": np.ascontiguousarray(kept.scores), "targets": kept.targets}
    else:
        tensors |= _label_tensors(kept)
        if kept.scores.size <= _EXACT_CELLS:
            tensors["scores"] = np.ascontiguousarray(kept.scores)
        else:
            floor, sparse = _sparse(kept)
            tensors |= sparse
    metadata = {
        "format": _FORMAT,
        "type": kept.type,
        "method": kept.method,
        "concepts": list(kept.concepts),
        "rows": len(kept.ids),
        "floor": floor,
        "evaluated": predictions.evaluated or len(predictions.ids),
        "interval": kept.interval,
    }
    return safetensors.numpy.save(tensors, metadata={_KEY: json.dumps(metadata, sort_keys=True)})


def load(data: bytes, rows: Sequence[int] | None = None) -> OutOfFoldPredictions:
    """Read predictions, trusting nothing in the file.

    Args:
        data: The file.
        rows: Places of the pictures that are wanted, in that order; None: all. No scores of others are laid out.

    Raises:
        VisionError: ``OUT_OF_FOLD_INVALID`` or ``OUT_OF_FOLD_FORMAT_UNKNOWN``.
    """
    if len(data) > _MAX_BYTES:
        raise _invalid(f"the file has more than {_MAX_BYTES} bytes")
    try:
        metadata, tensors = _parts(data)
        return _loaded(*(narrowed(metadata, tensors, rows) if rows is not None else (metadata, tensors)))
    except _DAMAGE as error:
        raise _invalid(str(error)) from error


def outline(data: bytes) -> Outline:
    """Say what a file is about and hold it against the format, without laying out millions of scores.

    Raises:
        VisionError: As `load`.
    """
    if len(data) > _MAX_BYTES:
        raise _invalid(f"the file has more than {_MAX_BYTES} bytes")
    try:
        metadata, tensors = _parts(data)
        if "counts" not in tensors:
            found = _loaded(metadata, tensors)
            return Outline(found.type, found.concepts)
        kind, _, concepts, ids = _about(metadata, tensors)
        shape = (len(ids), len(concepts))
        if kind == "regression" or any(tensors[name].shape != shape[:1] for name in ("folds", "groups")):
            raise ValueError("folds and groups must be one for each picture")
        counts, _ = _sparse_places(tensors, shape)
        if tensors["codes"].shape != (int(counts.sum()),) or tensors["codes"].dtype != np.uint16:
            raise ValueError("scores do not fit to their places")
        _check_labels(tensors, shape)
        return Outline(kind, concepts)
    except _DAMAGE as error:
        raise _invalid(str(error)) from error


def _parts(data: bytes) -> tuple[dict[str, object], dict[str, npt.NDArray[np.generic]]]:
    metadata = _metadata(data)
    if metadata["format"] != _FORMAT:
        raise VisionError("OUT_OF_FOLD_FORMAT_UNKNOWN", f"only format {_FORMAT} can be read")
    return metadata, safetensors.numpy.load(data)


def _about(
    metadata: dict[str, object], tensors: dict[str, npt.NDArray[np.generic]]
) -> tuple[HeadType, EvaluationMethod, tuple[str, ...], tuple[str, ...]]:
    """Type, method, concepts and ids."""
    concepts, rows = metadata["concepts"], metadata["rows"]
    kind, method = metadata["type"], metadata["method"]
    if kind not in HEAD_TYPES or method not in get_args(EvaluationMethod):
        raise ValueError("type or method is unknown")
    if not isinstance(concepts, list) or not all(isinstance(concept, str) for concept in concepts):
        raise TypeError("concepts must be a list of texts")
    if not isinstance(rows, int) or not 0 < rows <= _MAX_ROWS or rows * len(concepts) > _MAX_CELLS:
        raise ValueError("there are no pictures in it, or too many")
    ids = tuple(tensors["ids"].tobytes().decode().split("\n"))
    if len(ids) != rows or len(set(ids)) != rows:
        raise ValueError("ids must be one for each picture")
    return cast(HeadType, kind), cast(EvaluationMethod, method), tuple(concepts), ids


def _loaded(metadata: dict[str, object], tensors: dict[str, npt.NDArray[np.generic]]) -> OutOfFoldPredictions:
    kind, method, concepts, ids = _about(metadata, tensors)
    shape = (len(ids), len(concepts))
    regression = kind == "regression"
    return OutOfFoldPredictions(
        type=kind,
        method=method,
        ids=ids,
        concepts=concepts,
        scores=_scores(tensors, shape),
        folds=tensors["folds"].astype(np.int64),
        groups=tensors["groups"].astype(np.int64),
        labels=None if regression or "classes" in tensors else _labels(tensors, shape),
        classes=_classes(tensors["classes"], shape) if "classes" in tensors and not regression else None,
        targets=tensors["targets"].astype(np.float32) if regression else None,
        floor=_number(metadata["floor"]),
        evaluated=int(_number(metadata["evaluated"])),
        interval=None if metadata["interval"] is None else _number(metadata["interval"]),
    )


def _bounded(predictions: OutOfFoldPredictions) -> OutOfFoldPredictions:
    """Keep all rows, or a sample where they would be too many."""
    rows, width = predictions.scores.shape
    most = min(_MAX_ROWS, _MAX_CELLS // max(1, width))
    if rows <= most:
        return predictions
    return predictions.rows(np.sort(np.random.default_rng(0).permutation(rows)[:most]))


def _sparse(predictions: OutOfFoldPredictions) -> tuple[float, dict[str, npt.NDArray[np.generic]]]:
    """Choose the highest scores of all, and those that every figure needs; say up to where others were left out."""
    scores, classes = predictions.scores, predictions.classes
    labels = None if classes is not None else predictions.labels
    if labels is None and classes is None:
        raise ValueError("only scores beside labels are left out")
    step = max(1, scores.size // _SAMPLED_CELLS)
    floor = float(np.quantile(scores.ravel()[::step], 1 - min(1.0, _KEPT_CELLS / scores.size)))
    width = scores.shape[1]
    # Where millions are positive, the highest scores must do: the file travels in one message with the head.
    few = labels is None or int(np.count_nonzero(labels == 1)) <= _KEPT_POSITIVES

    def choose(start: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.generic], npt.NDArray[np.uint16]]:
        some = scores[start : start + _ROWS]
        rows, chosen = np.arange(len(some)), some > floor
        chosen[rows, some.argmax(axis=1)] = True
        if labels is not None and few:
            chosen |= labels[start : start + _ROWS] == 1
        elif classes is not None and few:
            chosen[rows, classes[start : start + _ROWS]] = True
        places = np.flatnonzero(chosen)
        columns = (places % width).astype(np.uint16 if width <= 1 << 16 else np.int32)
        return chosen.sum(axis=1).astype(np.int32), columns, _codes(some.ravel()[places])

    # Side by side, and never more of it at once than a few rows.
    parts = in_threads(choose, range(0, len(scores), _ROWS))
    counts, columns, codes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return floor, {"counts": counts, "columns": columns, "codes": codes}


def _scores(tensors: dict[str, npt.NDArray[np.generic]], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    if "scores" in tensors:
        return tensors["scores"].astype(np.float32)
    counts, columns = _sparse_places(tensors, shape)
    scores = np.zeros(shape, np.float32)
    scores[np.repeat(np.arange(shape[0]), counts), columns] = _decoded(tensors["codes"])
    return scores


def _sparse_places(
    tensors: dict[str, npt.NDArray[np.generic]], shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Scores of each row, and their columns."""
    counts, columns = tensors["counts"].astype(np.int64), tensors["columns"].astype(np.int64)
    if counts.shape != (shape[0],) or (counts < 0).any() or int(counts.sum()) != len(columns):
        raise ValueError("counts and columns do not fit together")
    if len(columns) and (columns.min() < 0 or columns.max() >= shape[1]):
        raise ValueError("columns name no concept")
    return counts, columns


def _codes(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    inside = np.clip(scores.astype(np.float64), 1e-9, 1 - 1e-9)
    odds = np.clip(np.log(inside / (1 - inside)), -_STEEPEST, _STEEPEST)
    return np.rint((odds + _STEEPEST) / (2 * _STEEPEST) * _STEPS).astype(np.uint16)


def _decoded(codes: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    odds = codes.astype(np.float64) / _STEPS * (2 * _STEEPEST) - _STEEPEST
    decoded: npt.NDArray[np.float32] = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return decoded


def _label_tensors(predictions: OutOfFoldPredictions) -> dict[str, npt.NDArray[np.generic]]:
    if predictions.classes is not None:
        return {"classes": predictions.classes.astype(np.int32)}
    labels = predictions.labels
    if labels is None:
        raise ValueError("a classification has labels")
    positive = labels == 1
    if not np.isnan(labels).any() and (positive.sum(axis=1) == 1).all():
        return {"classes": labels.argmax(axis=1).astype(np.int32)}
    return {"positive": np.packbits(positive), "known": np.packbits(np.isfinite(labels))}


def _check_labels(tensors: dict[str, npt.NDArray[np.generic]], shape: tuple[int, int]) -> None:
    """Hold the labels against the format without laying them out."""
    if "classes" in tensors:
        _classes(tensors["classes"], shape)
    elif any(tensors[name].shape != (-(-shape[0] * shape[1] // 8),) for name in ("known", "positive")):
        raise ValueError("labels must be one bit for each picture and concept")


def _classes(tensor: npt.NDArray[np.generic], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    classes = tensor.astype(np.int64)
    if classes.shape != shape[:1] or classes.min() < 0 or classes.max() >= shape[1]:
        raise ValueError("classes must be one of the concepts for each picture")
    return classes


def _labels(tensors: dict[str, npt.NDArray[np.generic]], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    labels = np.zeros(shape, np.float32)
    cells = shape[0] * shape[1]
    for name, value in (("known", np.nan), ("positive", 1.0)):
        bits = np.unpackbits(tensors[name].astype(np.uint8), count=cells).astype(np.bool_).reshape(shape)
        labels[bits if name == "positive" else ~bits] = value
    return labels


def _metadata(data: bytes) -> dict[str, object]:
    """Read the JSON header itself: the library gives metadata only for files on disk."""
    (size,) = struct.unpack_from("<Q", data.ljust(8, b"\0"))
    if size > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("its header is longer than the file")
    document = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_KEY])
    if not isinstance(document, dict):
        raise TypeError("its metadata is no object")
    return document


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("numbers must be finite")
    return float(value)


def _invalid(why: str) -> VisionError:
    return VisionError("OUT_OF_FOLD_INVALID", f"these are no out-of-fold predictions: {why}")
