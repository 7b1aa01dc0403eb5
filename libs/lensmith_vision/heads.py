"""Heads: the small trained part of a model, from features to scores.

A linear head is a matrix and a vector on transformed features. A head of the kernel tier adds similarities to pictures
of its training set. Many heads are evaluated together by :class:`lensmith_vision.head_stack.HeadStack`.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from lensmith_vision.errors import HeadError
from lensmith_vision.familiarity import Familiarity
from lensmith_vision.halves import Features
from lensmith_vision.kernel import KernelPart
from lensmith_vision.transforms import TRANSFORMS, Transform, transformed

__all__ = ["HEAD_TYPES", "INTERVAL_COVERAGE", "Head", "HeadType", "load", "save"]

HeadType = Literal["multi_class", "multi_label", "regression"]
HEAD_TYPES: tuple[str, ...] = get_args(HeadType)

INTERVAL_COVERAGE = 0.9
"""In what part of the cases the true number lies within the interval of a regression head."""

_FORMAT = 2
_PLAIN_FORMAT = 1
"""Heads of old: linear, on features as they are."""

_MAX_BYTES = 256 * 1024 * 1024
_MAX_HEADER_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Head:
    """A trained head. Scaling of features and calibration are already folded into the numbers.

    Attributes:
        type: ``multi_class`` (softmax, scores add up to 1), ``multi_label`` (sigmoid each) or ``regression``.
        space: Id of the space whose features it takes.
        concepts: Ids of the concepts in the order of the scores; for regression the one concept that is measured.
        weights: W [d, c] float32.
        bias: b [c] float32.
        thresholds: [c] float32; a concept counts as predicted from this score on.
        value_range: For regression, the least and greatest value an answer may have.
        transform: What is done to features before the weights see them.
        kernel: The part of a head of the kernel tier that is not linear.
        familiarity: What it remembers of its training pictures; None for heads of old.
        interval: For regression, how far from an answer the true value lies in nine of ten cases, as out of fold.
    """

    type: HeadType
    space: str
    concepts: tuple[str, ...]
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float32]
    value_range: tuple[float, float] | None = None
    transform: Transform = "none"
    kernel: KernelPart | None = None
    familiarity: Familiarity | None = None
    interval: float | None = None

    def __post_init__(self) -> None:
        count = len(self.concepts)
        if self.type not in HEAD_TYPES:
            raise HeadError("HEAD_INVALID", f"unknown type of head {self.type!r}")
        if count == 0 or len(set(self.concepts)) != count or not all(self.concepts):
            raise HeadError("HEAD_INVALID", "a head needs concepts, each named once")
        if self.type == "multi_class" and count < 2:
            raise HeadError("HEAD_INVALID", "a multi_class head needs at least two concepts")
        if (self.type == "regression") != (self.value_range is not None) or (self.type == "regression" and count != 1):
            raise HeadError("HEAD_INVALID", "a regression head has one concept and a range, and no other head has one")
        for name, array, shape in (
            ("weights", self.weights, (self.dim, count)),
            ("bias", self.bias, (count,)),
            ("thresholds", self.thresholds, (count,)),
        ):
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise HeadError("HEAD_INVALID", f"{name} must be finite float32 of shape {list(shape)}")
        _check_range(self.value_range)
        _check_range(None if self.interval is None else (0.0, self.interval))
        if self.transform not in TRANSFORMS:
            raise HeadError("HEAD_INVALID", f"unknown transform {self.transform!r}")
        for part in (self.kernel, self.familiarity):
            if part is not None:
                part.check(self.dim, count)

    @property
    def dim(self) -> int:
        """Length of the features it takes."""
        return int(self.weights.shape[0]) if self.weights.ndim == 2 else -1

    @property
    def nbytes(self) -> int:
        """Memory of its numbers, for budgets."""
        own = int(self.weights.nbytes + self.bias.nbytes + self.thresholds.nbytes)
        kernel, familiarity = self.kernel, self.familiarity
        return own + (kernel.nbytes if kernel else 0) + (familiarity.nbytes if familiarity else 0)

    @property
    def tier(self) -> Literal["linear", "kernel"]:
        """How costly it is to evaluate."""
        return "linear" if self.kernel is None else "kernel"

    def activate(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn logits [n, c] into scores [n, c]: softmax, sigmoid, or the value clipped to its range."""
        if self.type == "multi_class":
            shifted = logits - logits.max(axis=1, keepdims=True)
            np.exp(shifted, out=shifted)
            shifted /= shifted.sum(axis=1, keepdims=True)
            return cast(npt.NDArray[np.float32], shifted)
        if self.type == "multi_label":
            # Beyond ±80 float32 has long said 0 or 1, and exp would overflow.
            return cast(npt.NDArray[np.float32], 1 / (1 + np.exp(-np.clip(logits, -80, 80))))
        low, high = self.value_range or (-math.inf, math.inf)
        return np.clip(logits, np.float32(low), np.float32(high))

    def scores(self, features: Features) -> npt.NDArray[np.float32]:
        """Score features [n, d]; gives [n, c]. For many heads at once see :class:`HeadStack`."""
        inputs = transformed(features, self.transform)
        logits = inputs @ self.weights + self.bias
        return self.activate(logits if self.kernel is None else logits + self.kernel.logits(inputs))

    def unfamiliar(self, features: Features) -> npt.NDArray[np.float32] | None:
        """Say how unlike the training pictures features [n, d] are, 0 to 1; None for heads of old."""
        return self.familiarity.unfamiliar(transformed(features, self.transform)) if self.familiarity else None


def _check_range(value_range: tuple[float, float] | None) -> None:
    low, high = value_range or (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise HeadError("HEAD_INVALID", "the range and the interval of a regression head must be finite and in order")


def save(head: Head) -> bytes:
    """Write a head as safetensors, everything but the numbers in its JSON metadata. Equal heads give equal bytes."""
    metadata = {
        "format": _FORMAT,
        "type": head.type,
        "space": head.space,
        "concepts": list(head.concepts),
        "value_range": list(head.value_range) if head.value_range else None,
        "transform": head.transform,
        "sharpness": head.kernel.sharpness if head.kernel else None,
        "interval": head.interval,
        "distances": [head.familiarity.usual, head.familiarity.far] if head.familiarity else None,
    }
    tensors = {
        "weights": np.ascontiguousarray(head.weights),
        "bias": np.ascontiguousarray(head.bias),
        "thresholds": np.ascontiguousarray(head.thresholds),
    }
    if head.kernel is not None:
        tensors["landmarks"] = head.kernel.landmarks.astype(np.float16)
        tensors["landmark_weights"] = np.ascontiguousarray(head.kernel.weights)
    if head.familiarity is not None:
        tensors["familiar_mean"] = head.familiarity.mean.astype(np.float16)
        tensors["familiar_axes"] = head.familiarity.axes.astype(np.float16)
    return safetensors.numpy.save(tensors, metadata={"lensmith_head": json.dumps(metadata, sort_keys=True)})


def load(data: bytes) -> Head:
    """Read a head, trusting nothing in the file.

    Raises:
        HeadError: Not a head, damaged, of a newer format, or with shapes and values that do not fit together.
    """
    if len(data) > _MAX_BYTES:
        raise HeadError("HEAD_INVALID", f"a head has at most {_MAX_BYTES} bytes")
    try:
        metadata = _metadata(data)
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise HeadError("HEAD_INVALID", f"the file is no head: {error}") from error
    if metadata.get("format") == _PLAIN_FORMAT:
        metadata = {**metadata, "transform": "none", "sharpness": None, "distances": None}
    elif metadata.get("format") != _FORMAT:
        raise HeadError("HEAD_FORMAT_UNKNOWN", f"this version reads heads up to format {_FORMAT}")
    concepts, space, kind = metadata.get("concepts"), metadata.get("space"), metadata.get("type")
    if not isinstance(concepts, list) or not all(isinstance(concept, str) for concept in concepts):
        raise HeadError("HEAD_INVALID", "concepts must be a list of texts")
    if not isinstance(space, str) or kind not in HEAD_TYPES:
        raise HeadError("HEAD_INVALID", "a head must name its space and a known type")
    transform, sharpness = metadata.get("transform"), metadata.get("sharpness")
    if transform not in TRANSFORMS:
        raise HeadError("HEAD_INVALID", "a head must name a known transform")
    kernel, familiarity = _kernel(tensors, sharpness), _familiarity(tensors, metadata.get("distances"))
    if set(tensors) != {"weights", "bias", "thresholds"}:
        raise HeadError("HEAD_INVALID", "a head has exactly weights, bias and thresholds, and a kernel's numbers")
    return Head(
        type=cast(HeadType, kind),
        space=space,
        concepts=tuple(concepts),
        weights=tensors["weights"],
        bias=tensors["bias"],
        thresholds=tensors["thresholds"],
        value_range=_range(metadata.get("value_range")),
        transform=cast(Transform, transform),
        kernel=kernel,
        familiarity=familiarity,
        interval=_number(metadata.get("interval")),
    )


def _kernel(tensors: dict[str, npt.NDArray[np.float32]], sharpness: object) -> KernelPart | None:
    """Take the kernel's tensors out of those of a file."""
    landmarks, weights = tensors.pop("landmarks", None), tensors.pop("landmark_weights", None)
    if sharpness is None and landmarks is None and weights is None:
        return None
    if isinstance(sharpness, bool) or not isinstance(sharpness, int | float) or landmarks is None or weights is None:
        raise HeadError("HEAD_INVALID", "a kernel has landmarks, their weights and a sharpness")
    if landmarks.dtype != np.float16 or landmarks.ndim != 2:
        raise HeadError("HEAD_INVALID", "landmarks must be a float16 matrix")
    return KernelPart(landmarks.astype(np.float32), weights, float(sharpness))


def _familiarity(tensors: dict[str, npt.NDArray[np.float32]], distances: object) -> Familiarity | None:
    """Take what is remembered of training pictures out of the tensors of a file."""
    mean, axes = tensors.pop("familiar_mean", None), tensors.pop("familiar_axes", None)
    found = _range(distances)
    if found is None and mean is None and axes is None:
        return None
    if found is None or mean is None or axes is None or mean.dtype != np.float16 or axes.dtype != np.float16:
        raise HeadError("HEAD_INVALID", "a familiarity has a mean and axes in float16, and two distances")
    return Familiarity(mean.astype(np.float32), axes.astype(np.float32), *found)


def _metadata(data: bytes) -> dict[str, object]:
    """Read the JSON header itself: the library gives metadata only for files on disk."""
    (size,) = struct.unpack_from("<Q", data.ljust(8, b"\0"))
    if size > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + size])
    document = json.loads(header["__metadata__"]["lensmith_head"])
    if not isinstance(document, dict):
        raise TypeError("its metadata is no object")
    return document


def _number(value: object) -> float | None:
    found = None if value is None else _range([0, value])
    return None if found is None else found[1]


def _range(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise HeadError("HEAD_INVALID", "ranges, distances and intervals must be numbers")
    low, high = value
    if isinstance(low, bool) or isinstance(high, bool) or not isinstance(low, int | float):
        raise HeadError("HEAD_INVALID", "ranges, distances and intervals must be numbers")
    if not isinstance(high, int | float):
        raise HeadError("HEAD_INVALID", "ranges, distances and intervals must be numbers")
    return float(low), float(high)
