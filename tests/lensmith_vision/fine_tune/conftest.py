"""Jobs of fine-tuning on real photographs; everything here but the judgement needs torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensmith_vision.fine_tune.job import TESTED, Job, Pixels, Taught, write_job
from lensmith_vision.folds import stratified_group_folds
from lensmith_vision.pack import builtin_pack, load_card

MakeJob = Callable[..., Path]


@pytest.fixture
def make_job(shared: Path, tmp_path: Path) -> MakeJob:
    """Lay out a job on photographs of trashnet: ``make_job("name", concepts=…, each=…, kind=…, **of_the_job)``."""

    def make(
        name: str,
        *,
        concepts: tuple[str, ...] = ("glass", "paper"),
        each: int = 12,
        kind: str = "multi_class",
        method: str = "out_of_fold",
        **more,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        pack = builtin_pack("starter")
        shutil.copytree(pack, folder / "start")
        policy = load_card(pack).resize
        files = [path for concept in concepts for path in _photos(shared, concept)[:each]]
        pixels = Pixels(folder, policy, len(files), writable=True)
        for row, path in enumerate(files):
            pixels.put(row, path.read_bytes())
        labels = np.repeat(np.eye(len(concepts), dtype=np.float32), each, axis=0)
        groups = np.arange(len(files))
        folds = stratified_group_folds(labels, groups, 3, 0)
        if method != "out_of_fold":
            folds[::6] = TESTED
        if kind == "regression":
            numbers = np.linspace(0, 50, len(files), dtype=np.float32)
            taught, named = Taught(folds, groups, targets=numbers), ("number",)
        else:
            if kind == "multi_label":
                labels[::5, 0] = np.nan
            taught, named = Taught(folds, groups, labels=labels), concepts
        options = {"rounds": (0,), "method": method, "max_epochs": 2, "threads": 1, **more}
        write_job(folder, Job(kind, named, "ft-test", policy, **options), taught)
        return folder

    return make


@pytest.fixture
def start_job() -> Callable[..., subprocess.Popen[str]]:
    """Start the process of a job."""

    def start(folder: Path, *launcher: str) -> subprocess.Popen[str]:
        command = [sys.executable, *launcher, "-m", "lensmith_vision.fine_tune", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    return start


def _photos(shared: Path, concept: str) -> list[Path]:
    found = (shared / "datasets" / "trashnet" / concept).glob("*.jpg")
    return sorted(found, key=lambda path: hashlib.sha256(path.name.encode()).digest())
