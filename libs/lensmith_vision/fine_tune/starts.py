"""Networks to begin from that are no packs yet: published MobileNetV2 weights, and networks of torch.

Any pack whose graph is a convolutional network is a start as it is. These make packs of the others.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.card import CARD_FILE, Card
from lensmith_vision.errors import PackError
from lensmith_vision.pack_builder import DEFAULT_RANK, PackSource, build_pack, parse_normalisation
from lensmith_vision.resize import ResizePolicy

if TYPE_CHECKING:  # torch is needed for its own networks only
    from torch import nn

__all__ = ["MOBILENET_V2_WEIGHTS", "mobilenet_v2_pack", "torch_pack"]

Floats = npt.NDArray[np.float32]

MOBILENET_V2_WEIGHTS = "weights.npz"
"""What the folder of `mobilenet_v2_pack` has where a pack has a graph."""

_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
"""Of the seventeen bottlenecks of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381)."""

_EPSILON = 1e-5
_OPSET = 17


def mobilenet_v2_pack(source: Path, destination: Path, *, id: str = "", rank: int | None = None) -> Card:
    """Make a pack of a folder with `weights.npz`: MobileNetV2 1.0 with ReLU and batch normalisation, no classifier.

    Batch normalisation is folded: what is learnt on a few hundred pictures should not depend on the statistics of
    batches of sixteen.

    Args:
        source: The folder, with a `card.json` that names its normalisation.
        destination: The folder to make.
        id: Of the pack; empty: the name in the card.
        rank: Of the pack; None: as imported networks have it.

    Raises:
        PackError: The folder holds something else.
    """
    try:
        document = json.loads((source / CARD_FILE).read_text(encoding="utf-8"))
        with np.load(source / str(document["file"]), allow_pickle=False) as archive:
            weights = {name: np.asarray(archive[name], np.float32) for name in archive.files}
        height, width = (int(side) for side in document["input"]["size"])
        graph = _mobilenet_v2(weights, height, width)
        scale, offset = parse_normalisation(str(document["input"]["normalise"]))
        name = str(document["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(
            "PACK_SOURCE_INVALID", f"{source.name} holds no MobileNetV2 to begin from: {error!r}"
        ) from error
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        onnx.save(graph, model)
        return build_pack(
            PackSource(
                id=id or name,
                version=1,
                display_name=name,
                description=str(document.get("architecture", "")),
                licence=str(document.get("licence", "unknown")),
                source=str(document.get("source", "unknown")),
                rank=DEFAULT_RANK if rank is None else rank,
                model=model,
                resize=ResizePolicy("squash", height, width),
                scale=scale,
                offset=offset,
            ),
            destination,
        )


def torch_pack(
    network: nn.Module,
    destination: Path,
    *,
    name: str,
    size: tuple[int, int],
    mean: Sequence[float],
    deviation: Sequence[float],
    licence: str,
    source: str,
    id: str = "",
    rank: int | None = None,
) -> Card:
    """Make a pack of a convolutional torch network; its batch normalisation is folded.

    Args:
        network: From pictures [n, 3, h, w] to their last map [n, d, h', w'].
        destination: The folder to make.
        name: Of the network.
        size: Height and width of its pictures.
        mean: Of each channel, which is taken off pixels of 0 to 1.
        deviation: Of each channel, which they are divided by.
        licence: Of its weights.
        source: Where they come from.
        id: Of the pack; empty: made of the name.
        rank: Of the pack; None: as imported networks have it.

    Raises:
        PackError: The network is none that packs can hold.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model.onnx"
        _trace(network, size, model)
        scales = [1 / (255 * value) for value in deviation]
        offsets = [-m / s for m, s in zip(mean, deviation, strict=True)]
        return build_pack(
            PackSource(
                id=id or _id_of(name),
                version=1,
                display_name=name,
                description=f"{name}, features only",
                licence=licence,
                source=source,
                rank=DEFAULT_RANK if rank is None else rank,
                model=model,
                resize=ResizePolicy("squash", *size),
                scale=(scales[0], scales[1], scales[2]),
                offset=(offsets[0], offsets[1], offsets[2]),
            ),
            destination,
        )


def _id_of(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")


def _trace(network: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Write a network that gives a feature map as a graph that gives its mean too."""
    import torch

    class _Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps = self.network(pictures)
            return maps.mean((2, 3)), maps

    with torch.inference_mode():
        shape = network.eval()(torch.zeros(1, 3, *size)).shape
    if len(shape) != 4:
        raise PackError("PACK_SOURCE_INVALID", f"the network gives {tuple(shape[1:])} for a picture, and no map of it")
    names = ["features", "feature_map"]
    with warnings.catch_warnings():
        # The exporter that follows by tracing; the newer one needs a package more and comes to the same here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Traced().eval(),
            (torch.zeros(1, 3, *size),),
            str(path),
            input_names=["input"],
            output_names=names,
            dynamic_axes={name: {0: "n"} for name in ("input", *names)},
            opset_version=_OPSET,
            dynamo=False,
        )


class _Layers:
    """Writes convolutions one after the other, each with its batch normalisation folded in."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def conv(self, tensor: str, conv: str, norm: str, stride: int = 1, *, relu: bool = True, output: str = "") -> str:
        kernel = self._weights[f"{conv}.weight"]
        spread = np.sqrt(self._weights[f"{norm}.running_var"] + _EPSILON)
        factor = self._weights[f"{norm}.weight"] / spread
        bias = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * factor
        folded = (kernel * factor[:, None, None, None]).astype(np.float32)
        self.initializers.append(numpy_helper.from_array(folded, f"{conv}.weight"))
        self.initializers.append(numpy_helper.from_array(bias.astype(np.float32), f"{conv}.bias"))
        side = kernel.shape[2]
        made = f"{conv}.out" if relu else output or f"{conv}.out"
        self.nodes.append(
            helper.make_node(
                "Conv",
                [tensor, f"{conv}.weight", f"{conv}.bias"],
                [made],
                kernel_shape=[side, side],
                pads=[side // 2] * 4,
                strides=[stride, stride],
                # A depthwise kernel sees one channel only.
                group=kernel.shape[0] if kernel.shape[1] == 1 else 1,
            )
        )
        if not relu:
            return made
        lit = output or f"{conv}.relu"
        self.nodes.append(helper.make_node("Relu", [made], [lit]))
        return lit

    def add(self, left: str, right: str) -> str:
        self.nodes.append(helper.make_node("Add", [left, right], [f"{right}.sum"]))
        return f"{right}.sum"


def _mobilenet_v2(weights: Mapping[str, Floats], height: int, width: int) -> onnx.ModelProto:
    layers = _Layers(weights)
    tensor = layers.conv("input", "conv0", "batchnorm0", 2)
    for number, stride in enumerate(_STRIDES):
        block = f"linearbottleneck{number}_"
        inside = layers.conv(tensor, f"{block}conv0", f"{block}batchnorm0")
        inside = layers.conv(inside, f"{block}conv1", f"{block}batchnorm1", stride)
        inside = layers.conv(inside, f"{block}conv2", f"{block}batchnorm2", relu=False)
        before = weights[f"{block}conv0.weight"].shape[1]
        same = stride == 1 and before == weights[f"{block}conv2.weight"].shape[0]
        tensor = layers.add(tensor, inside) if same else inside
    layers.conv(tensor, "conv1", "batchnorm1", output="feature_map")
    layers.nodes.append(helper.make_node("ReduceMean", ["feature_map"], ["features"], axes=[2, 3], keepdims=0))
    channels = int(weights["conv1.weight"].shape[0])
    side = (-(-height // 32), -(-width // 32))
    graph = helper.make_graph(
        layers.nodes,
        "mobilenet-v2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, height, width])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels]),
            helper.make_tensor_value_info("feature_map", TensorProto.FLOAT, ["n", channels, *side]),
        ],
        layers.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
