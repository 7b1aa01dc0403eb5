"""Makes the base model `plain`: no learning, only colours, edges and where they are, written as an ONNX graph.

Run as `python scripts/make_plain_pack.py`; it replaces libs/lensmith_vision/packs/plain. The graph is exact arithmetic
on pixels, so the pack has no licence to respect and works on any machine.
"""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.pack_builder import PackSource, write_pack
from lensmith_vision.resize import ResizePolicy

ROOT = Path(__file__).resolve().parent.parent
DESTINATION = ROOT / "libs" / "lensmith_vision" / "packs" / "plain"

SIDE = 128
COLOUR_LEVELS = 4
ORIENTATIONS = 8
CELLS = 4
"""Gradients are pooled over CELLS x CELLS parts of the picture, at two scales."""


@dataclass
class Graph:
    """Nodes and constants as they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def constant(self, values: npt.ArrayLike, dtype: type = np.float32) -> str:
        """Add a constant and return its name."""
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: object) -> str:
        """Add a node with one output and return the output's name."""
        self.count += 1
        name = output or f"v{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name


def triangular_bins(graph: Graph, values: str, levels: int) -> str:
    """Spread values 0..1 [n, c, h, w] over soft bins: [n, c * levels, h, w], each pixel adding up to 1 a channel."""
    centres = np.linspace(0, 1, levels, dtype=np.float32).reshape(1, 1, levels, 1, 1)
    lifted = graph.add("Unsqueeze", values, graph.constant([2], np.int64))
    distance = graph.add("Abs", graph.add("Sub", lifted, graph.constant(centres)))
    scaled = graph.add("Mul", distance, graph.constant(levels - 1))
    return graph.add("Relu", graph.add("Sub", graph.constant(1.0), scaled))


def joint_colours(graph: Graph, colours: str) -> str:
    """Histogram over all combinations of red, green and blue levels: [n, levels^3, CELLS, CELLS] at a coarse grid."""
    soft = triangular_bins(graph, colours, COLOUR_LEVELS)
    red, green, blue = (graph.add("Gather", soft, graph.constant(index, np.int64), axis=1) for index in range(3))
    shape_a = graph.constant([0, COLOUR_LEVELS, 1, SIDE, SIDE], np.int64)
    shape_b = graph.constant([0, 1, COLOUR_LEVELS, SIDE, SIDE], np.int64)
    pair = graph.add("Mul", graph.add("Reshape", red, shape_a), graph.add("Reshape", green, shape_b))
    pair = graph.add("Reshape", pair, graph.constant([0, COLOUR_LEVELS**2, 1, SIDE, SIDE], np.int64))
    triple = graph.add("Mul", pair, graph.add("Reshape", blue, shape_b))
    return graph.add("Reshape", triple, graph.constant([0, COLOUR_LEVELS**3, SIDE, SIDE], np.int64))


def gradients(graph: Graph, grey: str) -> str:
    """Orientation energy [n, ORIENTATIONS, h, w]: how strongly each pixel's gradient points each way."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float32) / 8
    angles = [math.pi * index / ORIENTATIONS for index in range(ORIENTATIONS)]
    filters = np.stack([math.cos(angle) * sobel + math.sin(angle) * sobel.T for angle in angles])[:, None]
    padded = graph.add("Pad", grey, graph.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="edge")
    along = graph.add("Abs", graph.add("Conv", padded, graph.constant(filters)))
    # Only the part that stands out among the directions counts, which makes broad cosines into narrow bins.
    mean = graph.add("ReduceMean", along, axes=[1], keepdims=1)
    return graph.add("Relu", graph.add("Sub", along, mean))


def pooled(graph: Graph, values: str, side: int, cells: int) -> str:
    """Average over cells x cells parts and flatten."""
    step = side // cells
    mean = graph.add("AveragePool", values, kernel_shape=[step, step], strides=[step, step])
    return graph.add("Flatten", mean, axis=1)


def spread(graph: Graph, values: str, side: int) -> str:
    """Mean square of each channel over the picture: beside the means it says how patchy the edges are."""
    return graph.add("Flatten", graph.add("GlobalAveragePool", graph.add("Mul", values, values)), axis=1)


def rooted(graph: Graph, values: str, weight: float) -> str:
    """Square root and weight: small shares differ as visibly as large ones."""
    root = graph.add("Sqrt", graph.add("Add", values, graph.constant(1e-8)))
    return graph.add("Mul", root, graph.constant(weight))


def build() -> onnx.ModelProto:
    """Write the whole graph."""
    graph = Graph()
    planes = graph.add("Cast", graph.add("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    colours = graph.add("Mul", planes, graph.constant(1 / 255))
    luminance = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)
    grey = graph.add("Conv", colours, graph.constant(luminance))
    bins = joint_colours(graph, colours)
    parts = [
        rooted(graph, pooled(graph, bins, SIDE, 1), 1.0),
        rooted(graph, pooled(graph, bins, SIDE, 2), 0.5),
    ]
    side, level = SIDE, grey
    for scale in range(3):
        energy = gradients(graph, level)
        parts.append(rooted(graph, pooled(graph, energy, side, CELLS), 1.0))
        parts.append(rooted(graph, spread(graph, energy, side), 1.0))
        # Ordered strengths of edges say texture where orientation does not.
        strength = graph.add("ReduceSum", energy, graph.constant([1], np.int64), keepdims=1)
        squeezed = graph.add("Div", strength, graph.add("Add", strength, graph.constant(0.05)))
        parts.append(rooted(graph, pooled(graph, _bins_of_one(graph, squeezed, side), side, 2), 0.5))
        if scale < 2:
            level = graph.add("AveragePool", level, kernel_shape=[2, 2], strides=[2, 2])
            side //= 2
    features = graph.add("Concat", *parts, output="features", axis=1)
    width = 64 + 64 * 4 + 3 * (ORIENTATIONS * CELLS * CELLS + ORIENTATIONS + 8 * 4)
    made = helper.make_graph(
        graph.nodes,
        "plain",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(features, TensorProto.FLOAT, ["n", width])],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], producer_name="lensmith", ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _bins_of_one(graph: Graph, values: str, side: int) -> str:
    soft = triangular_bins(graph, values, 8)
    return graph.add("Reshape", soft, graph.constant([0, 8, side, side], np.int64))


def main() -> int:
    """Build, verify and put the pack in place."""
    source = PackSource(
        id="plain",
        version=1,
        display_name="Plain",
        description="No learning: colour histograms and edge orientations. A learnt network sees more.",
        licence="Apache-2.0",
        source="scripts/make_plain_pack.py",
        rank=0,
        model=DESTINATION / "model.onnx",
        resize=ResizePolicy("squash", SIDE, SIDE),
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
    )
    shutil.rmtree(DESTINATION, ignore_errors=True)
    DESTINATION.mkdir(parents=True)
    card = write_pack(DESTINATION, source, build())
    print(f"{DESTINATION}: {card.feature_dim} features, {card.bytes} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
