"""A graph that needs more than its own file, or more than a graph should, is refused before anything opens it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.errors import PackError
from lensmith_vision.graph_file import check_graph_bytes, check_graph_file
from lensmith_vision.pack import BUILTIN_PACKS, builtin_pack, load_card, space_of, verify
from lensmith_vision.pack_builder import PackSource, build_pack
from lensmith_vision.resize import ResizePolicy

_LOCATIONS = ("weights.bin", "../../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "")


def _outside(location: str = "weights.bin", name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _graph() -> GraphProto:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    return helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(np.ones(4, np.float32), "one")])


def _model(*nodes: onnx.NodeProto) -> ModelProto:
    model = helper.make_model(_graph(), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.graph.node.extend(nodes)
    return model


def _of_attribute(**values: object) -> ModelProto:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(AttributeProto(name="value", **values))
    return _model(node)


def _inner(tensor: TensorProto) -> GraphProto:
    graph = _graph()
    graph.initializer.append(tensor)
    return graph


def _sparse(dims: list[int], values: TensorProto | None = None) -> onnx.SparseTensorProto:
    one = numpy_helper.from_array(np.ones(1, np.float32), "values")
    return onnx.SparseTensorProto(
        values=values or one, indices=numpy_helper.from_array(np.zeros(1, np.int64), "at"), dims=dims
    )


def _with_function(inner: onnx.NodeProto) -> ModelProto:
    model = _model(helper.make_node("Twice", ["x"], ["z"], domain="mine"))
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], [inner], []))
    return model


def _where_weights_can_lie(tensor: TensorProto) -> dict[str, ModelProto]:
    initialiser, sparse, training = _model(), _model(), _model()
    initialiser.graph.initializer.append(tensor)
    sparse.graph.sparse_initializer.append(_sparse([4], tensor))
    training.training_info.add().initialization.CopyFrom(_inner(tensor))
    constant = helper.make_node("Constant", [], ["b"])
    constant.attribute.append(AttributeProto(name="value", t=tensor))
    return {
        "initialiser": initialiser,
        "sparse initialiser": sparse,
        "training": training,
        "attribute": _of_attribute(t=tensor),
        "attribute of tensors": _of_attribute(tensors=[tensor]),
        "sparse attribute": _of_attribute(sparse_tensor=_sparse([4], tensor)),
        "subgraph": _of_attribute(g=_inner(tensor)),
        "subgraph of a subgraph": _of_attribute(graphs=[_of_attribute(g=_inner(tensor)).graph]),
        "function": _with_function(constant),
    }


def _refusal(model: ModelProto) -> str:
    with pytest.raises(PackError) as caught:
        check_graph_bytes(model.SerializeToString(), "model.onnx")
    return caught.value.reason


@pytest.mark.parametrize("location", _LOCATIONS)
def test_graph_is_refused_when_weights_lie_elsewhere(location: str) -> None:
    for place, model in _where_weights_can_lie(_outside(location)).items():
        assert _refusal(model) == "PACK_GRAPH_EXTERNAL_DATA", place
    # Each half of the statement is enough: engines differ in which of them they ask.
    halves = (_outside(location), _outside(location))
    del halves[0].external_data[:]
    halves[1].data_location = TensorProto.DEFAULT
    for half in halves:
        assert _refusal(_of_attribute(g=_inner(half))) == "PACK_GRAPH_EXTERNAL_DATA"


def test_pack_is_refused_before_it_is_opened_when_weights_lie_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(builtin_pack(), folder)
    graph = onnx.load(folder / "model.onnx")
    # What it names is there, and right: the pack would work, on this machine.
    onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    content = (folder / "model.onnx").read_bytes()
    document = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    document |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "card.json").write_text(json.dumps(document), encoding="utf-8")
    engine = OnnxRuntimeEngine()
    openings: list[Callable[[], object]] = [
        lambda: verify(folder),
        lambda: engine.load(space_of(load_card(folder)).id, folder),
    ]
    for opening in openings:
        with pytest.raises(PackError) as caught:
            opening()
        assert caught.value.reason == "PACK_GRAPH_EXTERNAL_DATA"


def test_source_is_taken_in_whole_or_refused_when_its_weights_lie_beside_it(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["features"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    made = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [made], [weights]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = tmp_path / "network" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    source = PackSource(
        *("beside", 1, "", "", "MIT", "", 1, path),
        resize=ResizePolicy("squash", 8, 8),
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
    )
    assert build_pack(source, tmp_path / "pack").bytes > 0
    assert not list((tmp_path / "pack").glob("*data"))
    (tmp_path / "secret").write_bytes(bytes(24))
    for location in ("../secret", str(tmp_path / "secret"), "missing"):
        shaped = onnx.load(path, load_external_data=False)
        next(entry for entry in shaped.graph.initializer[0].external_data if entry.key == "location").value = location
        path.write_bytes(shaped.SerializeToString())
        with pytest.raises(PackError) as caught:
            build_pack(source, tmp_path / "other")
        assert caught.value.reason == "PACK_SOURCE_INVALID", location


def test_graph_is_refused_when_an_operator_needs_a_library() -> None:
    theirs = helper.make_node("Solve", ["x"], ["z"], domain="com.example")
    inner = _graph()
    inner.node.append(theirs)
    for model in (_model(theirs), _of_attribute(g=inner), _with_function(theirs)):
        with pytest.raises(PackError) as caught:
            check_graph_bytes(model.SerializeToString(), "model.onnx")
        assert caught.value.reason == "PACK_GRAPH_OPERATOR_UNKNOWN"
        assert caught.value.metadata == {"operator": "Solve", "domain": "com.example"}
    # What ONNX Runtime brings, and what the file defines itself, needs none.
    for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft"):
        check_graph_bytes(_model(helper.make_node("Gelu", ["x"], ["z"], domain=domain)).SerializeToString(), "")
    check_graph_bytes(_with_function(helper.make_node("Add", ["a", "a"], ["b"])).SerializeToString(), "")


def test_graph_is_refused_when_it_is_larger_than_graphs_are() -> None:
    many = _model()
    many.graph.node.extend([helper.make_node("Identity", ["x"], ["y"])] * 20_000)
    deep = _graph()
    for _ in range(16):
        node = helper.make_node("If", ["x"], ["y"])
        node.attribute.append(AttributeProto(name="then_branch", g=deep))
        deep = _graph()
        deep.node.append(node)
    nested, sparse, ranked, parts = _model(), _model(), _model(), _model()
    nested.graph.CopyFrom(deep)
    sparse.graph.sparse_initializer.append(_sparse([1 << 16, 1 << 16]))
    ranked.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1] * 65))
    parts.graph.node[0].input.extend([""] * 1_000_000)
    named, defined = _model(helper.make_node("n" * 513, ["x"], ["y"])), _model()
    defined.functions.extend([onnx.FunctionProto(name="f")] * 20_000)
    weights, outputs = _model(), _model(helper.make_node("Split", ["x"], ["y"] * 40_000))
    weights.graph.initializer.extend([TensorProto(name="w")] * 40_000)
    for model in (many, nested, sparse, ranked, parts, named, defined, weights, outputs):
        assert _refusal(model) == "PACK_GRAPH_TOO_LARGE"


def _of_functions(*calls: str) -> ModelProto:
    """A model that calls f0; each function f0, f1 and so on calls the next given one twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = _model(helper.make_node("f0", ["x"], ["z"], domain="own"))
    for place, call in enumerate(calls):
        domain = "own" if call.startswith("f") else ""
        nodes = [
            helper.make_node(call, ["x"], ["m"], domain=domain),
            helper.make_node(call, ["m"], ["y"], domain=domain),
        ]
        model.functions.append(helper.make_function("own", f"f{place}", ["x"], ["y"], nodes, opsets))
    model.opset_import.append(opsets[1])
    return model


def _call_of_f0(model: ModelProto) -> NodeProto:
    [call] = [node for node in model.graph.node if node.op_type == "f0"]
    return call


def test_graph_is_refused_when_functions_that_call_each_other_would_be_millions_of_nodes() -> None:
    check_graph_bytes(_of_functions("f1", "f2", "Relu").SerializeToString(), "small.onnx")
    # 12 of them are some 16,000 nodes, 60 as many as nobody has memory for: in four kilobytes.
    for depth, reason in ((12, None), (60, "PACK_GRAPH_TOO_LARGE")):
        model = _of_functions(*(f"f{place}" for place in range(1, depth)), "Relu")
        if reason is None:
            check_graph_bytes(model.SerializeToString(), "deep.onnx")
        else:
            assert _refusal(model) == reason
    # Each calls the next one once alone: few nodes, but engines go down into them until their stack is full.
    for depth, reason in ((60, None), (3000, "PACK_GRAPH_TOO_LARGE")):
        model = _of_functions(*(f"f{place}" for place in range(1, depth)), "Relu")
        for function in model.functions:
            del function.node[0]
            function.node[0].input[0] = "x"
        if reason is None:
            check_graph_bytes(model.SerializeToString(), "deep.onnx")
        else:
            assert _refusal(model) == reason
    assert _refusal(_of_functions("f1", "f0")) == "PACK_GRAPH_INVALID"
    assert _refusal(_of_functions("f0")) == "PACK_GRAPH_INVALID"


def test_graph_is_refused_when_calls_of_a_function_would_copy_its_weights_too_often() -> None:
    model = _of_functions("Relu")
    weights = numpy_helper.from_array(np.zeros(1 << 17, np.float32))
    model.functions[0].node.append(helper.make_node("Constant", [], ["k"], value=weights))
    check_graph_bytes(model.SerializeToString(), "once.onnx")
    model.graph.node.extend([_call_of_f0(model)] * 4100)
    assert _refusal(model) == "PACK_GRAPH_TOO_LARGE"


def test_graph_is_refused_when_calls_of_a_function_would_give_too_many_values() -> None:
    model = _of_functions("Relu")
    model.functions[0].node.append(helper.make_node("Split", ["x"], ["s"] * 4000))
    check_graph_bytes(model.SerializeToString(), "once.onnx")
    model.graph.node.extend([_call_of_f0(model)] * 10)
    assert _refusal(model) == "PACK_GRAPH_TOO_LARGE"


def test_graph_is_refused_when_it_gives_a_graph_or_weights_to_a_function() -> None:
    body = helper.make_graph([helper.make_node("Constant", [], ["b"], value_float=1.0)], "body", [], [])
    call = helper.make_node("f0", ["x"], ["z"], domain="own", body=body)
    for given_by_call in (True, False):
        model = _of_functions("Relu")
        if given_by_call:
            _call_of_f0(model).CopyFrom(call)
        else:
            model.functions[0].attribute_proto.append(helper.make_attribute("body", body))
        assert _refusal(model) == "PACK_GRAPH_INVALID"
    for size, reason in ((200, None), (300, "PACK_GRAPH_INVALID")):
        weights = numpy_helper.from_array(np.zeros(size, np.float32))
        _call_of_f0(model).CopyFrom(helper.make_node("f0", ["x"], ["z"], domain="own", value=weights))
        model.functions[0].ClearField("attribute_proto")
        if reason is None:
            check_graph_bytes(model.SerializeToString(), "given.onnx")
        else:
            assert _refusal(model) == reason
    # A function may hold graphs of its own.
    model = _of_functions("Relu")
    model.functions[0].node.append(helper.make_node("If", ["c"], ["i"], then_branch=body, else_branch=body))
    check_graph_bytes(model.SerializeToString(), "own.onnx")


def test_graph_is_refused_when_a_tensor_has_fewer_bytes_than_its_shape_needs() -> None:
    for dims in ([1 << 40], [-1], [1 << 62, 1 << 62, 0, 4], [5000]):
        model = _model()
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
        model.graph.initializer.append(tensor)
        if 0 in dims:
            check_graph_bytes(model.SerializeToString(), "model.onnx")
        else:
            assert _refusal(model) == "PACK_GRAPH_INVALID", dims


def test_graph_is_refused_when_a_tensor_comes_in_pieces_that_are_small_each() -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], raw_data=bytes(16))
    content = AttributeProto(name="v", t=tensor).SerializeToString()
    models = []
    for pieces in (1, 2):
        model = content * pieces
        for number in (5, 1, 7):
            model = bytes([number << 3 | 2, len(model)]) + model
        # Whoever reads it makes one of them.
        assert list(ModelProto.FromString(model).graph.node[0].attribute[0].t.dims) == [4] * pieces
        models.append(model)
    check_graph_bytes(models[0], "model.onnx")
    with pytest.raises(PackError, match="several pieces"):
        check_graph_bytes(models[1], "model.onnx")


def test_file_is_refused_when_it_is_no_graph(tmp_path: Path) -> None:
    graph = _model().SerializeToString()
    for content in (b"", b"no graph at all", b"\x00\x00", b"\x0b", b"\xff" * 20, graph[:-1], graph + b"\x3a\xff\x7f"):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(PackError) as caught:
            check_graph_file(tmp_path / "model.onnx")
        assert caught.value.reason == "PACK_GRAPH_INVALID", content[:20]
    with pytest.raises(PackError, match="cannot be read"):
        check_graph_file(tmp_path / "nothing.onnx")


def test_packs_that_ship_with_the_code_are_let_in() -> None:
    for folder in BUILTIN_PACKS.iterdir():
        check_graph_file(folder / "model.onnx")
