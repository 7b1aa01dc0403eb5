"""Copies of a picture never stand on both sides of a split."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lensmith_vision.folds import groups_of, stratified_group_folds


def features_of(rows: int, dim: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).random((rows, dim)).astype(np.float32)


def test_groups_join_when_bytes_or_features_are_copies() -> None:
    features = features_of(40, 64)
    features[7] = features[3] * 1.01
    features[9] = features[7] + 0.001
    names = [str(row) for row in range(40)]
    names[20] = names[10]
    groups = groups_of(features, names)
    assert groups[3] == groups[7] == groups[9]
    assert groups[10] == groups[20]
    assert len(np.unique(groups)) == 37
    assert groups[0] == 0
    assert groups.max() == 36


def test_groups_find_near_copies_when_the_set_is_large() -> None:
    features = features_of(9_000, 200)
    generator = np.random.default_rng(1)
    pairs = generator.permutation(9_000)[:400].reshape(200, 2)
    features[pairs[:, 1]] = features[pairs[:, 0]] + generator.normal(0, 0.02, (200, 200))
    groups = groups_of(features, [str(row) for row in range(9_000)])
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    assert len(np.unique(groups)) == 8_800


def test_groups_stay_cheap_when_every_picture_is_the_same() -> None:
    features = np.ones((9_000, 120), np.float32)
    features[:8_000, 0] = 5.0
    groups = groups_of(features, [str(row) for row in range(9_000)])
    assert len(np.unique(groups[:8_000])) == 1


def test_groups_take_little_memory_when_pictures_are_frames_of_few_scenes() -> None:
    generator = np.random.default_rng(2)
    scene = generator.integers(0, 2, 20_000)
    features = (features_of(2, 128)[scene] + generator.normal(0, 0.02, (20_000, 128))).astype(np.float32)
    names = [str(row) for row in range(20_000)]
    tracemalloc.start()
    groups = groups_of(features, names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(groups)) == 2
    assert peak < 150e6


def test_groups_hold_when_the_set_is_tiny() -> None:
    assert groups_of(features_of(1, 5), ["a"]).tolist() == [0]
    assert groups_of(np.zeros((3, 5), np.float32), ["a", "b", "a"]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_keep_groups_whole_and_concepts_even_when_dealt(folds: int) -> None:
    generator = np.random.default_rng(4)
    classes = generator.choice(4, size=600, p=[0.6, 0.25, 0.1, 0.05])
    groups = np.unique(generator.integers(0, 400, 600), return_inverse=True)[1]
    strata = np.eye(4, dtype=np.float32)[classes]
    dealt = stratified_group_folds(strata, groups, folds, seed=0)
    for group in np.unique(groups):
        assert len(np.unique(dealt[groups == group])) == 1
    for concept in range(4):
        counts = np.bincount(dealt[classes == concept], minlength=folds)
        assert counts.max() - counts.min() <= max(4, 0.15 * counts.mean())
    assert (dealt == stratified_group_folds(strata, groups, folds, seed=0)).all()
    assert (dealt != stratified_group_folds(strata, groups, folds, seed=1)).any()
