"""Heads survive storage, refuse damage, and score together as they score alone."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from lensmith_vision.errors import HeadError
from lensmith_vision.head_stack import HeadStack
from lensmith_vision.heads import Head, HeadType, load, save


def make(type: HeadType = "multi_class", concepts: int = 3, dim: int = 8, seed: int = 0) -> Head:
    generator = np.random.default_rng(seed)
    return Head(
        type=type,
        space="plain.v1",
        concepts=tuple(f"c{index}" for index in range(concepts)),
        weights=generator.standard_normal((dim, concepts)).astype(np.float32),
        bias=generator.standard_normal(concepts).astype(np.float32),
        thresholds=np.full(concepts, 0.5, np.float32),
        value_range=(0.0, 10.0) if type == "regression" else None,
    )


@pytest.mark.parametrize(("type", "concepts"), [("multi_class", 4), ("multi_label", 1), ("regression", 1)])
def test_load_gives_the_same_head_when_saved(type: HeadType, concepts: int) -> None:
    head = make(type, concepts)
    data = save(head)
    again = load(data)
    assert (again.type, again.space, again.concepts, again.value_range) == (
        head.type,
        head.space,
        head.concepts,
        head.value_range,
    )
    assert (again.weights == head.weights).all()
    assert save(again) == data


def test_scores_keep_their_promise_when_activated() -> None:
    features = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32) * 100
    assert make("multi_class").scores(features).sum(axis=1) == pytest.approx(np.ones(5))
    labels = make("multi_label").scores(features)
    assert np.isfinite(labels).all()
    assert labels.min() >= 0
    assert labels.max() <= 1
    numbers = make("regression", 1).scores(features)
    assert numbers.min() >= 0
    assert numbers.max() <= 10


def rewritten(change: dict[str, object]) -> bytes:
    head = make()
    metadata = {
        "format": 1,
        "type": "multi_class",
        "space": "s",
        "concepts": list(head.concepts),
        "value_range": None,
        **change,
    }
    tensors = {"weights": head.weights, "bias": head.bias, "thresholds": head.thresholds}
    return safetensors.numpy.save(tensors, metadata={"lensmith_head": json.dumps(metadata)})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"type": "magic"},
        {"concepts": ["a", "b"]},
        {"concepts": ["a", "a", "b"]},
        {"concepts": "abc"},
        {"concepts": [1, 2, 3]},
        {"space": None},
        {"type": "regression"},
        {"value_range": [1, 2]},
        {"value_range": "wide"},
    ],
)
def test_load_refuses_when_metadata_lies(change: dict[str, object]) -> None:
    with pytest.raises(HeadError):
        load(rewritten(change))


def test_load_refuses_when_tensors_do_not_fit() -> None:
    head = make()
    for tensors in (
        {"weights": head.weights, "bias": head.bias},
        {"weights": head.weights, "bias": head.bias, "thresholds": head.thresholds, "more": head.bias},
        {"weights": head.weights[:, :2], "bias": head.bias, "thresholds": head.thresholds},
        {"weights": head.weights.astype(np.float64), "bias": head.bias, "thresholds": head.thresholds},
        {"weights": head.weights * np.float32(np.nan), "bias": head.bias, "thresholds": head.thresholds},
    ):
        metadata = {
            "lensmith_head": json.dumps(
                {"format": 1, "type": "multi_class", "space": "s", "concepts": ["c0", "c1", "c2"]}
            )
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        with pytest.raises(HeadError):
            load(safetensors.numpy.save(arrays, metadata=metadata))


def test_load_refuses_when_bytes_are_damaged() -> None:
    data = save(make())
    for blob in (b"", b"\x00" * 8, b"\xff" * 64, data[:-1], data[:20], data + b"\0", b"\x80\x04pickle"):
        with pytest.raises(HeadError):
            load(blob)
    generator = random.Random(3)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(4):
            changed[generator.randrange(len(changed) - 120)] = generator.randrange(256)
        try:
            load(bytes(changed))
        except HeadError:
            continue


def test_stack_scores_as_each_head_alone_when_joined() -> None:
    heads = {
        "a": make("multi_class", 4, seed=1),
        "b": make("multi_label", 2, seed=2),
        "c": make("regression", 1, seed=3),
    }
    stack = HeadStack("plain.v1", 8)
    for key, head in heads.items():
        stack.add(key, head)
    features = np.random.default_rng(5).standard_normal((6, 8)).astype(np.float32)
    for subset in (None, ["c", "a"], ["b"], ["c", "b", "a"], ["c", "a"], []):
        answer = stack.scores("plain.v1", features, subset)
        expected = [heads[key].scores(features) for key in (heads if subset is None else subset)]
        assert len(answer) == len(expected)
        for actual, alone in zip(answer, expected, strict=True):
            np.testing.assert_allclose(actual, alone, rtol=1e-4, atol=1e-6)
    assert stack.nbytes == sum(head.nbytes for head in heads.values())


def test_stack_forgets_when_a_head_is_replaced_or_removed() -> None:
    stack = HeadStack("plain.v1", 8)
    first, second = make(seed=1), make(seed=2)
    features = np.ones((1, 8), np.float32)
    stack.add("a", first)
    stack.add("b", first)
    stack.scores("plain.v1", features, ["a", "b"])
    stack.add("a", second)
    np.testing.assert_allclose(stack.scores("plain.v1", features, ["a", "b"])[0], second.scores(features), rtol=1e-5)
    stack.remove("a")
    stack.remove("never there")
    assert "a" not in stack
    assert len(stack) == 1
    with pytest.raises(HeadError, match="not loaded"):
        stack.scores("plain.v1", features, ["a", "b"])


def test_stack_refuses_when_dimensions_differ() -> None:
    stack = HeadStack("plain.v1", 9)
    with pytest.raises(HeadError):
        stack.add("a", make())
    with pytest.raises(HeadError):
        stack.scores("plain.v1", np.ones((2, 8), np.float32))


def test_stack_refuses_when_spaces_differ() -> None:
    stack = HeadStack("plain.v1", 8)
    with pytest.raises(HeadError, match=r"trained in plain\.v2, not in plain\.v1"):
        stack.add("a", replace(make(), space="plain.v2"))
    stack.add("a", make())
    with pytest.raises(HeadError, match=r"the features are of plain\.v2"):
        stack.scores("plain.v2", np.ones((2, 8), np.float32))


def test_stack_never_mixes_heads_when_threads_change_it() -> None:
    stack = HeadStack("plain.v1", 8)
    variants = [replace(make(seed=7), bias=np.array([0, 0, index * 5], np.float32)) for index in range(2)]
    features = np.random.default_rng(5).standard_normal((3, 8)).astype(np.float32)
    expected = [variant.scores(features) for variant in variants]
    stack.add("steady", variants[0])
    stack.add("changing", variants[0])
    stop = threading.Event()

    def change() -> None:
        turn = 0
        while not stop.is_set():
            turn ^= 1
            stack.add("changing", variants[turn])

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(500):
            steady, changing = stack.scores("plain.v1", features, ["steady", "changing"])
            np.testing.assert_allclose(steady, expected[0], rtol=1e-4)
            assert any(np.allclose(changing, one, rtol=1e-4) for one in expected)
    finally:
        stop.set()
        changer.join()
