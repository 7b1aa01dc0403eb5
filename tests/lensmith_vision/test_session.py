"""Sessions end their runs, whatever the graph asks for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lensmith_vision.errors import PackError
from lensmith_vision.session import open_session


def _loop(path: Path, rounds: int) -> Path:
    """A graph that adds one to its picture so many times, for each unit of its brightest pixel."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["before", "one"], ["after"]), helper.make_node("Identity", ["on"], ["still"])],
        "body",
        [
            value("round", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, None),
        ],
        [value("still", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["start"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["image"], ["whole"], to=TensorProto.INT64),
            helper.make_node("ReduceMax", ["whole"], ["brightest"], keepdims=0),
            helper.make_node("Mul", ["rounds", "brightest"], ["times"]),
            helper.make_node("Loop", ["times", "true", "start"], ["features"], body=body),
        ],
        "g",
        [value("image", TensorProto.UINT8, ["n", 4])],
        [value("features", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.asarray(rounds, np.int64), "rounds"),
            numpy_helper.from_array(np.asarray(True), "true"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_runs_are_stopped_when_a_loop_does_not_end(tmp_path: Path) -> None:
    image = {"image": np.ones((2, 4), np.uint8)}
    endless = open_session(_loop(tmp_path / "endless.onnx", 2**62), threads=1, most_seconds=0.2)
    # Every run anew: a session that was stopped once is as it was.
    for _ in range(2):
        with pytest.raises(PackError) as stopped:
            endless.run(["features"], image)
        assert stopped.value.reason == "PACK_GRAPH_TOO_SLOW"

    (features,) = open_session(_loop(tmp_path / "short.onnx", 5), threads=1).run(["features"], image)
    assert features.tolist() == [[6.0] * 4] * 2


def test_only_runs_that_take_too_long_are_stopped_when_several_go_on_at_once(tmp_path: Path) -> None:
    bright, dark = ({"image": np.full((1, 4), value, np.uint8)} for value in (1, 0))
    session = open_session(_loop(tmp_path / "graph.onnx", 2**62), threads=1, most_seconds=0.5)
    with ThreadPoolExecutor(2) as pool:
        late = [pool.submit(session.run, ["features"], bright) for _ in range(2)]
        while not all(run.done() for run in late):
            (features,) = session.run(["features"], dark)
            assert features.tolist() == [[0.0] * 4]
    assert [getattr(run.exception(), "reason", "") for run in late] == ["PACK_GRAPH_TOO_SLOW"] * 2
