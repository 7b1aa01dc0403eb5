"""Parts of graphs: what some outputs need and nothing else, and the classifier that a base network brings with it.

Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lensmith_vision.card import Card
from lensmith_vision.errors import PackError
from lensmith_vision.explain import Classifier
from lensmith_vision.session import Session, open_session

__all__ = ["keep_only", "load_graph", "read_classifier", "source_of_map"]

_CHANNELS_AT_ONCE = 32
_TOLERANCE = 1e-3


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph whose weights lie in the same file.

    Raises:
        PackError: It cannot be read.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:
        raise PackError("PACK_GRAPH_INVALID", f"{path.name} is no valid ONNX graph: {error}") from error


def keep_only(graph: onnx.GraphProto, outputs: Collection[str], given: Collection[str] = ()) -> set[str]:
    """Remove the nodes and weights that some tensors do not need.

    Args:
        graph: Changed in place; its declared inputs and outputs stay.
        outputs: The tensors that are wanted.
        given: Tensors that need not be made.

    Returns:
        Names that the rest needs and does not make: inputs of the graph.
    """
    maker = {name: node for node in graph.node for name in node.output}
    wanted, open_names = set(given), list(outputs)
    kept: set[int] = set()
    while open_names:
        name = open_names.pop()
        if name in wanted or not name:
            continue
        wanted.add(name)
        node = maker.get(name)
        if node is not None and id(node) not in kept:
            kept.add(id(node))
            open_names.extend(_read_by(node))
    # Nodes stand in the order in which they run; the rest of them keep it.
    nodes = [node for node in graph.node if id(node) in kept]
    weights = [tensor for tensor in graph.initializer if tensor.name in wanted]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in wanted]
    known = {tensor.name for tensor in weights} | {tensor.values.name for tensor in sparse}
    for field in (graph.node, graph.initializer, graph.sparse_initializer, graph.value_info):
        del field[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.sparse_initializer.extend(sparse)
    return wanted - known - set(given) - {name for node in nodes for name in node.output}


def read_classifier(path: Path, card: Card) -> Classifier | None:
    """Find out the weights of a base network's own classifier; None where it is not linear in the feature map.

    Exporters write a classifier in many ways, so its weights are measured: the part of the graph from the feature map
    to the logits is asked about every channel alone.

    Args:
        path: The graph.
        card: Its card; it must have a feature map and logits.

    Raises:
        PackError: The graph cannot be read or run.
    """
    if card.feature_map is None or card.logits is None:
        return None
    model = load_graph(path)
    graph = model.graph
    cut = source_of_map(graph)
    if keep_only(graph, ["logits"], [cut]):
        return None  # the logits see more of the picture than the feature map
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(cut, TensorProto.FLOAT, ["n", *card.feature_map]))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", card.logits.dim]))
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / "classifier.onnx"
        onnx.save(model, part)
        return _measured(open_session(part, threads=1), cut, card.feature_map)


def _measured(session: Session, cut: str, shape: tuple[int, int, int]) -> Classifier | None:
    dim = shape[0]
    (bias,) = session.run(["logits"], {cut: np.zeros((1, *shape), np.float32)})
    rows = []
    for start in range(0, dim, _CHANNELS_AT_ONCE):
        channels = np.arange(start, min(start + _CHANNELS_AT_ONCE, dim))
        maps = np.zeros((len(channels), *shape), np.float32)
        maps[np.arange(len(channels)), channels] = 1
        rows.append(session.run(["logits"], {cut: maps})[0] - bias)
    classifier = Classifier(np.concatenate(rows).astype(np.float32), bias[0].astype(np.float32))
    probe = np.random.default_rng(0).random((2, *shape), np.float32)
    (actual,) = session.run(["logits"], {cut: probe})
    expected = probe.mean(axis=(2, 3)) @ classifier.weights + classifier.bias
    scale = max(1.0, float(np.abs(actual).max()))
    return classifier if np.allclose(actual, expected, rtol=0, atol=_TOLERANCE * scale) else None


def source_of_map(graph: onnx.GraphProto, name: str = "feature_map") -> str:
    """Find the tensor that the feature map is: its own name, or what a renaming node takes."""
    maker = {name: node for node in graph.node for name in node.output}
    while (node := maker.get(name)) is not None and node.op_type == "Identity":
        name = node.input[0]
    return name


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those of its inner graphs too."""
    yield from node.input
    for attribute in node.attribute:
        inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
        for graph in inner:
            for part in graph.node:
                yield from _read_by(part)
            yield from (value.name for value in graph.output)
