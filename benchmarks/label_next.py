"""What labelling the suggested pictures wins over labelling any: accuracy after each round of 50 labels.

    python benchmarks/label_next.py [--draws 6] [--rounds 3] [--cache DIR] [--json]

Trashnet with its official split, features of `mobilenetv2-features`, one view, linear tier. Each draw begins with 5
labelled pictures a concept; the labels of the others are told only when they are asked for. Needs `../shared`
(`LENSMITH_SHARED`) and the extra `benchmarks`.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labelled_sets import LabelledSet, training_set
from one_set import load_one
from rich.console import Console
from rich.table import Table

from lensmith_vision.curation.next_labels import label_next
from lensmith_vision.curation.suggestion import Curated, Pictures
from lensmith_vision.heads import Head
from lensmith_vision.training import TrainOptions, fit

EACH = 5

Ints = npt.NDArray[np.int64]


def trained(data: LabelledSet, rows: Ints) -> tuple[Head, float]:
    """A head trained on some rows, and its accuracy on the test split, in percent."""
    given = training_set(data.train[rows], data.train_classes[rows])
    head = fit(given, TrainOptions("multi_class", tier="linear")).head
    return head, 100 * float((head.scores(data.test).argmax(axis=1) == data.test_classes).mean())


def suggested(data: LabelledSet, rows: Ints, rest: Ints, head: Head) -> Ints:
    """The pictures that the platform would have labelled next."""
    labelled = training_set(data.train[rows], data.train_classes[rows])
    curated = Curated(
        type="multi_class",
        concepts=labelled.concepts,
        ids=labelled.ids,
        features=labelled.features,
        group_ids=labelled.ids,
        groups=np.arange(len(rows)),
        given=[{} for _ in rows],
        scores=np.full((len(rows), len(labelled.concepts)), np.nan, np.float32),
        labels=labelled.labels,
    )
    ids = [str(row) for row in rest]
    chosen = label_next(curated, head, Pictures(ids, data.train[rest], ids))
    return np.array([int(one.picture) for one in chosen])


def run(data: LabelledSet, seed: int, rounds: int) -> dict[str, list[float]]:
    """Accuracy at the start and after each round, for both ways of choosing."""
    generator = np.random.default_rng(seed)
    classes = range(int(data.train_classes.max()) + 1)
    start = np.concatenate([generator.permutation(np.flatnonzero(data.train_classes == one))[:EACH] for one in classes])
    found: dict[str, list[float]] = {}
    for way in ("suggested", "random"):
        rows = start
        head, accuracy = trained(data, rows)
        found[way] = [accuracy]
        for _ in range(rounds):
            rest = np.setdiff1d(np.arange(len(data.train)), rows)
            more = suggested(data, rows, rest, head) if way == "suggested" else generator.permutation(rest)[:50]
            rows = np.concatenate([rows, more])
            head, accuracy = trained(data, rows)
            found[way].append(accuracy)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="a folder for features")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = load_one("trashnet", options.cache)
    draws = [run(data, seed, options.rounds) for seed in range(options.draws)]
    means = {
        way: [statistics.mean(one[way][turn] for one in draws) for turn in range(options.rounds + 1)]
        for way in ("suggested", "random")
    }
    gains = [[one["suggested"][turn] - one["random"][turn] for one in draws] for turn in range(1, options.rounds + 1)]
    errors = [statistics.stdev(gain) / len(gain) ** 0.5 if len(gain) > 1 else 0.0 for gain in gains]
    result = {"accuracy": means, "gain_over_random": [statistics.mean(gain) for gain in gains], "gain_error": errors}
    if options.json:
        print(json.dumps(result))
        return 0
    shown = Table(title=f"Accuracy on the test split, %, {options.draws} draws, 50 labels a round")
    for column in ("labels", "random", "suggested", "gain"):
        shown.add_column(column, justify="right")
    width = int(data.train_classes.max()) + 1
    for turn in range(options.rounds + 1):
        gain = "" if not turn else f"{result['gain_over_random'][turn - 1]:+.1f} ± {errors[turn - 1]:.1f}"
        values = (f"{means[way][turn]:.1f}" for way in ("random", "suggested"))
        shown.add_row(str(EACH * width + 50 * turn), *values, gain)
    Console().print(shown)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
