"""How accurate private models are, from how few pictures: Lensmith's heads against others, same features.

    python benchmarks/accuracy.py [--draws 10] [--sets trashnet animals] [--views 8] [--cache DIR] [--json]

Sets: trashnet (its official split), and three labelled sets of the pool, each halved by the hash of the file's name:
animals (22 concepts), Caltech-101 and clothing. 5, 10, 25, 50 and all pictures a concept, the same draws for everybody,
features of `mobilenetv2-features` as the platform computes them, one view. Peers run at their best: one BLAS thread.
Logistic regression runs once more on the embedding of the usual centre crop, which costs the same. A linear head
trained with PyTorch Lightning takes part where the extra `finetune` is installed.

`gain_over_sklearn_lr` is the mean over all cells of what users get by default, less scikit-learn's logistic regression
with cross-validated C on the centre crop's embedding, in points; `gain_on_same_features` is less the one on the
platform's own embedding: what the head alone wins. Calibration errors are pooled over sets and draws, with what a
perfect model would show on as many predictions taken off. `--views 8` adds rows of the same heads on eight views of
each picture, training and test, and says how many pictures a second that leaves.

All of it takes about half an hour on two cores, nearly all of that the peers; `--draws 2` some minutes.

With `--cache` a run that was broken off goes on: features, and the scores of every cell, draw and method, are kept
there; those of Lensmith until its library changes. Needs `../shared` (`LENSMITH_SHARED`) and the extra `benchmarks`.
"""

import argparse
import hashlib
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labelled_sets import (
    NETWORK,
    POOL_SETS,
    SHOTS,
    Embedder,
    Floats,
    Ints,
    LabelledSet,
    applicable,
    draws,
    load_set,
    shared_folder,
    training_set,
)
from rich.console import Console
from rich.table import Table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits

import lensmith_vision
from lensmith_vision import metrics
from lensmith_vision.classes import Tier
from lensmith_vision.training import TrainOptions, fit

MANY_CONCEPTS = 50
LR, LR_CROP, DEFAULT = "sklearn LR, C by CV", "sklearn LR, centre crop", "Lensmith"
LIGHTNING, LR_VIEWS, DEFAULT_VIEWS = "Lightning", "sklearn LR, 8 views", "Lensmith, 8 views"
TARGET = 2.0

Method = Callable[[Floats, Ints, Floats], Floats]


def lensmith(tier: Tier) -> Method:
    """Lensmith's head, as the trainer makes it."""

    def run(train: Floats, classes: Ints, test: Floats) -> Floats:
        return fit(training_set(train, classes), TrainOptions("multi_class", tier=tier)).head.scores(test)

    return run


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


def with_lightning(train: Floats, classes: Ints, test: Floats) -> Floats:
    """A linear head, trained with PyTorch Lightning."""
    from lightning_head import lightning_head

    return lightning_head(train, classes, test)


PEERS: dict[str, Method] = {
    LR_CROP: logistic_regression,
    LR: logistic_regression,
    LIGHTNING: with_lightning,
    "sklearn ridge": ridge,
    "sklearn LDA": discriminant,
    "sklearn nearest mean": nearest_mean,
    LR_VIEWS: logistic_regression,
}
OWN: dict[str, Method] = {
    DEFAULT: lensmith("auto"),
    "Lensmith, linear tier": lensmith("linear"),
    "Lensmith, kernel tier": lensmith("kernel"),
    DEFAULT_VIEWS: lensmith("auto"),
}
WITH_PROBABILITIES = (LR_CROP, LR, LIGHTNING, "sklearn LDA", LR_VIEWS, *OWN)


def methods(views: int) -> dict[str, Method]:
    """Those that can take part."""
    left_out = set() if views > 1 else {LR_VIEWS, DEFAULT_VIEWS}
    if importlib.util.find_spec("lightning") is None:
        sys.stderr.write("Lightning is left out: it needs `pip install lensmith[finetune]`\n")
        left_out.add(LIGHTNING)
    return {name: method for name, method in (PEERS | OWN).items() if name not in left_out}


def revision() -> str:
    """Tells one state of Lensmith's library from another."""
    digest = hashlib.sha256()
    for path in sorted(Path(lensmith_vision.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def data_for(one: LabelledSet, name: str, rows: Ints) -> tuple[Floats, Ints, Floats]:
    """What a method is trained on and asked about."""
    classes = one.train_classes[rows]
    if name in (LR_VIEWS, DEFAULT_VIEWS) and one.train_views is not None and one.test_views is not None:
        return one.train_views[rows], classes, one.test_views
    if name == LR_CROP:
        return one.train_crop[rows], classes, one.test_crop
    return one.train[rows], classes, one.test


class Measuring:
    """Asks methods, once: what they said is kept.

    Args:
        cache: The folder.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._revision = revision()

    def __call__(self, name: str, method: Method, key: str, data: tuple[Floats, Ints, Floats]) -> tuple[Floats, float]:
        """Give scores of the test pictures and seconds of the processor for fitting."""
        digest = hashlib.sha256(name.encode() if name in PEERS else (name + self._revision).encode()).hexdigest()
        path = self._cache / f"{key}-{digest[:8]}.npz"
        if path.is_file():
            with np.load(path) as kept:
                return kept["scores"], float(kept["seconds"])
        begun = time.process_time()
        # Peers at their best: two threads make scikit-learn up to fifteen times slower on small data.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = method(*data)
        seconds = time.process_time() - begun
        # Under its name once it is whole: a run may be broken off at any moment.
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, scores=scores, seconds=seconds)
        unfinished.rename(path)
        return scores, seconds


@dataclass
class Cell:
    """One set, number of shots and method."""

    accuracies: list[float]
    seconds: list[float]
    confidence: list[npt.NDArray[np.float64]]
    right: list[npt.NDArray[np.bool_]]


def measure(
    one: LabelledSet, shots: int | None, count: int, chosen: dict[str, Method], measuring: Measuring
) -> dict[str, Cell]:
    """All methods on the same draws."""
    cells: dict[str, Cell] = {name: Cell([], [], [], []) for name in chosen}
    for turn, rows in enumerate(draws(one.train_classes, shots, count)):
        for name, method in chosen.items():
            key = f"{one.name}-{shots or 'all'}-{turn}"
            scores, seconds = measuring(name, method, key, data_for(one, name, rows))
            right = scores.argmax(axis=1) == one.test_classes
            cell = cells[name]
            cell.accuracies.append(100 * float(right.mean()))
            cell.seconds.append(seconds)
            cell.confidence.append(scores.max(axis=1).astype(np.float64))
            cell.right.append(right)
    told = ", ".join(f"{name} {statistics.mean(cell.accuracies):.1f}" for name, cell in cells.items())
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {one.name}/{shots or 'all'}: {told}\n")
    return cells


def report(cells: dict[str, dict[str, Cell]]) -> dict[str, object]:
    """Means, spreads and calibration errors, and the gain that counts."""
    names = list(next(iter(cells.values())))
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
    means = {name: statistics.mean(table[key][name]["accuracy"] for key in table) for name in names}
    gains = {key: row[DEFAULT]["accuracy"] - row[LR_CROP]["accuracy"] for key, row in table.items()}
    errors = {
        str(shots or "all"): {
            name: metrics.debiased_calibration_error(*(np.concatenate(parts) for parts in _pooled(cells, shots, name)))
            for name in names
            if name in WITH_PROBABILITIES
        }
        for shots in SHOTS
        if any(key.endswith(f"/{shots or 'all'}") for key in cells)
    }
    spreads = {key: max(row[DEFAULT]["spread"], row[LR_CROP]["spread"]) for key, row in table.items()}
    by_set = {name: statistics.mean(gains[key] for key in gains if key.startswith(f"{name}/")) for name in _sets(cells)}
    return {
        "cells": table,
        "means": means,
        "gain_over_sklearn_lr": means[DEFAULT] - means[LR_CROP],
        "gain_on_same_features": means[DEFAULT] - means[LR],
        "target": TARGET,
        "gains": gains,
        "gains_by_set": by_set,
        "spreads_by_set": {
            name: statistics.mean(spreads[key] for key in spreads if key.startswith(f"{name}/"))
            for name in _sets(cells)
        },
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
        console.print(f"{name}: {gain:+.2f} points over {LR_CROP}, spread {result['spreads_by_set'][name]:.2f}")
    for views, speed in result["images_per_second"].items():
        console.print(f"{views} views: {speed:.0f} images a second and thread, embedding alone")
    console.print(f"gain over {LR}, same features: {result['gain_on_same_features']:.2f} points")
    console.print(
        f"gain over {LR_CROP}: [bold]{result['gain_over_sklearn_lr']:.2f}[/] points (target {result['target']})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=["trashnet", *POOL_SETS])
    parser.add_argument("--views", type=int, choices=(1, 8), default=1, help="8: also measure heads on eight views")
    parser.add_argument("--cache", type=Path, help="a folder for features and scores, so that a broken run goes on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = shared_folder()
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        embedders = {views: Embedder(shared, cache, views) for views in (1, options.views)}
        chosen, measuring = methods(options.views), Measuring(cache)
        cells: dict[str, dict[str, Cell]] = {}
        for name in options.sets:
            one = load_set(shared, name, embedders[1], embedders[options.views] if options.views > 1 else None)
            for shots in SHOTS:
                if applicable(one, shots):
                    cells[f"{name}/{shots or 'all'}"] = measure(one, shots, options.draws, chosen, measuring)
        speeds = {str(views): embed.images_per_second() for views, embed in embedders.items()}
        result = report(cells) | {"network": NETWORK, "draws": options.draws, "images_per_second": speeds}
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
