"""Whether a model notices pictures unlike its training: trashnet's official test pictures against others.

    python benchmarks/unfamiliar.py [--seed 0] [--json]

A head is trained on trashnet's training photographs alone. The answer, `unfamiliar_auroc`, is how often a picture drawn
from 1,000 of the pool, which it has never seen, is more `unfamiliar` to it than a test picture of trashnet: 0.5 is
chance. Needs `../shared` (`LENSMITH_SHARED`).
"""

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from labelled_sets import NETWORK, Embedder, load_set, shared_folder, training_set
from rich.console import Console

from lensmith_vision.metrics import roc_auc
from lensmith_vision.training import TrainOptions, fit

OUTSIDERS = 1000
TARGET = 0.90


def outsiders(shared: Path, seed: int) -> list[Path]:
    """Pictures of the pool, drawn at random."""
    with (shared / "distill" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        files = [shared / "distill" / row["file"] for row in csv.DictReader(file)]
    return [files[row] for row in np.random.default_rng(seed).choice(len(files), OUTSIDERS, replace=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = shared_folder()
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        embed = Embedder(shared, Path(scratch))
        known = load_set(shared, "trashnet", embed)
        strange = embed("outsiders", outsiders(shared, options.seed))
    head = fit(training_set(known.train, known.train_classes), TrainOptions("multi_class")).head
    scores = [np.asarray(head.unfamiliar(part)) for part in (known.test, strange)]
    truth = np.repeat([False, True], [len(known.test), len(strange)])
    result = {
        "unfamiliar_auroc": roc_auc(truth, np.concatenate(scores)),
        "target": TARGET,
        "test_marked": float((scores[0] >= 0.5).mean()),
        "outsiders_marked": float((scores[1] >= 0.5).mean()),
        "network": NETWORK,
    }
    if options.json:
        print(json.dumps(result))
    else:
        Console().print(
            f"AUROC [bold]{result['unfamiliar_auroc']:.3f}[/] (target {TARGET}); marked as unfamiliar: "
            f"{result['test_marked']:.1%} of {len(known.test)} test pictures of trashnet, "
            f"{result['outsiders_marked']:.1%} of {OUTSIDERS} others"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
