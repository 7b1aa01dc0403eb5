"""Reads networks as hubs publish them: a graph, with `config.json` and `preprocessor_config.json` beside it.

The two files are those of the Transformers library: the one says what the network is and what its logits mean, the
other how pictures are prepared. What they say and a pack cannot do is refused, never left out: a network that is shown
other pictures than it was trained on still answers, only worse. Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lensmith_vision.errors import PackError
from lensmith_vision.general.concepts import taxonomy_of
from lensmith_vision.pack_builder import PackSource
from lensmith_vision.resize import ResizePolicy

__all__ = ["CONFIG_FILE", "PREPROCESSOR_FILE", "Provenance", "read_published"]

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
MODEL_FILES = ("onnx/model.onnx", "model.onnx")

_FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
_BILINEAR = 2
_CROP_SHARE = 224 / 256
_FULL_SIZE = 384
"""From this size on, processors with a `crop_pct` do not crop."""
_REFUSED = ("do_pad", "do_flip_channel_order", "do_affine_transform", "rescale_offset", "include_top")
Document = dict[str, object]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Provenance:
    """What the files of a network do not say about it."""

    id: str
    display_name: str
    licence: str
    source: str
    rank: int


def read_published(folder: Path, provenance: Provenance, model: Path | None = None) -> PackSource:
    """Read a folder of a published network.

    Args:
        folder: With `config.json` and `preprocessor_config.json`.
        provenance: Its name, licence, origin and rank.
        model: Its ONNX file; by default `onnx/model.onnx` or `model.onnx`.

    Raises:
        PackError: A file is missing, or asks for something that packs do not do; the message names the field.
    """
    graph = model or next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    if graph is None:
        raise PackError("PACK_SOURCE_INVALID", f"{provenance.id} has no ONNX file ({' or '.join(MODEL_FILES)})")
    config = _read(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    preparation = _read(folder / PREPROCESSOR_FILE)
    labels = _labels(config)
    scale, offset = _scale_and_offset(preparation)
    ignored = tuple(index for index, label in enumerate(labels) if label == "background")
    multi_label = config.get("problem_type") == "multi_label_classification"
    return PackSource(
        id=provenance.id,
        version=1,
        display_name=provenance.display_name,
        description=_description(config),
        licence=provenance.licence,
        source=provenance.source,
        rank=provenance.rank,
        model=graph,
        resize=_resize(preparation, whole=not labels),
        scale=scale,
        offset=offset,
        labels=labels,
        ignored=ignored,
        activation="sigmoid" if multi_label else "softmax",
        taxonomy="" if multi_label else taxonomy_of([label for at, label in enumerate(labels) if at not in ignored]),
    )


def _read(path: Path) -> Document:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PackError("PACK_SOURCE_INVALID", f"{path.name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise PackError("PACK_SOURCE_INVALID", f"{path.name} is no object")
    return document


def _description(config: Document) -> str:
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    return ", ".join(names) or str(config.get("model_type", ""))


def _labels(config: Document) -> tuple[str, ...]:
    """The names of the logits; none where there is no classifier, or nobody gave its classes names."""
    named = config.get("id2label")
    classifies = any("Classification" in str(name) for name in _list(config.get("architectures")))
    if not isinstance(named, dict) or not classifies:
        return ()
    try:
        by_index = {int(index): str(label).strip() for index, label in named.items()}
    except ValueError as error:
        raise PackError("PACK_SOURCE_INVALID", f"{CONFIG_FILE}: id2label has keys that are no numbers") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise PackError("PACK_SOURCE_INVALID", f"{CONFIG_FILE}: id2label does not count from 0")
    labels = tuple(" ".join(by_index[index].split()) or f"class {index}" for index in range(len(by_index)))
    return () if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels


def _scale_and_offset(preparation: Document) -> tuple[Triple, Triple]:
    """Scale and offset of `pixel * scale + offset` for each channel."""
    factor = 1.0
    if preparation.get("do_rescale", True):
        factor = _number(preparation.get("rescale_factor", 1 / 255), "rescale_factor")
    mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if preparation.get("do_normalize", True):
        mean, deviation = _triple(preparation, "image_mean"), _triple(preparation, "image_std")
    if not factor or not all(deviation):
        raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: rescale_factor and image_std must not be 0")
    scale = (factor / deviation[0], factor / deviation[1], factor / deviation[2])
    return scale, (-mean[0] / deviation[0], -mean[1] / deviation[1], -mean[2] / deviation[2])


def _resize(preparation: Document, *, whole: bool) -> ResizePolicy:
    """How pictures come to their size; `whole` leaves the crop out."""
    asked = [name for name in _REFUSED if preparation.get(name)]
    if asked or preparation.get("do_resize") is False:
        raise PackError(
            "PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: a pack cannot do {', '.join(asked) or 'do_resize: false'}"
        )
    resample = preparation.get("resample", _BILINEAR)
    if not isinstance(resample, int) or resample not in _FILTERS:
        raise PackError(
            "PACK_SOURCE_INVALID",
            f"{PREPROCESSOR_FILE}: resample is {resample!r}, neither 2 (bilinear) nor 3 (bicubic)",
        )
    try:
        return _policy(preparation, _FILTERS[resample], whole)
    except ValueError as error:
        raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: {error}") from error


def _policy(preparation: Document, kernel: Literal["bilinear", "bicubic"], whole: bool) -> ResizePolicy:
    height, width, short = _size(preparation.get("size", 224), "size")
    if "crop_pct" in preparation:
        # ConvNeXT's way: the size is that of the result, and is cut out of a picture somewhat larger.
        share = _number(preparation["crop_pct"] or _CROP_SHARE, "crop_pct")
        if not 0 < share <= 1:
            raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: crop_pct must be above 0, at most 1")
        if whole or height >= _FULL_SIZE:
            return ResizePolicy("squash", height, width, filter=kernel)
        return ResizePolicy("short_side_crop", height, width, int(short / share), kernel)
    if not preparation.get("do_center_crop", False):
        if isinstance(preparation.get("size"), dict) and "shortest_edge" in _dictionary(preparation["size"]):
            raise PackError(
                "PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: size.shortest_edge without a crop leaves the size open"
            )
        return ResizePolicy("squash", height, width, filter=kernel)
    rows, columns, _ = _size(preparation.get("crop_size", 224), "crop_size")
    if whole:
        return ResizePolicy("squash", rows, columns, filter=kernel)
    return ResizePolicy("short_side_crop", rows, columns, short, kernel)


def _size(value: object, field: str) -> tuple[int, int, int]:
    """Height, width and shorter side of the spellings that are in use."""
    if isinstance(value, dict):
        known = _dictionary(value)
        if "shortest_edge" in known:
            side = _pixels(known["shortest_edge"], field)
            return side, side, side
        height, width = _pixels(known.get("height"), field), _pixels(known.get("width"), field)
        return height, width, min(height, width)
    if isinstance(value, list) and len(value) == 2:
        height, width = _pixels(value[0], field), _pixels(value[1], field)
        return height, width, min(height, width)
    side = _pixels(value, field)
    return side, side, side


def _pixels(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
        raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: {field} must be 1 to 8192 pixels, not {value!r}")
    return value


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: {field} must be a number, not {value!r}")
    return float(value)


def _triple(preparation: Document, field: str) -> Triple:
    values = _list(preparation.get(field))
    if len(values) != 3:
        raise PackError("PACK_SOURCE_INVALID", f"{PREPROCESSOR_FILE}: {field} must be three numbers")
    red, green, blue = (_number(value, field) for value in values)
    return red, green, blue


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _dictionary(value: object) -> Document:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}
