"""What wrong labels cost, how many of them are found, and what accepting the suggestions wins back.

    python benchmarks/label_noise.py [--seeds 10] [--noise 0.1] [--cache DIR] [--json]

Trashnet with its official split, features of `mobilenetv2-features` as the platform computes them, one view. A part of
the training labels is turned into another one, chosen at random. What is flagged follows from the training pictures
alone, as in the platform: scores out of fold and the most alike pictures. "Accepted" means that every suggestion is
followed, right or wrong, as one call does. Accuracies are those of a head trained as by default, on the test split,
which nothing is chosen by. Needs `../shared` (`LENSMITH_SHARED`) and the extra `benchmarks`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accuracy import ROOT, Embedder, LabelledSet, load_set, training_set
from rich.console import Console
from rich.table import Table

from lensmith_vision.curation.neighbours import directions, find_neighbours
from lensmith_vision.curation.suggestion import Curated
from lensmith_vision.curation.wrong_labels import LEAST_SCORE, doubted_labels
from lensmith_vision.folds import groups_of
from lensmith_vision.training import Fitted, TrainOptions, fit

FLAGGED_TARGET, CLEAN_TARGET = 0.80, 0.08
SURE = 0.9

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """One seed; parts of 0 to 1, accuracies on the test split."""

    flips: int
    flips_flagged: float
    clean_flagged: float
    precision: float
    corrected: float
    wrong_after: int
    clean_set_flagged: float
    accuracy_clean: float
    accuracy_flipped: float
    accuracy_accepted: float
    accuracy_accepted_sure: float
    seconds: float


def trained(data: LabelledSet, classes: Ints) -> tuple[Fitted, float]:
    """A head as the trainer makes it, and its accuracy."""
    fitted = fit(training_set(data.train, classes), TrainOptions("multi_class"))
    right = fitted.head.scores(data.test).argmax(axis=1) == data.test_classes
    return fitted, float(right.mean())


def doubted(data: LabelledSet, classes: Ints, fitted: Fitted) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    """Pictures whose labels are doubted, the suggested classes, and how sure each is."""
    given = training_set(data.train, classes)
    curated = Curated(
        type="multi_class",
        concepts=given.concepts,
        ids=given.ids,
        features=given.features,
        group_ids=given.group_ids,
        groups=groups_of(given.features, given.group_ids),
        given=[{str(one): True} for one in classes],
        scores=fitted.out_of_fold.scores,
        labels=given.labels,
    )
    doubt = doubted_labels(curated, find_neighbours(directions(curated.features), curated.groups))
    return doubt.rows, doubt.columns, doubt.scores


def measure(data: LabelledSet, noise: float, seed: int, clean: tuple[Fitted, float]) -> Run:
    """Flip labels, look for them, accept what is suggested."""
    generator = np.random.default_rng(seed)
    rows, width = len(data.train_classes), int(data.train_classes.max()) + 1
    flipped = np.zeros(rows, dtype=np.bool_)
    flipped[generator.permutation(rows)[: round(noise * rows)]] = True
    classes = data.train_classes.copy()
    classes[flipped] = (classes[flipped] + generator.integers(1, width, int(flipped.sum()))) % width
    fitted, accuracy_flipped = trained(data, classes)
    begun = time.perf_counter()
    found, suggested, scores = doubted(data, classes, fitted)
    seconds = time.perf_counter() - begun
    flagged = np.zeros(rows, dtype=np.bool_)
    flagged[found] = True
    accepted, sure = classes.copy(), classes.copy()
    accepted[found] = suggested
    sure[found[scores >= SURE]] = suggested[scores >= SURE]
    clean_found = doubted(data, data.train_classes, clean[0])[0]
    return Run(
        flips=int(flipped.sum()),
        flips_flagged=float(flagged[flipped].mean()),
        clean_flagged=float(flagged[~flipped].mean()),
        precision=float(flipped[flagged].mean()),
        corrected=float((accepted == data.train_classes)[flipped].mean()),
        wrong_after=int((accepted != data.train_classes).sum()),
        clean_set_flagged=len(clean_found) / rows,
        accuracy_clean=clean[1],
        accuracy_flipped=accuracy_flipped,
        accuracy_accepted=trained(data, accepted)[1],
        accuracy_accepted_sure=trained(data, sure)[1],
        seconds=seconds,
    )


def summary(runs: list[Run], noise: float) -> dict[str, object]:
    """Means and spreads, and the part of the loss that is won back."""
    means = {key: statistics.mean(getattr(run, key) for run in runs) for key in vars(runs[0])}
    spreads = {key: statistics.stdev(getattr(run, key) for run in runs) if len(runs) > 1 else 0.0 for key in means}
    lost = means["accuracy_clean"] - means["accuracy_flipped"]
    return {
        **means,
        "spreads": spreads,
        "won_back": (means["accuracy_accepted"] - means["accuracy_flipped"]) / lost if lost > 0 else None,
        "won_back_sure": (means["accuracy_accepted_sure"] - means["accuracy_flipped"]) / lost if lost > 0 else None,
        "noise": noise,
        "seeds": len(runs),
        "targets": {"flips_flagged": FLAGGED_TARGET, "clean_flagged": CLEAN_TARGET},
        "reached": means["flips_flagged"] >= FLAGGED_TARGET and means["clean_flagged"] <= CLEAN_TARGET,
        "runs": [vars(run) for run in runs],
    }


def show(result: dict[str, object]) -> None:
    """Print for people."""
    texts = {
        "flips_flagged": f"wrong labels flagged (target ≥ {FLAGGED_TARGET:.0%})",
        "clean_flagged": f"right labels flagged (target ≤ {CLEAN_TARGET:.0%})",
        "precision": "precision of the flags",
        "corrected": "wrong labels made right by accepting all",
        "clean_set_flagged": "flagged where no label was turned",
        "accuracy_clean": "test accuracy, labels as they came",
        "accuracy_flipped": "test accuracy, labels turned",
        "accuracy_accepted": f"test accuracy, all accepted (score ≥ {LEAST_SCORE})",
        "accuracy_accepted_sure": f"test accuracy, accepted from score {SURE} on",
    }
    shown = Table(title=f"{result['noise']:.0%} of trashnet's training labels turned, {result['seeds']} seeds")
    shown.add_column("")
    shown.add_column("mean ± spread, %", justify="right")
    for key, text in texts.items():
        shown.add_row(text, f"{100 * result[key]:.1f} ± {100 * result['spreads'][key]:.1f}")
    console = Console()
    console.print(shown)
    console.print(f"wrong labels: {result['flips']:.0f} before, {result['wrong_after']:.0f} after accepting all")
    if result["won_back"] is not None:
        console.print(f"won back of the accuracy lost: [bold]{result['won_back']:.0%}[/]")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--cache", type=Path, help="a folder for features")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = Path(os.environ.get("LENSMITH_SHARED", ROOT.parent / "shared"))
    if not (shared / "datasets" / "trashnet").is_dir():
        sys.stderr.write(f"needs the pictures and networks in {shared} (LENSMITH_SHARED)\n")
        return 1
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        cache = options.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        data = load_set(shared, "trashnet", Embedder(shared, cache))
    clean = trained(data, data.train_classes)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    result = summary([measure(data, options.noise, seed, clean) for seed in seeds], options.noise)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
