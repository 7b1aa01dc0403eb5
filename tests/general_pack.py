"""A tiny network with General's classes: random, but with the outputs of a real one, and quick."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.general import LEAVES, TAXONOMY, Calibration, hierarchy
from lensmith_vision.pack_builder import PackSource, build_pack
from lensmith_vision.resize import ResizePolicy

FEATURES = 16
LABELS = ("background", *(", ".join((leaf.name, *leaf.synonyms)) for leaf in hierarchy().concepts[-LEAVES:]))


def build_general_pack(
    folder: Path, *, name: str = "tiny", rank: int = 50, side: int = 32, calibration: Calibration | None = None
) -> Path:
    """Build a pack whose pictures differ in what they show; `folder` must not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = folder.parent / f".{folder.name}.onnx"
    onnx.save(_network(side), model)
    source = PackSource(
        id=name,
        version=1,
        display_name=name,
        description="a network of random numbers",
        licence="Apache-2.0",
        source="tests",
        rank=rank,
        model=model,
        resize=ResizePolicy("squash", side, side),
        scale=(1 / 255,) * 3,
        offset=(0.0,) * 3,
        labels=LABELS,
        ignored=(0,),
        taxonomy=TAXONOMY,
    )
    build_pack(replace(source, calibration=calibration), folder)
    model.unlink()
    return folder


def _network(side: int) -> onnx.ModelProto:
    random = np.random.RandomState(side)
    weights = {
        "kernel": random.randn(FEATURES, 3, 4, 4) / 4,
        "classes": random.randn(FEATURES, LEAVES + 1) * 12,
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["edges"], strides=[4, 4]),
        helper.make_node("Relu", ["edges"], ["feature_map"]),
        helper.make_node("GlobalAveragePool", ["feature_map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "classes"], ["logits"]),
    ]
    shapes = {"features": [FEATURES], "feature_map": [FEATURES, side // 4, side // 4], "logits": [LEAVES + 1]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in shapes.items()],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
