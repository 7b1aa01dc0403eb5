"""Whole jobs, in processes of their own as a trainer runs them."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.fine_tune.job import Pixels, read_job
from lensmith_vision.fine_tune.outcome import NetworkResult, read_result
from lensmith_vision.pack import load_card, space_of

torch = pytest.importorskip("torch", reason="needs the extra lensmith[finetune]: run `make fine-tune`")
pytestmark = pytest.mark.timeout(600)


def _served(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Features of some pictures as the pack of a result gives them."""
    engine, pack = OnnxRuntimeEngine(), folder / "result" / "pack"
    space = space_of(load_card(pack)).id
    engine.load(space, pack)
    return engine.run(space, np.asarray(Pixels(folder, read_job(folder).resize, 24).exact[rows])).features


def _check(folder: Path, result: NetworkResult) -> None:
    """The pack of a result serves, and says what its classifier says."""
    job, pack = read_job(folder), folder / "result" / "pack"
    space = space_of(load_card(pack)).id
    engine = OnnxRuntimeEngine()
    engine.load(space, pack)
    pictures = np.asarray(Pixels(folder, job.resize, 24).exact[:4])
    served = engine.run(space, pictures, logits=True)
    np.testing.assert_allclose(served.features @ result.kernel + result.bias, served.logits, rtol=1e-3, atol=1e-3)
    assert np.isfinite(result.logits).all()
    assert result.familiarity.usual > 0


def test_job_comes_to_the_same_network_when_it_was_killed_between_epochs(make_job, start_job) -> None:
    unbroken, broken = make_job("unbroken"), make_job("broken")
    with start_job(unbroken) as whole:
        said, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    events = [json.loads(line)["event"] for line in said.splitlines()]
    fractions = [event["fraction"] for event in events]
    assert fractions[:2] == pytest.approx([0.25, 0.5])
    assert sorted(fractions) == fractions
    assert "epoch 1 of 2" in events[0]["message"]

    with start_job(broken) as killed:
        line = killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    assert "epoch 1 of 2" in json.loads(line)["event"]["message"]
    assert not (broken / "result").exists()
    with start_job(broken) as resumed:
        said, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert "epoch 2 of 2" in said.splitlines()[0]

    # As if killed after its last epoch, before what follows from it was written.
    for name in ("done.safetensors", "weights.safetensors"):
        (unbroken / "state" / "whole" / name).unlink()
        (unbroken / "state" / "round-0" / name).unlink()
    shutil.rmtree(unbroken / "result")
    with start_job(unbroken) as again:
        said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert said == "", "no epoch is done twice"

    results = [read_result(folder) for folder in (unbroken, broken)]
    np.testing.assert_array_equal(results[0].kernel, results[1].kernel)
    np.testing.assert_array_equal(results[0].logits, results[1].logits)
    graphs = [(folder / "result" / "pack" / "model.onnx").read_bytes() for folder in (unbroken, broken)]
    assert graphs[0] == graphs[1]
    _check(broken, results[1])
    assert sorted(results[1].rows.tolist()) == np.flatnonzero(_folds(broken) == 0).tolist()


def test_job_comes_to_the_same_result_when_what_was_reached_cannot_be_read(make_job, start_job) -> None:
    folder = make_job("damaged", max_epochs=1)
    with start_job(folder) as whole:
        assert whole.wait(timeout=300) == 0
    before = read_result(folder)
    # One is done but for what follows from its checkpoint, and of the other nobody can tell any more.
    for name in ("done.safetensors", "weights.safetensors"):
        (folder / "state" / "round-0" / name).unlink()
    (folder / "state" / "round-0" / "checkpoint.safetensors").write_bytes(b"")
    for path in (folder / "state" / "whole" / "weights.safetensors", folder / "result" / "result.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    with start_job(folder) as again:
        said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert len(said.splitlines()) == 2
    np.testing.assert_array_equal(read_result(folder).logits, before.logits)
    np.testing.assert_array_equal(read_result(folder).kernel, before.kernel)


def test_two_processes_share_a_job_when_torchrun_starts_them(make_job, start_job) -> None:
    folder = make_job("shared", max_epochs=1)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    with start_job(folder, *launcher) as running:
        said, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert len(said.splitlines()) == 2, "only the first process tells"
    _check(folder, read_result(folder))


@pytest.mark.parametrize(("kind", "method"), [("multi_label", "test_set"), ("regression", "split")])
def test_pictures_in_no_fold_are_asked_about_when_the_version_is_evaluated_on_them(
    kind: str, method: str, make_job, start_job
) -> None:
    folder = make_job(kind, kind=kind, method=method, max_epochs=1)
    with start_job(folder) as running:
        said, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    result = read_result(folder)
    _check(folder, result)
    titles = [json.loads(line)["event"]["message"].partition(",")[0] for line in said.splitlines()]
    between = ["the network to evaluate"] if method == "split" else []
    assert titles == ["round 1 of 1", *between, "the whole set"]
    assert sorted(result.tested.tolist()) == np.flatnonzero(_folds(folder) < 0).tolist()
    assert not set(result.tested) & set(result.rows)
    if kind == "regression":
        assert 0 < result.logits.mean() < 50, "in the unit of the numbers"
    else:
        # The result itself has not seen them, and says what was taken down, but for half precision.
        served = _served(folder, result.tested)
        np.testing.assert_allclose(served @ result.kernel + result.bias, result.tested_logits, atol=0.2)


def test_reason_is_told_when_a_job_cannot_be_done(tmp_path: Path, start_job) -> None:
    with start_job(tmp_path) as running:
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 3
    assert json.loads(said)["error"]["reason"] == "FINE_TUNE_JOB_INVALID"


def _folds(folder: Path) -> np.ndarray:
    import safetensors.numpy

    return safetensors.numpy.load((folder / "taught.safetensors").read_bytes())["folds"]
