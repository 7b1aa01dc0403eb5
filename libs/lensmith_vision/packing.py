"""Half the bytes for the same network: weights stored as float16 and widened again when the graph is loaded.

Needs the extra ``lensmith[packs]``.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["store_weights_as_fp16"]

_SMALLEST = 1024
"""Elements. Biases and scales stay as they are: they are few, and one of them moves a whole channel."""


def store_weights_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph whose large float32 weights are stored as float16, each with a ``Cast`` to float32.

    The network still computes in float32: engines fold a ``Cast`` of a constant while they load the graph, so speed
    and memory are those of the graph before. Only the weights are rounded, to 11 significant bits. The numeric class
    of a pack (``fp32``) says how a network computes and stays the same; its golden vectors are those of the copy.

    Weights that float16 cannot hold (beyond 65504), and those that a caller may override, are left alone.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    inputs = {value.name for value in graph.input}
    taken = {name for node in graph.node for name in node.output} | {item.name for item in graph.initializer} | inputs
    stored: list[onnx.TensorProto] = []
    casts: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        half = None if tensor.name in inputs else _halved(tensor)
        if half is None:
            stored.append(tensor)
            continue
        name = f"{tensor.name}.fp16"
        while name in taken:
            name += "_"
        taken.add(name)
        stored.append(numpy_helper.from_array(half, name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    # Nodes stand in the order in which they run, and everything may need a weight.
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def _halved(tensor: onnx.TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]] | None:
    if tensor.data_type != TensorProto.FLOAT:
        return None
    values = numpy_helper.to_array(tensor)
    if values.size < _SMALLEST or not np.abs(values).max() <= np.finfo(np.float16).max:
        return None
    return values.astype(np.float16)
