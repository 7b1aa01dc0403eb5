"""What a head says beyond scores, and how heads of the kernel tier live beside linear ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.familiarity import Familiarity
from lensmith_vision.head_stack import HeadStack
from lensmith_vision.heads import Head
from lensmith_vision.kernel import KernelPart
from lensmith_vision.pack import builtin_pack
from tests.lensmith_inference.conftest import APP_A, Rig, make_head, rig_of
from tests.lensmith_inference.test_predict import ask, expected, values
from tests.pictures import picture


def kernel_head(space: str, dim: int, seed: int = 0) -> Head:
    random = np.random.RandomState(seed)
    linear = make_head(space, dim, ("glass", "metal", "paper"), seed=seed)
    landmarks = random.randn(40, dim).astype(np.float16).astype(np.float32)
    return replace(linear, kernel=KernelPart(landmarks, random.randn(40, 3).astype(np.float32), 1e-3))


def add(rig: Rig, model: str, head: Head) -> str:
    rig.registry.add_version(APP_A, "a", model, rig.base_model, head)
    return f"apps/a/models/{model}"


async def test_picture_is_marked_when_it_is_unlike_the_training_pictures(rig: Rig, plain_engine) -> None:
    space, dim = rig.base_model.space, rig.base_model.dimensions
    head = make_head(space, dim, ("glass", "metal"))
    axes = np.zeros((1, dim), np.float32)
    near = Familiarity(np.zeros(dim, np.float32), axes, 1e3, 2e3)
    far = Familiarity(np.full(dim, 9.0, np.float32), axes, 1e-3, 2e-3)
    for name, familiarity in (("near", near), ("far", far), ("old", None)):
        model = add(rig, name, replace(head, familiarity=familiarity))
        prediction = (await ask(rig, picture(1), model=model)).predictions[0]
        if familiarity is None:
            assert not prediction.HasField("unfamiliar")
            continue
        assert prediction.unfamiliar.predicted == (name == "far")
        assert (prediction.unfamiliar.value > 0.5) == (name == "far")


async def test_number_comes_with_its_interval_within_the_range_when_the_head_knows_it(rig: Rig) -> None:
    head = make_head(rig.base_model.space, rig.base_model.dimensions, ("value",), kind="regression")
    plain = (await ask(rig, picture(1), model=add(rig, "plain", head))).predictions[0]
    assert not plain.HasField("interval")
    ranged = replace(head, interval=2.0, value_range=(plain.number - 1, plain.number + 100))
    known = (await ask(rig, picture(1), model=add(rig, "ranged", ranged))).predictions[0]
    assert (known.interval.low, known.interval.high) == pytest.approx((plain.number - 1, plain.number + 2))
    assert known.interval.coverage == 0.9


async def test_linear_heads_stay_when_more_kernel_heads_are_asked_than_fit(
    tmp_path: Path, nats_url: str, plain_engine
) -> None:
    one = kernel_head("s", 1).nbytes
    async with rig_of(
        tmp_path,
        nats_url,
        [builtin_pack()],
        warm_models=False,
        kernel_head_cache_bytes=one,
        head_cache_bytes=10_000_000,
    ) as rig:
        space, dim = rig.base_model.space, rig.base_model.dimensions
        rig.add_model("linear")
        await ask(rig, picture(1), model="apps/a/models/linear")
        for seed in range(3):
            head = kernel_head(space, dim, seed)
            response = await ask(rig, picture(1), model=add(rig, f"kernel-{seed}", head))
            scores = dict(zip(head.concepts, expected(plain_engine, head, picture(1)), strict=True))
            assert values(response, 0) == pytest.approx(scores, abs=1e-4)
        assert rig.registry.calls["head"] == 4
        await ask(rig, picture(1), model="apps/a/models/linear")
        assert rig.registry.calls["head"] == 4, "the linear head is still there"
        await ask(rig, picture(1), model="apps/a/models/kernel-2")
        assert rig.registry.calls["head"] == 5, "kernel heads have a budget of their own, too small for one"


def test_product_of_linear_heads_is_the_same_when_kernel_heads_are_loaded_beside_them() -> None:
    stack, features = HeadStack("s", 8), np.random.RandomState(1).randn(5, 8).astype(np.float32)
    linear = [make_head("s", 8, ("a", "b"), seed=seed) for seed in range(3)]
    for number, head in enumerate(linear):
        stack.add(f"linear-{number}", head)
    keys = [f"linear-{number}" for number in range(3)]
    alone = stack.scores("s", features, keys)
    heavy = kernel_head("s", 8)
    stack.add("kernel", heavy)
    together = stack.scores("s", features, [*keys, "kernel"])
    for before, beside, head in zip(alone, together, linear, strict=False):
        assert np.array_equal(before, head.scores(features))
        np.testing.assert_allclose(beside, before, rtol=1e-5)
    np.testing.assert_allclose(together[3], heavy.scores(features), rtol=1e-5)
    # What a linear app asks for is made of its own columns only.
    assert [part.weights.shape[1] for part in stack._join(tuple(keys))] == [6]
