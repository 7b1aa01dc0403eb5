"""How accurate private models are, from how few pictures: Lensmith's heads against scikit-learn's, same features.

    python benchmarks/accuracy.py [--draws 10] [--sets trashnet animals] [--cache DIR] [--json]

Sets: trashnet (its official split), and three labelled sets of the pool, each halved by the hash of the file's name:
animals (22 concepts), Caltech-101 and clothing. 5, 10, 25, 50 and all pictures a concept, the same draws for everybody,
features of `mobilenetv2-features` as the platform computes them, one view. Peers run at their best: one BLAS thread.
Logistic regression runs once more on the embedding of the usual centre crop, which costs the same.

`gain_over_sklearn_lr` is the mean over all cells of what users get by default, less scikit-learn's logistic regression
with cross-validated C on the centre crop's embedding, in points; `gain_on_same_features` is less the one on the
platform's own embedding: what the head alone wins. Calibration errors are pooled over sets and draws, with what a
perfect model would show on as many predictions taken off. Needs `../shared` (`LENSMITH_SHARED`) and the extra
`benchmarks`.
"""

import argparse
import csv
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits

from lensmith_vision import metrics, resize
from lensmith_vision.classes import Tier
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.training import TrainingSet, TrainOptions, fit

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "mobilenetv2-features"
SHOTS: tuple[int | None, ...] = (5, 10, 25, 50, None)
POOL_SETS = ("animals", "caltech101", "clothing")
FEWEST = 20
MANY_CONCEPTS = 50
LR, LR_CROP, DEFAULT = "sklearn LR, C by CV", "sklearn LR, centre crop", "Lensmith"
CENTRE_CROP = ResizePolicy("short_side_crop", 224, 224, 256)
TARGET = 2.0

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Method = Callable[[Floats, Ints, Floats], Floats]


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Features, as the platform has them and of the centre crop, and classes; split once and for all."""

    name: str
    train: Floats
    train_classes: Ints
    test: Floats
    test_classes: Ints
    train_crop: Floats
    test_crop: Floats


def trashnet_files(shared: Path) -> Iterator[tuple[Path, str, bool]]:
    """Pictures with label and whether they are for training; the official split."""
    root = shared / "datasets" / "trashnet"
    for part in ("train", "test"):
        lines = next((root / "_meta").glob(f"*_{part}.txt")).read_text(encoding="utf-8").split("\n")
        for name in (line.split()[0] for line in lines if line.strip()):
            label = name.rstrip("0123456789.jpg")
            yield root / label / name, label, part == "train"


def pool_files(shared: Path, name: str) -> Iterator[tuple[Path, str, bool]]:
    """Pictures of one labelled set of the pool, of concepts that have enough of them."""
    with (shared / "distill" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(f"{name}/")]
    rows = [row for row in rows if row["label"] not in ("", "Not sure")]
    counts = Counter(row["label"] for row in rows)
    for row in rows:
        if counts[row["label"]] >= FEWEST:
            train = hashlib.sha256(row["file"].encode()).digest()[-1] % 2 == 0
            yield shared / "distill" / row["file"], row["label"], train


class Embedder:
    """Features of pictures, kept in a folder so that a second run needs no network."""

    def __init__(self, shared: Path, cache: Path) -> None:
        pack = cache / NETWORK
        if not (pack / "card.json").is_file():
            build_pack(read_source(shared / "models" / NETWORK), pack)
        self._card = load_card(pack)
        self._space = space_of(self._card).id
        self._engine = OnnxRuntimeEngine(threads=1)
        self._engine.load(self._space, pack)
        self._cache = cache

    def __call__(self, name: str, files: Sequence[Path], policy: ResizePolicy | None = None) -> Floats:
        """Features [n, d] of files, as the platform resizes them unless told otherwise."""
        policy = policy or self._card.resize
        path = self._cache / f"{name}-{policy.key}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float32)
        with ThreadPoolExecutor(2) as executor:
            parts = list(executor.map(lambda at: self._batch(files[at : at + 16], policy), range(0, len(files), 16)))
        features = np.concatenate(parts)
        np.save(path, features)
        return features

    def _batch(self, files: Sequence[Path], policy: ResizePolicy) -> Floats:
        pictures = [
            resize.apply(decode(file.read_bytes(), min_side_hint=policy.min_side_hint), policy) for file in files
        ]
        return self._engine.run(self._space, np.stack(pictures)).features


def load_set(shared: Path, name: str, embed: Embedder) -> LabelledSet:
    """A set with its features."""
    found = list(trashnet_files(shared) if name == "trashnet" else pool_files(shared, name))
    files = [path for path, _, _ in found]
    features, crops = embed(name, files), embed(name, files, CENTRE_CROP)
    labels = sorted({label for _, label, _ in found})
    classes = np.array([labels.index(label) for _, label, _ in found])
    train = np.array([part for _, _, part in found])
    return LabelledSet(
        name, features[train], classes[train], features[~train], classes[~train], crops[train], crops[~train]
    )


def draws(classes: Ints, shots: int | None, count: int) -> Iterator[Ints]:
    """Rows to train on: so many of each concept, other ones in each draw."""
    if shots is None:
        yield np.arange(len(classes))
        return
    for seed in range(count):
        generator = np.random.default_rng(seed)
        each = [generator.permutation(np.flatnonzero(classes == one))[:shots] for one in range(classes.max() + 1)]
        yield np.sort(np.concatenate(each))


def lensmith(tier: Tier) -> Method:
    """Lensmith's head, as the trainer makes it."""

    def run(train: Floats, classes: Ints, test: Floats) -> Floats:
        return fit(training_set(train, classes), TrainOptions("multi_class", tier=tier)).head.scores(test)

    return run


def training_set(features: Floats, classes: Ints) -> TrainingSet:
    """What the trainer would be given."""
    width = int(classes.max()) + 1
    rows = tuple(str(row) for row in range(len(features)))
    labels = np.eye(width, dtype=np.float32)[classes]
    return TrainingSet("bench", tuple(str(one) for one in range(width)), rows, features, rows, labels=labels)


def logistic_regression(train: Floats, classes: Ints, test: Floats) -> Floats:
    """scikit-learn's, C chosen by cross-validated log loss."""
    many = classes.max() >= MANY_CONCEPTS
    strengths = np.logspace(-3, 1, 5) if many else np.logspace(-4, 2, 7)
    model = LogisticRegressionCV(
        Cs=strengths,
        cv=3 if many else 5,
        max_iter=100 if many else 300,
        scoring="neg_log_loss",
        use_legacy_attributes=False,
    )
    return np.asarray(model.fit(train, classes).predict_proba(test), np.float32)


def ridge(train: Floats, classes: Ints, test: Floats) -> Floats:
    """scikit-learn's ridge, its strength by leave-one-out."""
    values = RidgeClassifierCV(alphas=np.logspace(-1, 5, 13)).fit(train, classes).decision_function(test)
    return np.asarray(values if values.ndim == 2 else np.column_stack([-values, values]), np.float32)


def discriminant(train: Floats, classes: Ints, test: Floats) -> Floats:
    """scikit-learn's LDA with Ledoit-Wolf shrinkage."""
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, classes)
    return np.asarray(model.predict_proba(test), np.float32)


def nearest_mean(train: Floats, classes: Ints, test: Floats) -> Floats:
    """The nearest mean of a concept."""
    return np.eye(int(classes.max()) + 1, dtype=np.float32)[NearestCentroid().fit(train, classes).predict(test)]


PEERS: dict[str, Method] = {
    LR_CROP: logistic_regression,
    LR: logistic_regression,
    "sklearn ridge": ridge,
    "sklearn LDA": discriminant,
    "sklearn nearest mean": nearest_mean,
}
OWN: dict[str, Method] = {
    DEFAULT: lensmith("auto"),
    "Lensmith, linear tier": lensmith("linear"),
    "Lensmith, kernel tier": lensmith("kernel"),
}
WITH_PROBABILITIES = (LR_CROP, LR, "sklearn LDA", *OWN)


def measured(
    cache: Path, name: str, method: Method, key: str, data: tuple[Floats, Ints, Floats]
) -> tuple[Floats, float]:
    """Scores of the test pictures and seconds for fitting; those of peers, which never change, are kept."""
    path = cache / f"{key}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.npz"
    if name in PEERS and path.is_file():
        kept = np.load(path)
        return kept["scores"], float(kept["seconds"])
    begun = time.perf_counter()
    # Peers at their best: two threads make scikit-learn up to fifteen times slower on small data.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = method(*data)
    seconds = time.perf_counter() - begun
    if name in PEERS:
        np.savez(path, scores=scores, seconds=seconds)
    return scores, seconds


@dataclass
class Cell:
    """One set, number of shots and method."""

    accuracies: list[float]
    seconds: list[float]
    confidence: list[npt.NDArray[np.float64]]
    right: list[npt.NDArray[np.bool_]]


def measure(one: LabelledSet, shots: int | None, count: int, cache: Path) -> dict[str, Cell]:
    """All methods on the same draws."""
    cells: dict[str, Cell] = {name: Cell([], [], [], []) for name in (*PEERS, *OWN)}
    for turn, rows in enumerate(draws(one.train_classes, shots, count)):
        classes = one.train_classes[rows]
        for name, method in (PEERS | OWN).items():
            crop = name == LR_CROP
            data = (one.train_crop[rows], classes, one.test_crop) if crop else (one.train[rows], classes, one.test)
            scores, seconds = measured(cache, name, method, f"{one.name}-{shots or 'all'}-{turn}", data)
            right = scores.argmax(axis=1) == one.test_classes
            cell = cells[name]
            cell.accuracies.append(100 * float(right.mean()))
            cell.seconds.append(seconds)
            cell.confidence.append(scores.max(axis=1).astype(np.float64))
            cell.right.append(right)
    return cells


def debiased_error(confidence: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    """Calibration error, less what a perfectly calibrated model shows on as many predictions."""
    generator = np.random.default_rng(0)
    perfect = [
        metrics.expected_calibration_error(confidence, generator.random(len(confidence)) < confidence)
        for _ in range(20)
    ]
    return max(0.0, metrics.expected_calibration_error(confidence, right) - statistics.mean(perfect))


def applicable(one: LabelledSet, shots: int | None) -> bool:
    """Whether half of the concepts have so many pictures."""
    return shots is None or shots <= float(np.median(np.bincount(one.train_classes)))


def report(cells: dict[str, dict[str, Cell]]) -> dict[str, object]:
    """Means, spreads and calibration errors, and the gain that counts."""
    table = {
        key: {
            name: {
                "accuracy": statistics.mean(cell.accuracies),
                "spread": statistics.stdev(cell.accuracies) if len(cell.accuracies) > 1 else 0.0,
                "seconds": statistics.median(cell.seconds),
            }
            for name, cell in by_name.items()
        }
        for key, by_name in cells.items()
    }
    means = {name: statistics.mean(table[key][name]["accuracy"] for key in table) for name in (*PEERS, *OWN)}
    gains = {key: row[DEFAULT]["accuracy"] - row[LR_CROP]["accuracy"] for key, row in table.items()}
    errors = {
        str(shots or "all"): {
            name: debiased_error(*(np.concatenate(parts) for parts in _pooled(cells, shots, name)))
            for name in WITH_PROBABILITIES
        }
        for shots in SHOTS
        if any(key.endswith(f"/{shots or 'all'}") for key in cells)
    }
    by_set = {name: statistics.mean(gains[key] for key in gains if key.startswith(f"{name}/")) for name in _sets(cells)}
    return {
        "cells": table,
        "means": means,
        "gain_over_sklearn_lr": means[DEFAULT] - means[LR_CROP],
        "gain_on_same_features": means[DEFAULT] - means[LR],
        "target": TARGET,
        "gains": gains,
        "gains_by_set": by_set,
        "calibration_error": errors,
    }


def _sets(cells: dict[str, dict[str, Cell]]) -> list[str]:
    return sorted({key.split("/")[0] for key in cells})


def _pooled(
    cells: dict[str, dict[str, Cell]], shots: int | None, name: str
) -> tuple[list[npt.NDArray[np.float64]], list[npt.NDArray[np.bool_]]]:
    chosen = [by_name[name] for key, by_name in cells.items() if key.endswith(f"/{shots or 'all'}")]
    return [part for cell in chosen for part in cell.confidence], [part for cell in chosen for part in cell.right]


def show(result: dict[str, object]) -> None:
    """Print for people."""
    console = Console(width=max(150, Console().width))
    table, means, errors = result["cells"], result["means"], result["calibration_error"]
    shown = Table(
        title="Top-1 accuracy on held-out pictures, %: mean ± spread over draws, by set and pictures a concept"
    )
    shown.add_column("")
    for name in means:
        shown.add_column(name, justify="right")
    for key, row in table.items():
        shown.add_row(key, *(f"{row[name]['accuracy']:.1f} ± {row[name]['spread']:.1f}" for name in means))
    shown.add_section()
    shown.add_row("mean", *(f"{value:.2f}" for value in means.values()))
    for shots, row in errors.items():
        shown.add_row(f"calibration error, {shots}", *(f"{row[name]:.3f}" if name in row else "" for name in means))
    console.print(shown)
    for name, gain in result["gains_by_set"].items():
        console.print(f"{name}: {gain:+.2f} points over {LR_CROP}")
    console.print(f"gain over {LR}, same features: {result['gain_on_same_features']:.2f} points")
    console.print(
        f"gain over {LR_CROP}: [bold]{result['gain_over_sklearn_lr']:.2f}[/] points (target {result['target']})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=["trashnet", *POOL_SETS])
    parser.add_argument("--cache", type=Path, help="a folder for features and for what peers said")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = Path(os.environ.get("LENSMITH_SHARED", ROOT.parent / "shared"))
    if not (shared / "distill" / "manifest.csv").is_file():
        sys.stderr.write(f"needs the pictures and networks in {shared} (LENSMITH_SHARED)\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        embed = Embedder(shared, cache)
        cells: dict[str, dict[str, Cell]] = {}
        for name in options.sets:
            one = load_set(shared, name, embed)
            for shots in SHOTS:
                if applicable(one, shots):
                    sys.stderr.write(f"{name}/{shots or 'all'}\n")
                    cells[f"{name}/{shots or 'all'}"] = measure(one, shots, options.draws, cache)
        result = report(cells)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
