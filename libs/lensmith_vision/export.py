"""A version as one ONNX graph: raw pixels in, probabilities and what is predicted out.

The graph of the base network is kept as it is, and what the head does is written behind it: transform, product, kernel,
calibration (folded into the numbers), activation, thresholds. Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.card import Card
from lensmith_vision.errors import VisionError
from lensmith_vision.familiarity import LEAST, Familiarity
from lensmith_vision.general import ConceptSums
from lensmith_vision.graph_parts import keep_only
from lensmith_vision.heads import Head
from lensmith_vision.kernel import KernelPart

__all__ = ["ExportError", "Exported", "NativeAnswer", "export_graph"]

_BASE = "base."
_ANSWER = "answer."


class ExportError(VisionError):
    """A version cannot be exported."""


@dataclass(frozen=True, eq=False)
class NativeAnswer:
    """What a version without a head makes of the logits of its base network.

    Attributes:
        sums: How its concepts are sums over classes; None: they are the classes themselves.
        temperature: What the logits are divided by first, where there are sums.
    """

    sums: ConceptSums | None = None
    temperature: float = 1.0


@dataclass(frozen=True, eq=False)
class Exported:
    """What goes into a graph.

    Attributes:
        name: Resource name of the version.
        card: Of the base network.
        answer: What answers.
        concepts: Own ids in the order of the outputs.
        thresholds: [c], from which score on each concept counts as predicted.
    """

    name: str
    card: Card
    answer: Head | NativeAnswer
    concepts: tuple[str, ...]
    thresholds: npt.NDArray[np.float64]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        head = self.answer if isinstance(self.answer, Head) else None
        values = ("number",) if head is not None and head.type == "regression" else ("probabilities", "predicted")
        return (*values, "unfamiliar") if head is not None and head.familiarity is not None else values


def export_graph(base: onnx.ModelProto, exported: Exported) -> onnx.ModelProto:
    """Write what a version answers behind its base network.

    Args:
        base: Graph of the base network's pack; it is not changed.
        exported: What to write.

    Returns:
        A graph that takes ``image`` uint8 [n, height, width, 3] and gives ``probabilities`` float32 [n, c] and
        ``predicted`` bool [n, c]; of a regression model ``number`` float32 [n, 1] instead; and, where the head
        remembers its training pictures, ``unfamiliar`` float32 [n, 1].

    Raises:
        ExportError: The base network gives nothing that the version could answer from.
    """
    model = onnx.ModelProto()
    # With a prefix on every name but the input's, the outputs are free to be given.
    model.CopyFrom(onnx.compose.add_prefix(base, _BASE, rename_inputs=False))
    graph = model.graph
    writer = _Writer()
    if isinstance(exported.answer, Head):
        _write_head(writer, exported.answer, f"{_BASE}features")
    else:
        _write_native(writer, exported.answer, exported.card, f"{_BASE}logits")
    if "probabilities" in exported.outputs:
        exact = writer.add("Cast", "probabilities", to=TensorProto.DOUBLE)
        below = writer.add("Less", exact, writer.constant(exported.thresholds.astype(np.float64)))
        writer.add("Not", below, output="predicted")
    source = f"{_BASE}features" if isinstance(exported.answer, Head) else f"{_BASE}logits"
    if source not in {name for node in graph.node for name in node.output}:
        raise ExportError("EXPORT_IMPOSSIBLE", f"{exported.card.id} gives nothing that {exported.name} answers from")
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants)
    del graph.output[:], model.metadata_props[:]
    graph.output.extend(_outputs(exported))
    keep_only(graph, exported.outputs)
    model.producer_name = "lensmith"
    graph.name = exported.name
    for key, text in _metadata(exported).items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Writes nodes one after another; only operators that mean the same in every version of ONNX since 2018."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: int) -> str:
        name = output or f"{_ANSWER}{len(self.nodes)}"
        node = helper.make_node(operator, list(inputs), [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def constant(self, values: npt.NDArray[np.generic] | float) -> str:
        name = f"{_ANSWER}constant.{len(self.constants)}"
        array = np.asarray(values, np.float32) if isinstance(values, float) else values
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def halves(self, values: npt.NDArray[np.float32]) -> str:
        """A constant that float16 can say, stored as such."""
        return self.add("Cast", self.constant(values.astype(np.float16)), to=TensorProto.FLOAT)

    def sum_of_squares(self, values: str, width: int) -> str:
        """[n, width] to [n, 1], as a product: the operators that add up have changed their form."""
        return self.add("MatMul", self.add("Mul", values, values), self.constant(np.ones((width, 1), np.float32)))

    def clipped(self, values: str, low: float, high: float, output: str = "") -> str:
        return self.add("Min", self.add("Max", values, self.constant(low)), self.constant(high), output=output)


def _write_head(writer: _Writer, head: Head, features: str) -> None:
    inputs = _write_transform(writer, head, features)
    product = writer.add("MatMul", inputs, writer.constant(head.weights))
    logits = writer.add("Add", product, writer.constant(head.bias))
    if head.kernel is not None:
        logits = writer.add("Add", logits, _write_kernel(writer, head.kernel, inputs))
    if head.type == "multi_class":
        writer.add("Softmax", logits, output="probabilities", axis=1)
    elif head.type == "multi_label":
        writer.add("Sigmoid", logits, output="probabilities")
    else:
        low, high = head.value_range or (-np.inf, np.inf)
        writer.clipped(logits, float(low), float(high), output="number")
    if head.familiarity is not None:
        _write_familiarity(writer, head.familiarity, inputs)


def _write_transform(writer: _Writer, head: Head, features: str) -> str:
    if head.transform == "none":
        return features
    values = features
    if head.transform == "root":
        values = writer.add("Mul", writer.add("Sqrt", writer.add("Abs", values)), writer.add("Sign", values))
    lengths = writer.add("Sqrt", writer.sum_of_squares(values, head.dim))
    return writer.add("Div", values, writer.add("Max", lengths, writer.constant(1e-6)))


def _write_kernel(writer: _Writer, kernel: KernelPart, inputs: str) -> str:
    landmarks = writer.halves(np.ascontiguousarray(kernel.landmarks.T))
    moved = writer.add("Sub", inputs, writer.constant(kernel.origin))
    own = writer.add("MatMul", moved, writer.constant(kernel.origin[:, None]))
    doubled = writer.add("Mul", writer.add("Sub", writer.add("MatMul", moved, landmarks), own), writer.constant(2.0))
    nearer = writer.add("Sub", doubled, writer.constant(kernel.squares))
    nearness = writer.add("Sub", nearer, writer.sum_of_squares(moved, len(kernel.origin)))
    capped = writer.add("Min", nearness, writer.constant(0.0))
    similar = writer.add("Exp", writer.add("Mul", capped, writer.constant(float(kernel.sharpness))))
    return writer.add("MatMul", similar, writer.constant(kernel.weights))


def _write_familiarity(writer: _Writer, familiarity: Familiarity, inputs: str) -> None:
    count, dim = familiarity.axes.shape
    centred = writer.add("Sub", inputs, writer.halves(familiarity.mean))
    along = writer.add("MatMul", centred, writer.halves(np.ascontiguousarray(familiarity.axes.T)))
    squares = writer.add("Sub", writer.sum_of_squares(centred, dim), writer.sum_of_squares(along, count))
    distances = writer.add("Sqrt", writer.add("Max", squares, writer.constant(0.0)))
    logarithm = writer.add("Log", writer.add("Max", distances, writer.constant(LEAST)))
    centre = writer.add("Sub", logarithm, writer.constant(math.log(familiarity.far)))
    scaled = writer.add("Div", centre, writer.constant(familiarity.scale))
    writer.add("Sigmoid", writer.clipped(scaled, -50.0, 50.0), output="unfamiliar")


def _write_native(writer: _Writer, answer: NativeAnswer, card: Card, logits: str) -> None:
    if card.logits is None:
        raise ExportError("EXPORT_IMPOSSIBLE", f"{card.id} has no classifier")
    kept = np.setdiff1d(np.arange(card.logits.dim), np.asarray(card.logits.ignored, np.int64)).astype(np.int64)
    values = writer.add("Gather", logits, writer.constant(kept), axis=1)
    if answer.sums is None:
        softmax = card.logits.activation == "softmax"
        attributes = {"axis": 1} if softmax else {}
        writer.add("Softmax" if softmax else "Sigmoid", values, output="probabilities", **attributes)
        return
    cooled = writer.add("Div", values, writer.constant(float(answer.temperature)))
    leaves = writer.add("Softmax", cooled, axis=1)
    table = np.zeros((len(kept), len(answer.sums.starts)), np.uint8)
    ends: Sequence[int] = [*answer.sums.starts[1:].tolist(), len(answer.sums.leaves)]
    for column, (start, end) in enumerate(zip(answer.sums.starts.tolist(), ends, strict=True)):
        table[answer.sums.leaves[start:end], column] = 1
    members = writer.add("Cast", writer.constant(table), to=TensorProto.FLOAT)
    writer.clipped(writer.add("MatMul", leaves, members), 0.0, 1.0, output="probabilities")


def _outputs(exported: Exported) -> list[onnx.ValueInfoProto]:
    kinds = {"predicted": TensorProto.BOOL}
    return [
        helper.make_tensor_value_info(
            name,
            kinds.get(name, TensorProto.FLOAT),
            ["n", 1 if name in ("number", "unfamiliar") else len(exported.concepts)],
        )
        for name in exported.outputs
    ]


def _metadata(exported: Exported) -> dict[str, str]:
    return {
        "lensmith.model_version": exported.name,
        "lensmith.concepts": json.dumps(list(exported.concepts), ensure_ascii=False),
        "lensmith.thresholds": json.dumps(exported.thresholds.tolist()),
        "lensmith.licence": exported.card.licence,
    }
