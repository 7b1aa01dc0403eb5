"""What a training is made of: the draw, the changes of pictures, the checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import Taught

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")

from lensmith_vision.fine_tune.augmentation import augmented  # noqa: E402
from lensmith_vision.fine_tune.batches import Draw, balanced_weights, prior_shift  # noqa: E402
from lensmith_vision.fine_tune.checkpoints import pack_state, unpack_state  # noqa: E402


def _unbalanced() -> tuple[Taught, np.ndarray]:
    labels = np.zeros((100, 2), np.float32)
    labels[:90, 0] = labels[90:, 1] = 1
    return Taught(np.zeros(100, np.int64), np.arange(100), labels=labels), np.arange(100)


def test_rare_concepts_are_drawn_more_often_when_classes_are_unbalanced() -> None:
    taught, rows = _unbalanced()
    draw = Draw(rows, balanced_weights(taught, rows), seed=1)
    drawn = np.array(list(draw))
    # Three times as rare in the draw as the common one, where it is nine times as rare in the set.
    assert len(drawn) == 100
    assert 24 <= (drawn >= 90).sum() <= 26
    # And what that does to the answers is taken back.
    np.testing.assert_allclose(np.diff(prior_shift(taught, rows)), -np.log(3), rtol=1e-5)


def test_draw_depends_on_seed_and_epoch_only_and_is_dealt_when_there_are_two_processes() -> None:
    taught, rows = _unbalanced()
    weights = balanced_weights(taught, rows)
    whole, first, second = Draw(rows, weights, 3), Draw(rows, weights, 3, 0, 2), Draw(rows, weights, 3, 1, 2)
    assert sorted([*first, *second]) == sorted(whole)
    before = list(whole)
    whole.set_epoch(1)
    assert list(whole) != before
    whole.set_epoch(0)
    assert list(whole) == before


def test_pictures_change_alike_when_chance_is_the_same() -> None:
    pictures = torch.randint(0, 255, (6, 160, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = [augmented(pictures, 128, 128, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert changed[0].shape == (6, 128, 128, 3)
    assert float(changed[0].min()) >= 0
    assert float(changed[0].max()) <= 255
    assert torch.equal(changed[0], changed[1])
    assert not torch.equal(changed[0], changed[2])
    # Nor does it depend on how precisely the network computes: places in a picture need more than half precision.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augmented(pictures, 128, 128, torch.Generator().manual_seed(1)), changed[0])


def test_checkpoint_comes_back_when_it_has_numbers_as_keys_and_shared_tensors() -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "avg": shared}, 1: {"avg": shared.T}}}],
        "loops": {"epoch": 2, "done": True, "none": None, "pair": (1, 2.5)},
    }
    back = unpack_state(pack_state(state))
    assert back["loops"] == state["loops"]
    assert torch.equal(back["optimizer_states"][0]["state"][1]["avg"], shared.T)
    assert list(back["optimizer_states"][0]["state"]) == [0, 1]


def test_checkpoint_is_refused_when_only_pickle_could_keep_it_or_it_is_damaged() -> None:
    with pytest.raises(TypeError, match="without pickle"):
        pack_state({"callback": object()})
    with pytest.raises(TrainingError) as refused:
        unpack_state(pack_state({"weight": torch.ones(3)})[:-4])
    assert refused.value.reason == "CHECKPOINT_INVALID"
