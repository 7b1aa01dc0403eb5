"""A job is laid out on the pictures and folds of the head that it is held against."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.errors import TrainingError
from lensmith_vision.fine_tune.job import Pixels, read_job, read_taught
from lensmith_vision.fine_tune.layout import lay_out
from lensmith_vision.pack import builtin_pack
from lensmith_vision.training import Fitted, TrainingSet, TrainOptions, fit


def _head(files: list[Path]) -> tuple[TrainingSet, Fitted]:
    generator = np.random.default_rng(0)
    labels = np.zeros((len(files), 2), np.float32)
    labels[np.arange(len(files)), np.arange(len(files)) % 2] = 1
    features = generator.normal(size=(len(files), 8)).astype(np.float32)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    ids = tuple(path.stem for path in files)
    data = TrainingSet("base", ("a", "b"), ids, features, digests, labels)
    return data, fit(data, TrainOptions("multi_class"))


def test_job_has_the_pixels_that_serving_sees_when_pictures_come_in_any_order(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "datasets" / "trashnet" / "glass").glob("*.jpg"))[:30]
    data, before = _head(files)
    pictures = [(path.stem, path.read_bytes()) for path in reversed(files)]
    pictures[3] = (pictures[3][0], b"no picture")
    start = builtin_pack("starter")
    laid = lay_out(tmp_path / "job", start, data, before, [*pictures, ("stranger", b"")], network="ft-1", seed=5)
    assert laid.unreadable == (pictures[3][0],)
    assert len(laid.rows) == 29
    job, taught = read_job(tmp_path / "job"), read_taught(tmp_path / "job")
    assert job == laid.job
    assert (job.concepts, job.network, job.seed, job.rounds) == (("a", "b"), "ft-1", 5, (0, 1, 2))
    np.testing.assert_array_equal(taught.labels, before.out_of_fold.labels[laid.rows])
    np.testing.assert_array_equal(taught.folds, before.out_of_fold.folds[laid.rows])
    pixels = Pixels(tmp_path / "job", job.resize, len(taught))
    content = dict(pictures)[before.out_of_fold.ids[laid.rows[7]]]
    seen = resize.apply(decode(content, min_side_hint=job.resize.min_side_hint), job.resize)
    np.testing.assert_array_equal(pixels.exact[7], seen)


def test_layout_is_refused_when_nothing_can_be_compared(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "datasets" / "trashnet" / "glass").glob("*.jpg"))[:20]
    data, before = _head(files)
    start = builtin_pack("starter")
    with pytest.raises(TrainingError) as refused:
        lay_out(tmp_path / "few", start, data, before, [(files[0].stem, files[0].read_bytes())], network="ft-1")
    assert refused.value.reason == "TOO_FEW_IMAGES"
    other = replace(before, out_of_fold=replace(before.out_of_fold, method="split"))
    with pytest.raises(TrainingError) as refused:
        lay_out(tmp_path / "split", start, data, other, [], network="ft-1")
    assert refused.value.reason == "FINE_TUNING_NEEDS_FOLDS"
