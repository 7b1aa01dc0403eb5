"""Graphs that show a network several views of a picture: what stands in front of the network, and what behind it.

Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.card import Card
from lensmith_vision.graph_parts import keep_only, source_of_map
from lensmith_vision.resize import ResizePolicy

__all__ = ["View", "shrinking", "with_views"]

_NETWORK = "net."
_VIEWS = "views."
_IMAGE = "image"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A part of the larger picture, brought to the input size of the network.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        mirrored: Whether left and right change places.
    """

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def with_views(
    base: onnx.ModelProto, card: Card, larger: ResizePolicy, views: Sequence[View], *, with_map: bool
) -> onnx.ModelProto:
    """Write views in front of a network and their mean behind it.

    Args:
        base: Graph of a pack of one view; it is not changed.
        card: Its card.
        larger: Size of the picture that the views are cut out of.
        views: The views.
        with_map: Lay the feature maps of the views over each other, and let what follows the map follow that one;
            otherwise the vectors and logits are averaged, and there is no feature map.

    Returns:
        A graph of the contract of packs.
    """
    model = onnx.ModelProto()
    # With a prefix on every name, all others are free to be given.
    model.CopyFrom(onnx.compose.add_prefix(base, _NETWORK))
    graph, writer = model.graph, _Writer()
    _write_cuts(writer, card.resize, larger, views)
    outputs = {"features": [card.feature_dim]}
    if card.logits is not None:
        outputs["logits"] = [card.logits.dim]
    if with_map:
        outputs["feature_map"] = _write_after_map(writer, graph, card, larger, views)
    else:
        writer.nodes.extend(graph.node)
        for name, (dim,) in outputs.items():
            _write_mean(writer, name, dim, len(views))
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants)
    graph.input.append(helper.make_tensor_value_info(_IMAGE, TensorProto.UINT8, ["n", larger.height, larger.width, 3]))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in outputs.items()
    )
    keep_only(graph, outputs)
    model.producer_name = "lensmith"
    onnx.checker.check_model(model, full_check=True)
    return model


def shrinking(source: int, target: int) -> Floats:
    """Return the matrix [target, source] that brings rows to another number, antialiased as Pillow's bilinear."""
    scale = source / target
    reach = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distances = np.abs(np.arange(source)[None, :] + 0.5 - centres[:, None]) / reach
    weights = np.maximum(1 - distances, 0)
    matrix: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


class _Writer:
    """Writes nodes one after another; only operators that mean the same in every version of ONNX since 2018."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: int | list[int]) -> str:
        name = output or f"{_VIEWS}{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, values: npt.NDArray[np.generic]) -> str:
        name = f"{_VIEWS}constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def reshape(self, values: str, *sides: int, output: str = "") -> str:
        return self.add("Reshape", values, self.constant(np.asarray(sides, np.int64)), output=output)


def _write_cuts(writer: _Writer, own: ResizePolicy, larger: ResizePolicy, views: Sequence[View]) -> None:
    """Give the network its views, those of one picture after another: [n * views, height, width, 3]."""
    parts: dict[View, str] = {}
    for view in views:
        plain = View(view.top, view.left, view.height, view.width, mirrored=False)
        if plain not in parts:
            parts[plain] = _write_part(writer, plain, own, larger)
        if view.mirrored:
            backwards = writer.constant(np.arange(own.width, dtype=np.int64)[::-1])
            parts[view] = writer.add("Gather", parts[plain], backwards, axis=2)
    single = [writer.reshape(parts[view], -1, 1, own.height, own.width, 3) for view in views]
    together = writer.add("Concat", *single, axis=1)
    writer.reshape(together, -1, own.height, own.width, 3, output=f"{_NETWORK}{_IMAGE}")


def _write_part(writer: _Writer, view: View, own: ResizePolicy, larger: ResizePolicy) -> str:
    image = _IMAGE
    for axis, start, count, all_of in (
        (1, view.top, view.height, larger.height),
        (2, view.left, view.width, larger.width),
    ):
        if count != all_of:
            image = writer.add("Gather", image, writer.constant(np.arange(start, start + count)), axis=axis)
    if (view.height, view.width) == (own.height, own.width):
        return image
    values = writer.add("Transpose", writer.add("Cast", image, to=TensorProto.FLOAT), perm=[0, 3, 2, 1])
    values = _write_product(writer, values, shrinking(view.height, own.height).T, [-1, 3, view.width, own.height])
    values = writer.add("Transpose", values, perm=[0, 1, 3, 2])
    values = _write_product(writer, values, shrinking(view.width, own.width).T, [-1, 3, own.height, own.width])
    # The network was made for whole numbers: a cast cuts off what follows the point.
    values = writer.add("Add", values, writer.constant(np.asarray(0.5, np.float32)))
    return writer.add("Cast", writer.add("Transpose", values, perm=[0, 2, 3, 1]), to=TensorProto.UINT8)


def _write_mean(writer: _Writer, name: str, dim: int, count: int) -> None:
    by_picture = writer.add("Transpose", writer.reshape(_NETWORK + name, -1, count, dim), perm=[0, 2, 1])
    mean = _write_product(writer, by_picture, np.full((count, 1), 1 / count, np.float32), [-1, dim])
    writer.add("Identity", mean, output=name)


def _write_product(writer: _Writer, values: str, matrix: Floats, shape: list[int]) -> str:
    # As one flat product: products of stacks of matrices cannot be empty, and a batch may be.
    flat = writer.reshape(values, -1, len(matrix))
    return writer.reshape(writer.add("MatMul", flat, writer.constant(matrix)), *shape)


def _write_after_map(
    writer: _Writer, graph: onnx.GraphProto, card: Card, larger: ResizePolicy, views: Sequence[View]
) -> list[int]:
    """Write the network up to its last map, the maps laid over each other, and what follows; gives the map's shape."""
    seen = source_of_map(graph, f"{_NETWORK}feature_map")
    before = onnx.GraphProto()
    before.CopyFrom(graph)
    keep_only(before, [seen])
    known = {name for node in before.node for name in node.output}
    writer.nodes.extend(node for node in graph.node if node.output[0] in known)
    merged, shape = _write_map(writer, card, seen, larger, views)
    writer.add("Identity", merged, output="feature_map")
    for node in graph.node:
        if node.output[0] in known:
            continue
        for place, name in enumerate(node.input):
            if name == seen:
                node.input[place] = merged
        writer.nodes.append(node)
    for name in ("features", *(["logits"] if card.logits is not None else [])):
        writer.add("Identity", _NETWORK + name, output=name)
    return shape


def _write_map(
    writer: _Writer, card: Card, seen: str, larger: ResizePolicy, views: Sequence[View]
) -> tuple[str, list[int]]:
    """Lay maps of views over each other: one product, for each place of each view knows where it saw the picture."""
    if card.feature_map is None:
        raise ValueError("the network has no feature map")
    dim, rows, columns = card.feature_map
    all_rows = max(rows, round(larger.height * rows / card.resize.height))
    all_columns = max(columns, round(larger.width * columns / card.resize.width))
    places = []
    for view in views:
        down = _overlap(view.top, view.height, rows, larger.height, all_rows)
        across = _overlap(view.left, view.width, columns, larger.width, all_columns)
        across = across[:, ::-1] if view.mirrored else across
        places.append(np.einsum("ir,jc->rcij", down, across).reshape(rows * columns, -1))
    table = np.concatenate(places) / len(views)
    by_picture = writer.reshape(seen, -1, len(views), dim, rows * columns)
    by_channel = writer.add("Transpose", by_picture, perm=[0, 2, 1, 3])
    shape = [dim, all_rows, all_columns]
    return _write_product(writer, by_channel, table.astype(np.float32), [-1, *shape]), shape


def _overlap(start: int, length: int, cells: int, side: int, all_cells: int) -> npt.NDArray[np.float64]:
    """Spread cells of a view over cells of the whole [all_cells, cells], so that the mean of all cells stays."""
    edges = start + length * np.arange(cells + 1) / cells
    others = side * np.arange(all_cells + 1) / all_cells
    low = np.maximum(edges[None, :-1], others[:-1, None])
    high = np.minimum(edges[None, 1:], others[1:, None])
    shared: npt.NDArray[np.float64] = np.maximum(high - low, 0) * (cells / length) * (all_cells / cells)
    return shared
