"""Whether what an evaluation promises is kept on new pictures: accuracy, its interval, precision, calibration.

    python benchmarks/promises.py [--draws 10] [--sets trashnet animals] [--cache DIR] [--json]

The sets, draws and features are those of `benchmarks/accuracy.py`. A head is trained on 10 or 25 pictures a concept;
what its evaluation out of fold says is the promise. What it does on the test half is what is found, with concepts
counted as often as in training: another mixture of concepts is another question. Held against each other are

- accuracy, and how often the 95 % interval holds what is found, once allowing for the chance that lies in the test half
  itself, which has a few hundred pictures; and how often less is found than the lower end of the interval: a promise
  that is broken. What is trained on all pictures is a little better than what was held out for the promise;
- the precision of what is predicted, where thresholds were asked to keep 80, 90 or 95 %, and how much that finds;
- the calibration error on the test half, debiased;
- the same with pictures `in order`: neighbours in the order in which they were taken, as somebody makes a training set
  in one sitting, instead of pictures drawn at random.

Needs `../shared` (`LENSMITH_SHARED`).
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labelled_sets import (
    POOL_SETS,
    Embedder,
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

from lensmith_vision import metrics
from lensmith_vision.report import Decisions, ThresholdAim, thresholds_of
from lensmith_vision.training import Fitted, TrainOptions, fit

SHOTS = (10, 25)
PRECISIONS = (0.8, 0.9, 0.95)
Doubles = npt.NDArray[np.float64]


@dataclass
class Kept:
    """What was promised and found, draw by draw; precisions as hits, predictions and what there was to find."""

    promised: list[float] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    held_with_chance: list[bool] = field(default_factory=list)
    broken: list[bool] = field(default_factory=list)
    promised_error: list[float] = field(default_factory=list)
    found_error: list[float] = field(default_factory=list)
    hits: dict[float, float] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 0.0))
    predictions: dict[float, float] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 0.0))
    pictures: float = 0.0


def neighbours(classes: Ints, shots: int, count: int) -> Iterator[Ints]:
    """Rows to train on, of each concept so many that follow each other."""
    for seed in range(count):
        generator = np.random.default_rng(seed)
        chosen = []
        for one in range(classes.max() + 1):
            rows = np.flatnonzero(classes == one)
            start = int(generator.integers(0, max(1, len(rows) - shots + 1)))
            chosen.append(rows[start : start + shots])
        yield np.sort(np.concatenate(chosen))


def hold(one: LabelledSet, rows: Ints, kept: Kept) -> None:
    """Train on some rows, and hold what is promised against what is found."""
    data = training_set(one.train[rows], one.train_classes[rows])
    fitted = fit(data, TrainOptions("multi_class", tier="linear"))
    scores = fitted.head.scores(one.test)
    counts = np.bincount(one.train_classes[rows], minlength=scores.shape[1])
    weights = (counts / np.maximum(np.bincount(one.test_classes, minlength=len(counts)), 1))[one.test_classes]
    weights *= len(weights) / weights.sum()
    right = scores.argmax(axis=1) == one.test_classes
    evaluation = fitted.evaluation
    promised, found = evaluation.accuracy or 0.0, float(np.average(right, weights=weights))
    low, high = evaluation.intervals["accuracy"]
    chance = 1.96 * math.sqrt(float((weights**2 * (right - found) ** 2).sum())) / len(weights)
    kept.promised.append(promised)
    kept.found.append(found)
    kept.held.append(low <= found <= high)
    kept.broken.append(found < low)
    # Two chances side by side: that of the pictures of the promise, and that of the pictures of the exam.
    beyond = promised - found
    reach = promised - low if beyond > 0 else high - promised
    kept.held_with_chance.append(abs(beyond) <= math.hypot(reach, chance))
    kept.promised_error.append(evaluation.expected_calibration_error or 0.0)
    kept.found_error.append(metrics.debiased_calibration_error(scores.max(axis=1).astype(np.float64), right))
    precisions(fitted, scores, one.test_classes, weights, kept)


def precisions(fitted: Fitted, scores: npt.NDArray[np.float32], classes: Ints, weights: Doubles, kept: Kept) -> None:
    """Count what is predicted, and what of it is right, at thresholds that should keep a precision."""
    known = fitted.out_of_fold
    kept.pictures += float(weights.sum())
    for precision in PRECISIONS:
        decisions = Decisions(known.scores, known.folds, labels=known.labels)
        predicted = scores >= thresholds_of(decisions, ThresholdAim(least_precision=precision))
        kept.predictions[precision] += float((predicted * weights[:, None]).sum())
        kept.hits[precision] += float((predicted[np.arange(len(classes)), classes] * weights).sum())


def summary(kept: Kept) -> dict[str, object]:
    """Means over draws."""
    return {
        "promised_accuracy": statistics.mean(kept.promised),
        "found_accuracy": statistics.mean(kept.found),
        "kept_back": statistics.mean(kept.promised) - statistics.mean(kept.found),
        "coverage": statistics.mean(kept.held),
        "coverage_with_chance": statistics.mean(kept.held_with_chance),
        "broken": statistics.mean(kept.broken),
        "promised_calibration_error": statistics.mean(kept.promised_error),
        "found_calibration_error": statistics.mean(kept.found_error),
        "found_precision": {
            str(precision): kept.hits[precision] / kept.predictions[precision]
            for precision in PRECISIONS
            if kept.predictions[precision]
        },
        "found_recall": {str(precision): kept.hits[precision] / kept.pictures for precision in PRECISIONS},
        "draws": len(kept.promised),
    }


def show(result: dict[str, dict[str, object]]) -> None:
    """Print for people."""
    table = Table(title="What evaluations out of fold promise, and what is found on the test halves, %")
    columns = ["", "promised", "found", "less", "interval holds", "with chance", "broken", "calibration error"]
    for name in (*columns, *(f"{100 * precision:.0f} asked" for precision in PRECISIONS)):
        table.add_column(name, justify="right" if name else "left")
    for key, row in result.items():
        found = [(row["found_precision"].get(str(one)), row["found_recall"][str(one)]) for one in PRECISIONS]
        table.add_row(
            key,
            *(f"{100 * row[name]:.1f}" for name in ("promised_accuracy", "found_accuracy", "kept_back")),
            *(f"{100 * row[name]:.0f}" for name in ("coverage", "coverage_with_chance", "broken")),
            f"{100 * row['found_calibration_error']:.1f}",
            *("" if value is None else f"{100 * value:.1f} of {100 * recall:.0f}" for value, recall in found),
        )
    Console(width=max(150, Console().width)).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--sets", nargs="*", default=["trashnet", *POOL_SETS])
    parser.add_argument("--cache", type=Path, help="a folder for features")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = shared_folder()
    result: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        embed = Embedder(shared, cache)
        for name in options.sets:
            one = load_set(shared, name, embed)
            for shots in (shots for shots in SHOTS if applicable(one, shots)):
                kinds = {"at random": draws, "in order": neighbours}
                for kind, draw in kinds.items():
                    kept = Kept()
                    for rows in draw(one.train_classes, shots, options.draws):
                        hold(one, rows, kept)
                    result[f"{name}/{shots} {kind}"] = summary(kept)
                    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {name}/{shots} {kind}\n")
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
