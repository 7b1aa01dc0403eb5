"""A base network as a torch module: the nodes of its graph, run one after the other, with its weights as parameters.

So whatever convolutional network is installed can learn on, without its architecture being written down a second time,
and what was learnt goes back into the very graph that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.graph import FEATURES, IMAGE, read_graph

__all__ = ["Network"]

Floats = npt.NDArray[np.float32]
Value: TypeAlias = "int | float | str | list[int]"
Attributes = Mapping[str, Value]
Operator = Callable[[list[Tensor | None], Attributes], Tensor]

_PREPROCESSING = "lensmith."
"""What a pack puts in front of a network is no part of what learns."""

_LEARNING = frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "LayerNormalization"})


@dataclass(frozen=True)
class _Node:
    operator: Operator
    inputs: tuple[str, ...]
    output: str
    attributes: Attributes


class Network(nn.Module):
    """A pack's network with a classifier on its features.

    Args:
        folder: The pack.
        kernel: Weights of the classifier, [d, c].
        bias: [c].

    Raises:
        PackError: The pack's graph cannot be read.
        TrainingError: ``NETWORK_NOT_TRAINABLE``: the graph has a node that gradients are not known of here.
    """

    def __init__(self, folder: Path, kernel: Floats, bias: Floats) -> None:
        super().__init__()
        self._graph = read_graph(folder)
        self._nodes = [_node(node, folder.name) for node in self._graph.graph.node]
        learning = _learning(self._graph.graph)
        self._names: dict[str, str] = {}
        self.weights = nn.ParameterDict()
        for number, tensor in enumerate(self._graph.graph.initializer):
            value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if tensor.name in learning:
                name = f"w{number}"
                # The layout in which pictures come, and in which convolutions on a CPU are fastest.
                laid = value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
                self.weights[name] = nn.Parameter(laid)
            else:
                name = f"c{number}"
                self.register_buffer(name, value, persistent=False)
            self._names[tensor.name] = name
        self.classifier = nn.Linear(*kernel.shape)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.from_numpy(kernel.T.copy()))
            self.classifier.bias.copy_(torch.from_numpy(bias))

    def features(self, pictures: Tensor) -> Tensor:
        """Compute the features [n, d] of pictures [n, h, w, 3], 0 to 255, of any type."""
        values: dict[str, Tensor] = {IMAGE: pictures.to(torch.float32)}
        for node in self._nodes:
            inputs = [self._value(name, values) if name else None for name in node.inputs]
            values[node.output] = node.operator(inputs, node.attributes)
        return values[FEATURES]

    def forward(self, pictures: Tensor) -> Tensor:
        """Compute the logits [n, c] of pictures [n, h, w, 3], 0 to 255."""
        logits: Tensor = self.classifier(self.features(pictures).to(self.classifier.weight.dtype))
        return logits

    def bands(self, count: int) -> list[list[nn.Parameter]]:
        """Deal the weights by depth into so many groups with equally many layers, the first layers first."""
        order: list[str] = []
        layers: list[int] = []
        for depth, node in enumerate(self._nodes):
            for name in node.inputs:
                held = self._names.get(name, "")
                if held in self.weights and held not in order:
                    order.append(held)
                    layers.append(depth)
        depths = sorted(set(layers))
        bands: list[list[nn.Parameter]] = [[] for _ in range(min(count, len(depths)))]
        for held, depth in zip(order, layers, strict=True):
            bands[depths.index(depth) * len(bands) // len(depths)].append(self.weights[held])
        return bands

    @property
    def graph(self) -> onnx.ModelProto:
        """The graph as it was read: what was learnt takes the place of its weights."""
        return self._graph

    def learnt(self) -> dict[str, Floats]:
        """Return the weights by their names in the graph."""
        return {name: _array(self.weights[held]) for name, held in self._names.items() if held in self.weights}

    @property
    def kernel(self) -> Floats:
        """Weights of the classifier, [d, c]."""
        return np.ascontiguousarray(_array(self.classifier.weight).T)

    @property
    def bias(self) -> Floats:
        """Bias of the classifier, [c]."""
        return _array(self.classifier.bias)

    def _value(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        held = self._names[name]
        return self.weights[held] if held in self.weights else self.get_buffer(held)


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _learning(graph: onnx.GraphProto) -> set[str]:
    """Names of the weights that learn: those of layers, not single numbers such as the bounds of a Clip."""
    floats = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and max(tensor.dims, default=1) > 1
    }
    used = {name for node in graph.node if node.op_type in _LEARNING for name in node.input}
    return {name for name in floats & used if not name.startswith(_PREPROCESSING)}


def _node(node: onnx.NodeProto, pack: str) -> _Node:
    operator = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if operator is None or len([name for name in node.output if name]) != 1:
        raise TrainingError(
            "NETWORK_NOT_TRAINABLE",
            f"{pack} cannot be fine-tuned: it has a node {node.op_type}, whose gradients are not known here",
            {"operator": node.op_type},
        )
    attributes = {attribute.name: _plain(helper.get_attribute_value(attribute)) for attribute in node.attribute}
    return _Node(operator, tuple(node.input), node.output[0], attributes)


def _plain(value: object) -> Value:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int | float | str):
        return value
    return [int(item) for item in value] if isinstance(value, list | tuple) else 0


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise TrainingError("NETWORK_NOT_TRAINABLE", "a node of the graph lacks an input that it needs")
    return tensor


def _ints(attributes: Attributes, name: str, default: list[int]) -> list[int]:
    value = attributes.get(name, default)
    return value if isinstance(value, list) else default


def _number(attributes: Attributes, name: str, default: float) -> float:
    value = attributes.get(name, default)
    return float(value) if isinstance(value, int | float) else default


def _padded(tensor: Tensor, attributes: Attributes, value: float = 0.0) -> Tensor:
    """Pad the last two dimensions as a convolution or a pooling says."""
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise TrainingError("NETWORK_NOT_TRAINABLE", "paddings that depend on the size of a picture are not known here")
    top, left, bottom, right = _ints(attributes, "pads", [0, 0, 0, 0])
    return (
        functional.pad(tensor, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else tensor
    )


def _conv(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    tensor, weight = _given(inputs[0]), _given(inputs[1])
    bias = inputs[2] if len(inputs) > 2 else None
    pads = _ints(attributes, "pads", [0, 0, 0, 0])
    groups = int(_number(attributes, "group", 1))
    strides, dilations = _ints(attributes, "strides", [1, 1]), _ints(attributes, "dilations", [1, 1])
    if pads[:2] == pads[2:] and attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        return functional.conv2d(tensor, weight, bias, strides, pads[:2], dilations, groups)
    return functional.conv2d(_padded(tensor, attributes), weight, bias, strides, 0, dilations, groups)


def _gemm(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    left, right = _given(inputs[0]), _given(inputs[1])
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    product = _number(attributes, "alpha", 1.0) * (left @ right)
    bias = inputs[2] if len(inputs) > 2 else None
    return product if bias is None else product + _number(attributes, "beta", 1.0) * bias


def _clip(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    low = inputs[1] if len(inputs) > 1 else None
    high = inputs[2] if len(inputs) > 2 else None
    # One bound at a time: torch takes tensors or numbers, and these are tensors of one number.
    result = _given(inputs[0])
    result = result if low is None else torch.maximum(result, low.to(result.dtype))
    return result if high is None else torch.minimum(result, high.to(result.dtype))


def _layer_norm(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    tensor, scale = _given(inputs[0]), _given(inputs[1])
    axis = int(_number(attributes, "axis", -1)) % tensor.ndim
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.layer_norm(tensor, list(tensor.shape[axis:]), scale, bias, _number(attributes, "epsilon", 1e-5))


def _mean(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    axes = inputs[1].tolist() if len(inputs) > 1 and inputs[1] is not None else _ints(attributes, "axes", [])
    return _given(inputs[0]).mean(tuple(axes), keepdim=bool(attributes.get("keepdims", 1)))


def _pad(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    tensor = _given(inputs[0])
    pads: list[int] = _given(inputs[1]).tolist()
    if attributes.get("mode", "constant") != "constant" or (len(inputs) > 3 and inputs[3] is not None):
        raise TrainingError("NETWORK_NOT_TRAINABLE", "paddings by anything but a constant are not known here")
    value = float(_given(inputs[2]).item()) if len(inputs) > 2 and inputs[2] is not None else 0.0
    half = len(pads) // 2
    flat = [side for axis in reversed(range(half)) for side in (pads[axis], pads[axis + half])]
    return functional.pad(tensor, flat, value=value)


def _max_pool(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    ceil = bool(attributes.get("ceil_mode", 0))
    if ceil and any(_ints(attributes, "pads", [0])):
        raise TrainingError("NETWORK_NOT_TRAINABLE", "poolings that round up over borders are not known here")
    padded = _padded(_given(inputs[0]), attributes, -torch.inf)
    kernel, strides = _ints(attributes, "kernel_shape", []), _ints(attributes, "strides", [1, 1])
    return functional.max_pool2d(padded, kernel, strides, ceil_mode=ceil)


def _average_pool(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    pads = _ints(attributes, "pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise TrainingError("NETWORK_NOT_TRAINABLE", "poolings with uneven borders are not known here")
    kernel, strides = _ints(attributes, "kernel_shape", []), _ints(attributes, "strides", [1, 1])
    whole = bool(attributes.get("count_include_pad", 0))
    ceil = bool(attributes.get("ceil_mode", 0))
    return functional.avg_pool2d(_given(inputs[0]), kernel, strides, pads[:2], ceil, whole)


def _flatten(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    return _given(inputs[0]).flatten(int(_number(attributes, "axis", 1)))


def _reshape(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    tensor = _given(inputs[0])
    sizes: list[int] = _given(inputs[1]).tolist()
    return tensor.reshape([tensor.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _hard_sigmoid(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    slope, offset = _number(attributes, "alpha", 0.2), _number(attributes, "beta", 0.5)
    return (_given(inputs[0]) * slope + offset).clamp(0, 1)


def _transpose(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    tensor = _given(inputs[0])
    return tensor.permute(_ints(attributes, "perm", list(reversed(range(tensor.ndim)))))


def _concat(inputs: list[Tensor | None], attributes: Attributes) -> Tensor:
    return torch.cat([_given(one) for one in inputs], int(_number(attributes, "axis", 1)))


def _of_one(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda inputs, attributes: function(_given(inputs[0]))


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda inputs, attributes: function(_given(inputs[0]), _given(inputs[1]))


_OPERATORS: dict[str, Operator] = {
    "Add": _of_two(torch.add),
    "AveragePool": _average_pool,
    "Cast": _of_one(lambda tensor: tensor.to(torch.float32)),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _of_two(torch.div),
    "Erf": _of_one(torch.erf),
    "Exp": _of_one(torch.exp),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _of_one(lambda tensor: tensor.mean((2, 3), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _of_one(functional.hardswish),
    "Identity": _of_one(lambda tensor: tensor),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda inputs, attributes: functional.leaky_relu(
        _given(inputs[0]), _number(attributes, "alpha", 0.01)
    ),
    "MatMul": _of_two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _of_two(torch.mul),
    "Pad": _pad,
    "Pow": _of_two(torch.pow),
    "ReduceMean": _mean,
    "Relu": _of_one(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _of_one(torch.sigmoid),
    "Sqrt": _of_one(torch.sqrt),
    "Sub": _of_two(torch.sub),
    "Tanh": _of_one(torch.tanh),
    "Transpose": _transpose,
}
"""What is known of the ONNX standard: enough for convolutional networks of the usual kinds."""
