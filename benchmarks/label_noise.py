"""What wrong labels cost, how many of them are found, and what accepting the suggestions wins back.

    python benchmarks/label_noise.py [--set trashnet] [--seeds 10] [--deal-anew] [--noise 0.1] [--cache DIR] [--json]

Trashnet with its official split, or one of the sets of `benchmarks/accuracy.py`, or with every seed another split of
the same pictures; features of `mobilenetv2-features`
as the platform computes them, one view. A part of the training labels is turned into another one, chosen at random.
What is flagged follows from the training pictures alone, as in the platform: scores out of fold and the most alike
pictures, both asked once more without the labels that are most in doubt. Accuracies are those on the test split,
which nothing is chosen by, of heads trained on: the labels as they came; with turned labels; after following in one
call the sure suggestions, right or wrong, which is what `lensmith fix --accept-all` does: the suggested label comes
instead, or, where it is less sure, none does; after taking all of those labels away (`--accept-all --remove`); and
after somebody has looked at what is flagged, following what is right and dismissing what is not. The part won back is
(accuracy then - with turned labels) / (as they came - with turned labels), a ratio of means over seeds. For both tiers
of heads. Needs `../shared` (`LENSMITH_SHARED`) and the extra `benchmarks`.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from labelled_sets import POOL_SETS, LabelledSet, training_set
from one_set import load_one
from rich.console import Console
from rich.table import Table

from lensmith_vision.classes import Tier
from lensmith_vision.curation.neighbours import directions, find_neighbours
from lensmith_vision.curation.suggestion import Curated
from lensmith_vision.curation.wrong_labels import REMOVED_SCORES, REPLACED_SCORES, Doubt, doubted_labels
from lensmith_vision.folds import groups_of
from lensmith_vision.training import Fitted, TrainOptions, fit

FLAGGED_TARGET, CLEAN_TARGET = 0.80, 0.08
REMOVED, REPLACED = REMOVED_SCORES["multi_class"], REPLACED_SCORES["multi_class"]

Ints = npt.NDArray[np.int64]


_ALL = slice(None)
TIERS: tuple[Tier, ...] = ("linear", "auto")
STATES = {
    "clean": "labels as they came",
    "flipped": "labels turned",
    "accepted": f"accepted in one call (replaced from {REPLACED} on, taken away from {REMOVED} on)",
    "removed": f"taken away in one call (from {REMOVED} on)",
    "reviewed": "flagged ones looked at",
}


@dataclass(frozen=True)
class Run:
    """One seed; parts of 0 to 1. What is flagged is that of the tier `auto`, which is the default."""

    flips: int
    flips_flagged: float
    clean_flagged: float
    precision: float
    flips_removed: float
    removed_precision: float
    flips_replaced: float
    replaced_right: float
    wrong_after: int
    seconds: float
    accuracy: dict[str, dict[str, float]]


def trained(data: LabelledSet, classes: Ints, tier: Tier, kept: Ints | slice = _ALL) -> tuple[Fitted, float]:
    """A head as the trainer makes it of the pictures that are kept, and its accuracy."""
    fitted = fit(training_set(data.train[kept], classes[kept]), TrainOptions("multi_class", tier=tier))
    right = fitted.head.scores(data.test).argmax(axis=1) == data.test_classes
    return fitted, float(right.mean())


def doubted(data: LabelledSet, classes: Ints, fitted: Fitted) -> Doubt:
    """The labels that are doubted."""
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
    return doubted_labels(curated, find_neighbours(directions(curated.features), curated.groups))


def dealt_anew(data: LabelledSet, seed: int) -> LabelledSet:
    """The same pictures, as many of them to train on, others."""
    features = np.concatenate([data.train, data.test])
    classes = np.concatenate([data.train_classes, data.test_classes])
    order, count = np.random.default_rng(seed).permutation(len(classes)), len(data.train)
    train, test = order[:count], order[count:]
    return LabelledSet(
        data.name, features[train], classes[train], features[test], classes[test], features[train], features[test]
    )


def clean_of(data: LabelledSet) -> dict[Tier, float]:
    """Accuracies with the labels as they came."""
    return {tier: trained(data, data.train_classes, tier)[1] for tier in TIERS}


def measure(data: LabelledSet, noise: float, seed: int, clean: dict[Tier, float]) -> Run:
    """Flip labels, look for them, accept what is suggested."""
    generator = np.random.default_rng(seed)
    truth = data.train_classes
    rows, width = len(truth), int(truth.max()) + 1
    flipped = np.zeros(rows, dtype=np.bool_)
    flipped[generator.permutation(rows)[: round(noise * rows)]] = True
    classes = truth.copy()
    classes[flipped] = (classes[flipped] + generator.integers(1, width, int(flipped.sum()))) % width
    accuracy: dict[str, dict[str, float]] = {}
    for tier in TIERS:
        fitted, at_first = trained(data, classes, tier)
        begun = time.perf_counter()
        doubt = doubted(data, classes, fitted)
        seconds = time.perf_counter() - begun
        flagged = doubt.of(rows)
        replaced, sure = doubt.rows[doubt.scores >= REPLACED], doubt.rows[doubt.scores >= REMOVED]
        accepted, reviewed = classes.copy(), classes.copy()
        accepted[replaced] = doubt.columns[doubt.scores >= REPLACED]
        reviewed[flagged] = truth[flagged]
        left = np.setdiff1d(np.arange(rows), np.setdiff1d(sure, replaced))
        accuracy[tier] = {
            "clean": clean[tier],
            "flipped": at_first,
            "accepted": trained(data, accepted, tier, left)[1],
            "removed": trained(data, classes, tier, np.setdiff1d(np.arange(rows), sure))[1],
            "reviewed": trained(data, reviewed, tier)[1],
        }
    return Run(
        flips=int(flipped.sum()),
        flips_flagged=float(flagged[flipped].mean()),
        clean_flagged=float(flagged[~flipped].mean()),
        precision=float(flipped[flagged].mean()),
        flips_removed=float(flipped[sure].sum() / flipped.sum()),
        removed_precision=float(flipped[sure].mean()),
        flips_replaced=float(flipped[replaced].sum() / flipped.sum()),
        replaced_right=float((accepted == truth)[replaced].mean()),
        wrong_after=int((accepted != truth)[left].sum()),
        seconds=seconds,
        accuracy=accuracy,
    )


def summary(name: str, runs: list[Run], noise: float) -> dict[str, object]:
    """Means and spreads, and the part of the loss that is won back."""
    names = [name for name in vars(runs[0]) if name != "accuracy"]
    result: dict[str, object] = {name: statistics.mean(getattr(run, name) for run in runs) for name in names}
    spread = statistics.stdev if len(runs) > 1 else lambda values: 0.0
    result["spreads"] = {name: spread([getattr(run, name) for run in runs]) for name in names}
    for tier in TIERS:
        states = runs[0].accuracy[tier]
        means = {state: statistics.mean(run.accuracy[tier][state] for run in runs) for state in states}
        lost = means["clean"] - means["flipped"]
        for state, mean in means.items():
            result[f"accuracy_{state}_{tier}"] = mean
            if state not in ("clean", "flipped"):
                gains = [run.accuracy[tier][state] - run.accuracy[tier]["flipped"] for run in runs]
                result[f"gain_{state}_{tier}"] = statistics.mean(gains)
                result[f"gain_error_{state}_{tier}"] = spread(gains) / len(gains) ** 0.5
                result[f"won_back_{state}_{tier}"] = statistics.mean(gains) / lost if lost > 0 else None
                result[f"won_back_interval_{state}_{tier}"] = won_back_interval(runs, tier, state)
    reached = result["flips_flagged"] >= FLAGGED_TARGET and result["clean_flagged"] <= CLEAN_TARGET
    return {
        **result,
        "set": name,
        "noise": noise,
        "seeds": len(runs),
        "targets": {"flips_flagged": FLAGGED_TARGET, "clean_flagged": CLEAN_TARGET},
        "reached": reached,
        "runs": [vars(run) for run in runs],
    }


def won_back_interval(runs: list[Run], tier: Tier, state: str) -> tuple[float, float] | None:
    """95 % interval of the part won back, a ratio of means over seeds, by drawing the seeds anew.

    None where so little is lost that it may be nothing.
    """
    flipped = np.array([run.accuracy[tier]["flipped"] for run in runs])
    losses = np.array([run.accuracy[tier]["clean"] for run in runs]) - flipped
    gains = np.array([run.accuracy[tier][state] for run in runs]) - flipped
    drawn = np.random.default_rng(0).integers(0, len(runs), (2000, len(runs)))
    lost = losses[drawn].mean(axis=1)
    if np.quantile(lost, 0.025) <= 0:
        return None
    parts = gains[drawn].mean(axis=1) / np.maximum(lost, 1e-9)
    low, high = np.quantile(parts, [0.025, 0.975])
    return float(low), float(high)


def show(result: dict[str, object]) -> None:
    """Print for people."""
    console = Console()
    texts = {
        "flips_flagged": f"wrong labels flagged (target ≥ {FLAGGED_TARGET:.0%})",
        "clean_flagged": f"right labels flagged (target ≤ {CLEAN_TARGET:.0%})",
        "precision": "precision of the flags",
        "flips_removed": f"wrong labels replaced or taken away (score ≥ {REMOVED})",
        "removed_precision": "precision of that",
        "flips_replaced": f"wrong labels replaced (score ≥ {REPLACED})",
        "replaced_right": "labels right that were replaced",
    }
    shown = Table(
        title=f"{result['noise']:.0%} of the training labels of {result['set']} turned, {result['seeds']} seeds"
    )
    shown.add_column("")
    shown.add_column("mean ± spread, %", justify="right")
    for key, text in texts.items():
        shown.add_row(text, f"{100 * result[key]:.1f} ± {100 * result['spreads'][key]:.1f}")
    console.print(shown)
    table = Table(
        title="Accuracy on the test split, %; gain over turned labels ± its standard error; part won back [95 %]"
    )
    table.add_column("")
    for tier in TIERS:
        table.add_column(f"tier {tier}", justify="right")
    for state, text in STATES.items():
        table.add_row(text, *(_accuracy(result, state, tier) for tier in TIERS))
    console.print(table)
    console.print(
        "wrong labels: {:.0f}; after accepting in one call {:.0f}".format(result["flips"], result["wrong_after"])
    )


def _accuracy(result: dict[str, object], state: str, tier: str) -> str:
    text = f"{100 * result[f'accuracy_{state}_{tier}']:.1f}"
    if f"gain_{state}_{tier}" in result:
        gain, error = result[f"gain_{state}_{tier}"], result[f"gain_error_{state}_{tier}"]
        won, interval = result[f"won_back_{state}_{tier}"], result[f"won_back_interval_{state}_{tier}"]
        part = "" if won is None or interval is None else f", {won:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]"
        text += f" ({100 * gain:+.1f} ± {100 * error:.1f}{part})"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=("trashnet", *POOL_SETS), default="trashnet")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--deal-anew", action="store_true", help="another split of the pictures with every seed")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--cache", type=Path, help="a folder for features")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data = load_one(options.set, options.cache)
    runs, clean = [], {} if options.deal_anew else clean_of(data)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        dealt = dealt_anew(data, seed) if options.deal_anew else data
        runs.append(measure(dealt, options.noise, seed, clean or clean_of(dealt)))
    result = summary(data.name, runs, options.noise)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
