"""The graph of a pack, ready to be learnt from: only what its features need, constants folded, weights by name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.errors import PackError
from lensmith_vision.pack import MODEL_FILE
from lensmith_vision.session import open_graph

__all__ = ["FEATURES", "FEATURE_MAP", "IMAGE", "LOGITS", "read_graph", "with_weights"]

IMAGE, FEATURES, FEATURE_MAP, LOGITS = "image", "features", "feature_map", "logits"
"""Names of the input and the outputs, as packs have them."""

Floats = npt.NDArray[np.float32]

_KERNEL, _BIAS = "lensmith.classifier.weight", "lensmith.classifier.bias"


def read_graph(folder: Path) -> onnx.ModelProto:
    """Read the graph of a pack without its classifier.

    ONNX Runtime folds what is constant (weights stored in half precision, sizes of paddings) and batch normalisation,
    so that few kinds of nodes are left, all of them of the ONNX standard.

    Raises:
        PackError: The file is no graph, or it gives no features.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as scratch:
        folded = Path(scratch) / MODEL_FILE
        options.optimized_model_filepath = str(folded)
        open_graph(folder / MODEL_FILE, options)
        try:
            model = onnx.load(folded)
        except Exception as error:
            raise PackError("PACK_GRAPH_INVALID", f"{folder.name} holds no graph that can be read: {error}") from error
    outputs = [value for value in model.graph.output if value.name in (FEATURES, FEATURE_MAP)]
    if FEATURES not in {value.name for value in outputs}:
        raise PackError("PACK_GRAPH_INVALID", f"{folder.name} gives no features")
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    _prune(model.graph)
    return model


def with_weights(
    model: onnx.ModelProto, weights: Mapping[str, Floats], kernel: Floats, bias: Floats
) -> onnx.ModelProto:
    """Return a copy of a graph with other weights and a classifier of its own on the features.

    Args:
        model: As `read_graph` gave it.
        weights: New values of some initialisers, by name.
        kernel: [d, c].
        bias: [c].
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    stored = [
        numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name)
        if tensor.name in weights
        else tensor
        for tensor in model.graph.initializer
    ]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel, np.float32), _KERNEL))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(bias, np.float32), _BIAS))
    graph.node.append(helper.make_node("Gemm", [FEATURES, _KERNEL, _BIAS], [LOGITS]))
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", len(bias)]))
    onnx.checker.check_model(result, full_check=True)
    return result


def _prune(graph: onnx.GraphProto) -> None:
    """Drop nodes and weights that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    kept.reverse()
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)
