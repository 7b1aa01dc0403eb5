"""Weights stored as float16 make a graph of half the size that gives the same answers at the same speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.errors import PackError
from lensmith_vision.pack import golden_images, load_card, load_labels, verify
from lensmith_vision.pack_builder import PackSource, build_pack, read_source, write_pack
from lensmith_vision.packing import store_weights_as_fp16
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.session import open_session


def graph_of(weights: np.ndarray, *, overridable: bool = False) -> onnx.ModelProto:
    """One product with `weights` [8, k]."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[0]])]
    if overridable:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, weights.shape))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored_types(model: onnx.ModelProto) -> list[int]:
    return [item.data_type for item in model.graph.initializer]


def test_large_weights_are_stored_as_fp16_and_the_graph_before_is_not_changed() -> None:
    weights = np.random.default_rng(1).normal(size=(8, 200))
    before = graph_of(weights)
    after = store_weights_as_fp16(before)
    assert stored_types(before) == [TensorProto.FLOAT]
    assert stored_types(after) == [TensorProto.FLOAT16]
    assert after.ByteSize() < 0.6 * before.ByteSize()
    assert store_weights_as_fp16(after) == after


@pytest.mark.parametrize(
    "model",
    [
        graph_of(np.ones((8, 8))),
        graph_of(np.full((8, 200), 1e5)),
        graph_of(np.full((8, 200), np.nan)),
        graph_of(np.ones((8, 200)), overridable=True),
    ],
    ids=["small", "beyond-float16", "not-finite", "overridable"],
)
def test_weights_stay_as_they_are_when_fp16_cannot_stand_for_them(model: onnx.ModelProto) -> None:
    assert store_weights_as_fp16(model) == model


def test_a_real_network_gives_the_same_vectors_when_its_weights_are_stored_as_fp16(
    shared: Path, tmp_path: Path
) -> None:
    source = read_source(shared / "models" / "mobilenetv2-imagenet")
    build_pack(source, tmp_path / "wide")
    half = store_weights_as_fp16(onnx.load(tmp_path / "wide" / "model.onnx"))
    folder = tmp_path / "half"
    folder.mkdir()
    write_pack(folder, replace(source, version=2), half)
    card = verify(folder)
    assert (card.numeric, len(load_labels(folder))) == ("fp32", 1001)
    assert card.bytes < 0.52 * load_card(tmp_path / "wide").bytes
    images = golden_images(range(20, 32), 224, 224)
    wide, narrow = (
        open_session(path / "model.onnx", threads=1).run(["features", "logits"], {"image": images})
        for path in (tmp_path / "wide", folder)
    )
    for before, after in zip(wide, narrow, strict=True):
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        assert ((before * after).sum(axis=1) / norms).min() > 0.9999
    assert (wide[1].argmax(axis=1) == narrow[1].argmax(axis=1)).all()


def test_a_network_that_computes_in_fp16_is_refused(tmp_path: Path) -> None:
    """What is stored may be narrow; what is given must be float32."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("ReduceMean", ["half"], ["features"], axes=[1, 2], keepdims=0),
        ],
        "narrow",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source = PackSource(
        id="narrow",
        version=1,
        display_name="Narrow",
        description="",
        licence="MIT",
        source="a test",
        rank=1,
        model=tmp_path / "none.onnx",
        resize=ResizePolicy("squash", 8, 8),
        scale=(1, 1, 1),
        offset=(0, 0, 0),
    )
    with pytest.raises(PackError):
        write_pack(tmp_path, source, model)
