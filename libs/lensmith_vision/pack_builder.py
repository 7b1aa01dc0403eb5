"""Makes model packs out of foreign networks: preprocessing goes into the graph, golden vectors into the card.

Run as ``python -m lensmith_vision.pack_builder SOURCE DESTINATION``. Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.card import CARD_FILE, LABELS_FILE, MODEL_FILE, Card, Golden, Logits
from lensmith_vision.errors import PackError
from lensmith_vision.general.calibration import CALIBRATION_FILE, Calibration
from lensmith_vision.general.concepts import taxonomy_of
from lensmith_vision.graph_outputs import network_input, with_contract_outputs
from lensmith_vision.pack import golden_images, load_calibration, verify
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.session import open_session

__all__ = ["DEFAULT_RANK", "PackSource", "build_pack", "main", "read_source"]

_GOLDEN_SEEDS = (1, 2, 3)
_IMAGENET_SHORT_SIDE = 256
# Which base to train on where several are installed: learnt general features, then those of a network that was
# quantised once, like any other that somebody took the trouble to install; then what ships with the code (100 and
# less). A narrow classifier is last.
_RANKS = {"mobilenetv2-features": 200, "mobilenetv2-imagenet": 150, "nsfw-mobilenetv2": -100}
DEFAULT_RANK = 150


@dataclass(frozen=True)
class PackSource:
    """A foreign network and what must be known to wrap it.

    The network takes float32 NCHW; its input is ``pixel * scale + offset`` for each channel of RGB.

    Attributes:
        model: The ONNX file. Outputs ``features``, ``feature_map`` and ``logits`` are taken as they are; without
            ``features`` all three are looked for in the graph.
        scale: Three factors.
        offset: Three summands, added after scaling.
        labels: Names of the logits, in their order.
        ignored: Logits that name nothing, see :class:`lensmith_vision.card.Logits`.
        activation: What turns the logits into scores.
        taxonomy: What the card calls the classes, see :class:`lensmith_vision.card.Logits`.
        calibration: How the logits become General's probabilities, where that was fitted.
        views: Passes through the network that make one vector.
    """

    id: str
    version: int
    display_name: str
    description: str
    licence: str
    source: str
    rank: int
    model: Path
    resize: ResizePolicy
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    labels: tuple[str, ...] = ()
    ignored: tuple[int, ...] = ()
    activation: Literal["softmax", "sigmoid"] = "softmax"
    taxonomy: str = ""
    calibration: Calibration | None = None
    views: int = 1


def build_pack(source: PackSource, destination: Path) -> Card:
    """Write a pack folder and verify it; the folder appears complete or not at all.

    Args:
        source: The network.
        destination: The folder to make; it must not exist.

    Raises:
        PackError: The network cannot be wrapped, or the destination is taken.
    """
    if destination.exists():
        raise PackError("PACK_EXISTS", f"{destination} exists already")
    destination.parent.mkdir(parents=True, exist_ok=True)
    graph = _wrap(source)
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        card = write_pack(staging, source, graph)
        staging.chmod(0o755)
        os.rename(staging, destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return card


def write_pack(folder: Path, source: PackSource, graph: onnx.ModelProto) -> Card:
    """Write a graph that keeps the contract, its labels, calibration and card into a folder, and verify the result."""
    blob = graph.SerializeToString()
    (folder / MODEL_FILE).write_bytes(blob)
    if source.labels:
        (folder / LABELS_FILE).write_text("".join(f"{label}\n" for label in source.labels), encoding="utf-8")
    if source.calibration is not None:
        (folder / CALIBRATION_FILE).write_text(source.calibration.to_json(), encoding="utf-8")
    session = open_session(folder / MODEL_FILE, threads=1)
    images = golden_images(_GOLDEN_SEEDS, source.resize.height, source.resize.width)
    (features,) = session.run(["features"], {"image": images})
    shapes = {output.name: output.shape for output in session.get_outputs()}
    card = Card(
        id=source.id,
        version=source.version,
        display_name=source.display_name,
        description=source.description,
        licence=source.licence,
        source=source.source,
        rank=source.rank,
        resize=source.resize,
        views=source.views,
        numeric="fp32",
        feature_dim=int(features.shape[1]),
        feature_map=_map_shape(shapes.get("feature_map")),
        logits=_logits(source),
        golden=Golden(_GOLDEN_SEEDS, features),
        sha256=hashlib.sha256(blob).hexdigest(),
        bytes=len(blob),
    )
    (folder / CARD_FILE).write_text(card.to_json(), encoding="utf-8")
    return verify(folder)


def read_source(folder: Path) -> PackSource:
    """Read a folder of a network with a descriptive ``card.json`` (input.normalise or input.range, outputs, labels).

    Raises:
        PackError: The folder holds no network, or its preprocessing is not understood.
    """
    try:
        document = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        given, name = document["input"], str(document["name"])
        model = folder / str(document["file"])
        normalise = str(given["normalise"] if "normalise" in given else given["range"])
        height, width = (int(side) for side in (given["size"] if "size" in given else given["shape"][2:]))
        outputs = document.get("outputs", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(
            "PACK_SOURCE_INVALID", f"{folder.name} holds no network with a card that is understood: {error!r}"
        ) from error
    if model.suffix != ".onnx":
        raise PackError("PACK_SOURCE_INVALID", f"{folder.name} holds {model.name}, which is no ONNX graph")
    scale, offset = parse_normalisation(normalise)
    labels = _read_labels(folder, document) if {"logits", "probabilities"} & set(outputs) else ()
    if str(given.get("resize", "")).startswith("squash"):
        resize = ResizePolicy("squash", height, width)
    elif labels:
        # A classifier is used the way it was trained.
        resize = ResizePolicy("short_side_crop", height, width, max(height, width) * _IMAGENET_SHORT_SIDE // 224)
    else:
        # Features for other people's concepts: a centre crop cuts objects off, squashing distorts them. Half of each
        # was more accurate on the sets that it was chosen on, and no worse on the one that was kept for checking.
        resize = ResizePolicy("half_crop", height, width)
    ignored = tuple(index for index, label in enumerate(labels) if label == "background")
    taxonomy = taxonomy_of([label for index, label in enumerate(labels) if index not in ignored])
    return PackSource(
        id=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
        version=1,
        display_name=name,
        description=str(document.get("architecture", "")),
        licence=str(document.get("licence", "unknown")),
        source=str(document.get("source", "unknown")),
        rank=_RANKS.get(name, DEFAULT_RANK),
        model=model,
        resize=resize,
        scale=scale,
        offset=offset,
        labels=labels,
        ignored=ignored,
        taxonomy=taxonomy,
        calibration=load_calibration(folder) if taxonomy else None,
    )


def parse_normalisation(text: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Turn the three usual spellings of a normalisation into scale and offset for each channel.

    Understood are ``(x/255 - [m, m, m]) / [s, s, s]``, ``x / 127.5 - 1`` and ``0..1 (…)``.

    Raises:
        PackError: Any other spelling.
    """
    compact = re.sub(r"\s+", "", text)
    number = r"[0-9.]+"
    triple = rf"\[({number}),({number}),({number})\]"
    standard = re.fullmatch(rf"\(x/255-{triple}\)/{triple}", compact)
    if standard:
        values = [float(value) for value in standard.groups()]
        mean, deviation = values[:3], values[3:]
        scale = tuple(1 / (255 * value) for value in deviation)
        offset = tuple(-m / s for m, s in zip(mean, deviation, strict=True))
        return (scale[0], scale[1], scale[2]), (offset[0], offset[1], offset[2])
    if compact == "x/127.5-1":
        return (1 / 127.5,) * 3, (-1.0,) * 3
    if compact.startswith("0..1"):
        return (1 / 255,) * 3, (0.0,) * 3
    raise PackError("PACK_SOURCE_INVALID", f"the normalisation {text!r} is not understood")


def _wrap(source: PackSource) -> onnx.ModelProto:
    """Put uint8 NHWC input and the normalisation in front of the network, and keep the outputs of the contract."""
    try:
        model = onnx.load(source.model)
        onnx.checker.check_model(model)
    except Exception as error:
        raise PackError("PACK_SOURCE_INVALID", f"{source.model.name} is no valid ONNX graph: {error}") from error
    if "features" not in {value.name for value in model.graph.output}:
        model = with_contract_outputs(model, source.resize.height, source.resize.width, len(source.labels))
    graph = model.graph
    inner = network_input(graph).name
    factors = np.asarray(source.scale, dtype=np.float32).reshape(1, 3, 1, 1)
    summands = np.asarray(source.offset, dtype=np.float32).reshape(1, 3, 1, 1)
    front = [
        helper.make_node("Transpose", ["image"], ["lensmith.nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["lensmith.nchw"], ["lensmith.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["lensmith.float", "lensmith.scale"], ["lensmith.scaled"]),
        helper.make_node("Add", ["lensmith.scaled", "lensmith.offset"], [inner]),
    ]
    nodes = front + [node for node in graph.node if not _is_softmax_after_logits(node)]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *dims])
        for name, dims in _output_shapes(source, graph)
    ]
    wrapped = helper.make_graph(
        nodes,
        source.id,
        [
            helper.make_tensor_value_info(
                "image", TensorProto.UINT8, ["n", source.resize.height, source.resize.width, 3]
            )
        ],
        outputs,
        [
            *graph.initializer,
            numpy_helper.from_array(factors, "lensmith.scale"),
            numpy_helper.from_array(summands, "lensmith.offset"),
        ],
    )
    result = helper.make_model(
        wrapped, opset_imports=list(model.opset_import), producer_name="lensmith", ir_version=model.ir_version
    )
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        raise PackError("PACK_SOURCE_INVALID", f"{source.model.name} does not fit its card: {error}") from error
    return result


def _is_softmax_after_logits(node: onnx.NodeProto) -> bool:
    return node.op_type == "Softmax" and list(node.input) == ["logits"] and list(node.output) == ["probabilities"]


def _output_shapes(source: PackSource, graph: onnx.GraphProto) -> list[tuple[str, list[int]]]:
    """List the outputs of the contract with their shapes, the batch left out."""
    made = {name for node in graph.node for name in node.output}
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]] for value in graph.output}
    if "features" not in made or "features" not in shapes:
        raise PackError("PACK_SOURCE_INVALID", f"{source.model.name} has no output `features`")
    wanted: list[tuple[str, list[int]]] = [
        (name, shapes[name]) for name in ("features", "feature_map") if name in shapes
    ]
    if source.labels:
        if "logits" not in made:
            raise PackError("PACK_SOURCE_INVALID", f"{source.model.name} has labels but makes no `logits`")
        wanted.append(("logits", [len(source.labels)]))
    return wanted


def _logits(source: PackSource) -> Logits | None:
    if not source.labels:
        return None
    return Logits(len(source.labels), source.activation, source.ignored, source.taxonomy)


def _map_shape(shape: Sequence[int | str | None] | None) -> tuple[int, int, int] | None:
    if shape is None:
        return None
    channels, height, width = (int(side) for side in shape[1:] if side is not None)
    return channels, height, width


def _read_labels(folder: Path, document: dict[str, object]) -> tuple[str, ...]:
    listed = document.get("labels")
    if isinstance(listed, list):
        return tuple(str(label) for label in listed)
    try:
        text = (folder / LABELS_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise PackError("PACK_SOURCE_INVALID", f"{folder.name} has logits but no labels") from error
    return tuple(line.strip() for line in text.splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one pack, or one of each network in a folder of networks, and say what was made."""
    parser = argparse.ArgumentParser(prog="lensmith_vision.pack_builder", description=__doc__)
    parser.add_argument("source", type=Path, help="a folder with a network and its card, or a folder of such folders")
    parser.add_argument("destination", type=Path, help="the folder to put the pack folders into")
    chosen = parser.parse_args(arguments)
    folders = [chosen.source] if (chosen.source / CARD_FILE).is_file() else sorted(chosen.source.glob("*/"))
    failures = 0
    for folder in folders:
        try:
            source = read_source(folder)
            card = build_pack(source, chosen.destination / source.id)
        except PackError as error:
            failures += 1
            sys.stderr.write(f"{folder.name}: {error}\n")
            continue
        sys.stdout.write(f"{card.id} version {card.version}: {card.feature_dim} features, {card.bytes} bytes\n")
    return 1 if failures == len(folders) else 0


if __name__ == "__main__":
    sys.exit(main())
