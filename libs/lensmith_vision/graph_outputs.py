"""Finds in a foreign graph what a pack gives: features, the last feature map, logits.

Networks are published with whatever outputs their exporter named. What the outputs do not show is looked for in the
graph: the classifier is the last product with constant weights, and what goes into it are the features. Whatever was
found is measured on two pictures before it is believed. Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.errors import PackError
from lensmith_vision.session import open_session

__all__ = ["network_input", "with_contract_outputs"]

_VECTORS = ("image_embeds", "pooler_output", "image_features", "embeddings", "embedding", "sentence_embedding")
_HIDDEN = ("last_hidden_state", "feature_map")
_LOGITS = ("logits", "scores", "output", "probabilities", "probs")
_SHAPING = frozenset({"Identity", "Dropout", "Flatten", "Reshape", "Squeeze"})
_POOLING = frozenset({"GlobalAveragePool", "ReduceMean", "AveragePool"})
_BIAS = frozenset({"Add", "Sub", "Mul", "Div"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "Conv"})
_QUANTISED = frozenset({"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
_PREFIX = "net."
Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class _Candidates:
    """Tensors of the graph that may be what a pack gives; none of them is believed yet."""

    logits: str | None
    vectors: tuple[str, ...]
    hidden: tuple[str, ...]
    classified: str | None
    pooled: str | None

    @property
    def names(self) -> list[str]:
        found = (self.logits, *self.vectors, *self.hidden, self.classified, self.pooled)
        return list(dict.fromkeys(name for name in found if name))


def network_input(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    """Return the one input of a network that takes pictures as float32 NCHW.

    Raises:
        PackError: It takes something else.
    """
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise PackError("PACK_SOURCE_INVALID", f"the graph has {len(inputs)} inputs ({names}), not one picture")
    kind = inputs[0].type.tensor_type
    sizes = [dim.dim_value for dim in kind.shape.dim]
    if kind.elem_type != TensorProto.FLOAT or len(sizes) != 4 or sizes[1] not in (0, 3):
        raise PackError(
            "PACK_SOURCE_INVALID",
            f"the input {inputs[0].name} is {TensorProto.DataType.Name(kind.elem_type).lower()} {sizes}, "
            "not float32 [n, 3, height, width]",
        )
    return inputs[0]


def with_contract_outputs(model: onnx.ModelProto, height: int, width: int, labels: int) -> onnx.ModelProto:
    """Return the network with the outputs `features` and, where they can be found, `feature_map` and `logits`.

    Args:
        model: A graph that takes float32 NCHW.
        height: Rows of the pictures it takes.
        width: Columns.
        labels: How many logits it should have; 0 leaves its classifier out.

    Raises:
        PackError: No features can be found, or the graph does not run; the message says what was found.
    """
    quantised = sorted({node.op_type for node in model.graph.node} & _QUANTISED)
    if quantised:
        raise PackError(
            "PACK_SOURCE_INVALID", f"the graph is quantised ({', '.join(quantised)}); take its float32 file"
        )
    # With a prefix on every name, the outputs of the contract are free to be given.
    network = onnx.compose.add_prefix(model, _PREFIX)
    value = network_input(network.graph)
    batch, *sides = value.type.tensor_type.shape.dim
    for dim, size in zip(sides, (3, height, width), strict=True):
        if dim.dim_value not in (0, size):
            raise PackError(
                "PACK_SOURCE_INVALID",
                f"the graph takes pictures with a side of {dim.dim_value}, its card says {height} x {width}",
            )
        dim.dim_value = size
    batch.dim_param = "n"
    reader = _Graph(network.graph)
    candidates = reader.candidates()
    arrays = _probe(network, value.name, candidates.names, height, width)
    outputs = _Outputs(arrays)
    outputs.find_features(candidates, list(reader.outputs))
    outputs.find_map(reader, candidates)
    if labels:
        outputs.find_logits(candidates, labels)
    network.graph.node.extend(outputs.nodes)
    del network.graph.output[:]
    network.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in outputs.shapes.items()
    )
    # What the exporter thought of sizes in between was said of its own batch.
    del network.graph.value_info[:]
    return network


class _Graph:
    """Walks a graph against its direction."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._maker = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name for tensor in graph.initializer}
        self.outputs = {value.name.removeprefix(_PREFIX): value.name for value in graph.output}

    def candidates(self) -> _Candidates:
        logits = self._logits()
        classified = self._into_classifier(logits) if logits else None
        vectors = tuple(self.outputs[name] for name in _VECTORS if name in self.outputs)
        hidden = tuple(self.outputs[name] for name in _HIDDEN if name in self.outputs)
        features = next(iter((*vectors, *((classified,) if classified else ()))), None)
        return _Candidates(logits, vectors, hidden, classified, self.before_pooling(features) if features else None)

    def before_pooling(self, name: str) -> str | None:
        """The tensor whose mean over space a vector may be."""
        while node := self._maker.get(name):
            if node.op_type in _POOLING:
                return str(node.input[0])
            if node.op_type not in _SHAPING:
                return None
            name = node.input[0]
        return None

    def _logits(self) -> str | None:
        known = [self.outputs[name] for name in _LOGITS if name in self.outputs]
        others = [name for own, name in self.outputs.items() if own not in (*_VECTORS, *_HIDDEN)]
        name = next(iter(known or (others if len(others) == 1 else [])), None)
        while name and (node := self._maker.get(name)) and node.op_type in ("Softmax", "Sigmoid", "Identity"):
            name = str(node.input[0])
        return name

    def _into_classifier(self, name: str) -> str | None:
        while node := self._maker.get(name):
            constant = [self._is_constant(source) for source in node.input]
            if node.op_type in _PRODUCTS and len(constant) > 1 and constant[1] and not constant[0]:
                return str(node.input[0])
            if node.op_type in _BIAS and sum(constant) == 1:
                name = node.input[constant.index(False)]
            elif node.op_type in _SHAPING or node.op_type in _POOLING:
                name = node.input[0]
            else:
                return None
        return None

    def _is_constant(self, name: str) -> bool:
        if name in self._constants:
            return True
        node = self._maker.get(name)
        if node is None or node.op_type not in ("Constant", "Cast", "Transpose", "Identity", "DequantizeLinear"):
            return False
        return all(self._is_constant(source) for source in node.input)


class _Outputs:
    """Chooses among candidates by what they gave, and writes the nodes that make the outputs of the contract."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._features: npt.NDArray[np.float32] | None = None
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: dict[str, list[int]] = {}

    def find_features(self, candidates: _Candidates, outputs: Sequence[str]) -> None:
        for name in (*candidates.vectors, *candidates.hidden, *filter(None, (candidates.classified,))):
            values = self._arrays[name]
            if values.ndim == 2 or (values.ndim == 4 and values.shape[2:] == (1, 1)):
                self._give("features", helper.make_node("Flatten", [name], ["features"]), values.reshape(2, -1))
            elif values.ndim == 4:
                pooled = f"{_PREFIX}lensmith.pooled"
                self.nodes.append(helper.make_node("GlobalAveragePool", [name], [pooled]))
                self._give("features", helper.make_node("Flatten", [pooled], ["features"]), values.mean(axis=(2, 3)))
                self._give("feature_map", helper.make_node("Identity", [name], ["feature_map"]), values)
            elif values.ndim == 3:
                self._of_tokens(name, values)
            if self._features is not None:
                return
        shapes = {name.removeprefix(_PREFIX): ["n", *array.shape[1:]] for name, array in self._arrays.items()}
        raise PackError(
            "PACK_SOURCE_INVALID",
            f"no features can be found: the graph gives {', '.join(outputs)}, of which no embedding, hidden state "
            f"or classifier with constant weights is known (looked at {shapes or 'nothing'})",
        )

    def find_map(self, reader: _Graph, candidates: _Candidates) -> None:
        if "feature_map" in self.shapes or self._features is None or candidates.pooled is None:
            return
        values = self._arrays[candidates.pooled]
        if values.ndim != 4 or values.shape[1] != self._features.shape[1]:
            return
        # A heat map spreads the score of the features over the map: only right where the features are its mean.
        if np.allclose(values.mean(axis=(2, 3)), self._features, rtol=1e-3, atol=1e-4):
            self._give("feature_map", helper.make_node("Identity", [candidates.pooled], ["feature_map"]), values)

    def find_logits(self, candidates: _Candidates, labels: int) -> None:
        values = None if candidates.logits is None else self._arrays[candidates.logits].reshape(2, -1)
        if candidates.logits is None or values is None or values.shape[1] != labels:
            found = "no logits" if values is None else f"{values.shape[1]} logits"
            raise PackError("PACK_SOURCE_INVALID", f"the network names {labels} labels, but its graph gives {found}")
        self._give("logits", helper.make_node("Flatten", [candidates.logits], ["logits"]), values)

    def _of_tokens(self, name: str, values: npt.NDArray[np.float32]) -> None:
        tokens = values.shape[1]
        if math.isqrt(tokens) ** 2 == tokens:
            # One token for each patch of a square: all of them together are the picture.
            turned, pooled = f"{_PREFIX}lensmith.turned", f"{_PREFIX}lensmith.pooled"
            self.nodes.append(helper.make_node("Transpose", [name], [turned], perm=[0, 2, 1]))
            self.nodes.append(helper.make_node("GlobalAveragePool", [turned], [pooled]))
            self._give("features", helper.make_node("Flatten", [pooled], ["features"]), values.mean(axis=1))
            return
        # More than a square: the first stands for the picture, the rest for patches.
        index = f"{_PREFIX}lensmith.first"
        self.nodes.append(helper.make_node("Constant", [], [index], value=numpy_helper.from_array(np.array(0))))
        node = helper.make_node("Gather", [name, index], ["features"], axis=1)
        self._give("features", node, values[:, 0])

    def _give(self, output: str, node: onnx.NodeProto, values: npt.NDArray[np.float32]) -> None:
        if output == "features":
            if values.shape[1] < 2 or not values.std(axis=0).any():
                raise PackError("PACK_SOURCE_INVALID", f"{node.input[0]} is the same for every picture")
            self._features = values
        self.nodes.append(node)
        self.shapes[output] = [int(side) for side in values.shape[1:]]


def _probe(network: onnx.ModelProto, image: str, names: Sequence[str], height: int, width: int) -> Arrays:
    """Compute tensors of the graph on two pictures, together and alone."""
    probed = onnx.ModelProto()
    probed.CopyFrom(network)
    known = {value.name for value in probed.graph.output}
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    pictures = np.random.default_rng(0).normal(size=(2, 3, height, width)).astype(np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "network.onnx"
        onnx.save(probed, path)
        session = open_session(path, threads=1)
        try:
            both = session.run(list(names), {image: pictures})
            alone = session.run(list(names), {image: pictures[:1]})
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise PackError(
                "PACK_SOURCE_INVALID", f"the graph does not run on two pictures of {height} x {width} at once: {why}"
            ) from error
    for name, together, single in zip(names, both, alone, strict=True):
        if together.shape[0] != 2 or not np.allclose(together[:1], single, rtol=1e-2, atol=1e-3):
            raise PackError("PACK_SOURCE_INVALID", f"what the graph says of a picture ({name}) depends on its company")
    return dict(zip(names, both, strict=True))
