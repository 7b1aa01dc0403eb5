"""What fine-tuning wins over a head on the same pictures, and what it takes.

Run as ``python benchmarks/fine_tune.py``; needs ``lensmith[finetune]``. Pictures come from a folder with a folder for
each concept; a part of them takes no part in training and judges both at the end. Prints a table and a line of JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.fine_tune.judgement import judge
from lensmith_vision.fine_tune.layout import lay_out
from lensmith_vision.fine_tune.outcome import read_result
from lensmith_vision.fine_tune.rival import rival_of
from lensmith_vision.pack import builtin_pack, load_card, space_of
from lensmith_vision.report import ThresholdAim
from lensmith_vision.training import TrainingSet, TrainOptions, fit

SHARED = Path(os.environ.get("LENSMITH_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main() -> None:
    """Parse, train both, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=SHARED / "datasets" / "trashnet")
    parser.add_argument("--each", type=int, default=20, help="pictures a concept to train on")
    parser.add_argument("--test", type=int, default=40, help="pictures a concept to judge by")
    parser.add_argument("--start", type=Path, default=builtin_pack("starter"), help="folder of a pack")
    parser.add_argument("--epochs", type=int, default=0, help="most epochs; 0: as suits the number of pictures")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    options = parser.parse_args()
    if not options.pictures.is_dir():
        sys.exit(f"no pictures in {options.pictures}: set LENSMITH_SHARED, or give --pictures")
    if importlib.util.find_spec("lightning") is None:
        print('nothing is measured: this needs `pip install "lensmith[finetune]"`')
        return
    taught, tested = _split(options.pictures, options.each, options.test)
    data = _training_set(options.start, taught)
    options_of_head = TrainOptions("multi_class")
    before = fit(data, options_of_head)
    rival = rival_of(data, before, options_of_head)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = ((str(path), path.read_bytes()) for path, _ in taught)
        laid = lay_out(
            folder,
            options.start,
            data,
            rival,
            pictures,
            network="benchmark",
            max_epochs=options.epochs,
            threads=options.threads,
        )
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lensmith_vision.fine_tune", str(folder)], check=True)
        seconds = time.perf_counter() - begun
        pack = folder / "result" / "pack"
        space = space_of(load_card(pack)).id
        judged = judge(rival, read_result(folder), laid.rows, space, ThresholdAim(), laid.groups)
        truth = np.asarray([data.concepts.index(concept) for _, concept in tested])
        of_head = before.head.scores(_features(options.start, [path for path, _ in tested]))
        of_network = _logits(pack, [path for path, _ in tested])
    result = {
        "pictures": len(laid.rows),
        "rounds": len(laid.job.rounds),
        "kept": judged.kept,
        "gain_out_of_fold": judged.gain,
        "head_on_test": float((of_head.argmax(axis=1) == truth).mean()),
        "network_on_test": float((of_network.argmax(axis=1) == truth).mean()),
        "test_pictures": len(truth),
        "seconds": seconds,
    }
    for name, value in result.items():
        print(f"{name:18} {value:.3f}" if isinstance(value, float) else f"{name:18} {value}")
    print(judged.fitted.findings[-1].message)
    print(json.dumps(result))


def _split(root: Path, each: int, test: int) -> tuple[list[tuple[Path, str]], list[tuple[Path, str]]]:
    taught, tested = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("_")):
        files = sorted(folder.glob("*.jpg"), key=lambda path: hashlib.sha256(path.name.encode()).digest())
        taught += [(path, folder.name) for path in files[:each]]
        tested += [(path, folder.name) for path in files[each : each + test]]
    return taught, tested


def _training_set(start: Path, taught: list[tuple[Path, str]]) -> TrainingSet:
    concepts = tuple(sorted({concept for _, concept in taught}))
    labels = np.eye(len(concepts), dtype=np.float32)[[concepts.index(concept) for _, concept in taught]]
    return TrainingSet(
        space_of(load_card(start)).id,
        concepts,
        tuple(str(path) for path, _ in taught),
        _features(start, [path for path, _ in taught]),
        tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path, _ in taught),
        labels,
    )


def _features(pack: Path, files: list[Path]) -> npt.NDArray[np.float32]:
    return np.concatenate([features for features, _ in _seen(pack, files)])


def _logits(pack: Path, files: list[Path]) -> npt.NDArray[np.float32]:
    return np.concatenate([logits for _, logits in _seen(pack, files) if logits is not None])


def _seen(pack: Path, files: list[Path]) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]]:
    card, engine = load_card(pack), OnnxRuntimeEngine()
    space = space_of(card).id
    engine.load(space, pack)
    found = []
    for path in files:
        picture = resize.apply(decode(path.read_bytes(), min_side_hint=card.resize.min_side_hint), card.resize)
        outputs = engine.run(space, picture[None], logits=True)
        found.append((outputs.features, outputs.logits))
    return found


if __name__ == "__main__":
    main()
