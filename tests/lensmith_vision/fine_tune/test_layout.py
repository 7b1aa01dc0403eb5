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
from lensmith_vision.evaluation_methods import fit_and_evaluate
from lensmith_vision.fine_tune.job import TESTED, Pixels, read_job, read_taught
from lensmith_vision.fine_tune.layout import lay_out, read_layout
from lensmith_vision.fine_tune.rival import Rival, rival_of
from lensmith_vision.pack import builtin_pack
from lensmith_vision.training import TrainingSet, TrainOptions


def _head(files: list[Path], tests: int = 0) -> tuple[TrainingSet, Rival]:
    generator = np.random.default_rng(0)
    labels = np.zeros((len(files), 2), np.float32)
    labels[np.arange(len(files)), np.arange(len(files)) % 2] = 1
    features = generator.normal(size=(len(files), 8)).astype(np.float32)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    ids = tuple(path.stem for path in files)
    data = TrainingSet("base", ("a", "b"), ids, features, digests, labels)
    options, marked = TrainOptions("multi_class"), np.arange(len(files)) < tests
    fitted = fit_and_evaluate(data, marked, options, "test_set" if tests else "out_of_fold")
    return data, rival_of(data, fitted, options)


def test_job_has_the_pixels_that_serving_sees_when_pictures_come_in_any_order(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "datasets" / "trashnet" / "glass").glob("*.jpg"))[:30]
    data, rival = _head(files)
    pictures = [(path.stem, path.read_bytes()) for path in reversed(files)]
    pictures[3] = (pictures[3][0], b"no picture")
    start = builtin_pack("starter")
    laid = lay_out(tmp_path / "job", start, data, rival, [*pictures, ("stranger", b"")], network="ft-1", seed=5)
    assert laid.unreadable == (pictures[3][0],)
    assert len(laid.rows) == 29
    job, taught = read_job(tmp_path / "job"), read_taught(tmp_path / "job")
    assert job == laid.job
    assert (job.concepts, job.network, job.seed, job.rounds) == (("a", "b"), "ft-1", 5, (0, 1, 2))
    np.testing.assert_array_equal(taught.labels, rival.known.labels[laid.rows])
    np.testing.assert_array_equal(taught.folds, rival.known.folds[laid.rows])
    pixels = Pixels(tmp_path / "job", job.resize, len(taught))
    content = dict(pictures)[rival.known.ids[laid.rows[7]]]
    seen = resize.apply(decode(content, min_side_hint=job.resize.min_side_hint), job.resize)
    np.testing.assert_array_equal(pixels.exact[7], seen)


def test_layout_is_refused_when_nothing_can_be_compared(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "datasets" / "trashnet" / "glass").glob("*.jpg"))[:20]
    data, rival = _head(files)
    start = builtin_pack("starter")
    with pytest.raises(TrainingError) as refused:
        lay_out(tmp_path / "few", start, data, rival, [(files[0].stem, files[0].read_bytes())], network="ft-1")
    assert refused.value.reason == "TOO_FEW_IMAGES"


def test_tests_are_in_no_fold_of_a_job_when_there_are_some(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "datasets" / "trashnet" / "glass").glob("*.jpg"))[:30]
    data, rival = _head(files, tests=6)
    start = builtin_pack("starter")
    pictures = [(path.stem, path.read_bytes()) for path in files]
    laid = lay_out(tmp_path / "job", start, data, rival, pictures, network="ft-1")
    job, taught = read_job(tmp_path / "job"), read_taught(tmp_path / "job")
    assert job.method == "test_set"
    ids = [rival.known.ids[row] for row in laid.rows]
    assert {uid for uid, fold in zip(ids, taught.folds, strict=True) if fold == TESTED} == {
        path.stem for path in files[:6]
    }
    again = read_layout(tmp_path / "job", rival)
    assert again is not None
    np.testing.assert_array_equal(again.rows, laid.rows)
    # The same pictures, but to be evaluated in another way.
    assert read_layout(tmp_path / "job", replace(rival, known=replace(rival.known, method="split"))) is None
    # What networks have reached that learnt from it so far is worth nothing then.
    for name in ("state", "result"):
        (tmp_path / "job" / name).mkdir()
        (tmp_path / "job" / name / "done.safetensors").write_bytes(b"of other folds")
    lay_out(tmp_path / "job", start, data, rival, pictures, network="ft-1")
    assert not {"state", "result"} & {path.name for path in (tmp_path / "job").iterdir()}
    with pytest.raises(TrainingError) as refused:
        lay_out(tmp_path / "gone", start, data, rival, pictures[6:], network="ft-1")
    assert refused.value.reason == "NO_TEST_IMAGES"
