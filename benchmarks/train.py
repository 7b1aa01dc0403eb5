"""How long training a head takes: Lensmith against scikit-learn's logistic regression, the same data, the same run.

    python benchmarks/train.py [--rows 50000] [--concepts 500] [--dim 1280] [--only library|api] [--json]

Features are drawn, their concepts overlapping, one fifth kept for a test of accuracy: once with the mean and the
covariances that real photographs have (`drawn_features.py`), and once with noise alike in all directions, which no
network gives, and with which a gradient descends as fast as it can. `speedup_over_sklearn_lr` is of the first,
`speedup_on_white_noise` of the second: the peer's seconds, fit alone, over ours for everything a version needs: near
copies, folds, fit, out-of-fold evaluation with intervals, calibration, thresholds, how far pictures lie apart. The peer
runs until it says it is done, with as many threads as make its first iterations fastest; ours is the median of three.
Both are timed in processor seconds too, which a busy machine changes less. Ten new pictures are an update of the sums
and a solve.

Through the API, from TrainModel to READY, on a running platform: a first training (the trainer has nothing yet), two
more, and some after ten new annotations each, of the linear tier; and one that tries the kernel tier as well.
`train_api.py` says what is real in it. It takes the network `mobilenetv2-features` from $LENSMITH_SHARED (default
../shared), whose vectors have 1280 numbers, and is left out, with a word, where there is none. Needs the extra
`benchmarks`.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import lensmith
from lensmith_vision.discriminant import solve, within_variance
from lensmith_vision.linear_fit import statistics_of
from lensmith_vision.pack import load_card
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.training import TrainingSet, TrainOptions, fit

sys.path.insert(0, str(Path(__file__).parent))
from drawn_features import KINDS, Kind, drawn
from running_platform import running_platform
from train_api import NEW_PICTURES, ApiResult, measure_api

SMALL = (2000, 6)
PACK = "mobilenetv2-features"
FEW_ITERATIONS, MOST_ITERATIONS = 3, 1000
FITS = 3
NEW = 10
TARGET = 20.0

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timing:
    """Seconds of the clock and of the processor."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Timing:
    """Time it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def memory_from_now() -> int:
    """Bytes in memory; the most is measured anew from here on, or what drawing took would hide what fitting takes."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return most_memory()


def most_memory() -> int:
    """Most bytes that this process has had in memory."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def say(what: str) -> None:
    """Show how far it is."""
    print(what, file=sys.stderr, flush=True)


def training_set(features: Floats, classes: Ints) -> TrainingSet:
    """What the trainer would be given."""
    width = int(classes.max()) + 1
    rows = tuple(str(row) for row in range(len(features)))
    labels = np.zeros((len(rows), width), np.float32)
    labels[np.arange(len(rows)), classes] = 1
    return TrainingSet("bench", tuple(str(one) for one in range(width)), rows, features, rows, labels=labels)


def peer(train: Floats, classes: Ints, test: Floats, truth: Ints) -> dict[str, float]:
    """scikit-learn's logistic regression at its best."""

    def fitted(threads: int, iterations: int) -> tuple[Timing, LogisticRegression]:
        model = LogisticRegression(max_iter=iterations)
        with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return timed(lambda: model.fit(train, classes)), model

    # One thread is the faster choice for small data, more for large.
    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    threads = min(counts, key=lambda count: fitted(count, FEW_ITERATIONS)[0].wall)
    timing, model = fitted(threads, MOST_ITERATIONS)
    return {
        "wall": timing.wall,
        "cpu": timing.cpu,
        "threads": threads,
        "iterations": int(model.n_iter_[0]),
        "accuracy": float((model.predict(test) == truth).mean()),
    }


def update(features: Floats, classes: Ints) -> Timing:
    """Ten new pictures: update the sums that are kept and solve."""
    width = int(classes.max()) + 1
    folds = np.arange(len(features)) % 5
    with threadpool_limits(1, user_api="blas"):
        kept = statistics_of(features[:-NEW], classes[:-NEW], width, folds[:-NEW], "none")
        new = np.eye(width, dtype=np.float32)[classes[-NEW:]]

        def work() -> None:
            kept.add(features[-NEW:], new, folds[-NEW:])
            total = kept.total()
            solve(total, within_variance(total))

        return timed(work)


def measure(rows: int, concepts: int, dim: int, kind: Kind) -> dict[str, object]:
    """One size and kind of features."""
    say(f"{rows:,} x {dim} x {concepts}, {kind}: Lensmith")
    features, classes = drawn(rows + rows // 5, concepts, dim, kind)
    train, test = features[:rows], features[rows:]
    truth, classes = classes[rows:], classes[:rows]
    timings, fits, peak = [], [], 0
    for _ in range(FITS):
        # Anew, since a set remembers what was asked of it.
        data = training_set(train, classes)
        fits.clear()
        before = memory_from_now()
        timings.append(timed(lambda data=data: fits.append(fit(data, TrainOptions("multi_class")))))
        peak = max(peak, most_memory() - before)
    head, own = fits[0].head, sorted(timings, key=lambda timing: timing.wall)[FITS // 2]
    sizes = train.nbytes + (data.labels.nbytes if data.labels is not None else 0)
    del data
    fits.clear()
    say(f"{rows:,} x {dim} x {concepts}, {kind}: scikit-learn, until it says that it is done")
    other = peer(train, classes, test, truth)
    return {
        "rows": rows,
        "concepts": concepts,
        "dim": dim,
        "features": kind,
        "lensmith": {"wall": own.wall, "cpu": own.cpu, "tier": head.tier},
        "accuracy": float((head.scores(test).argmax(axis=1) == truth).mean()),
        "peak_over_matrix": (sizes + max(peak, 0)) / train.nbytes,
        "sklearn_lr": other,
        "update_and_solve": vars(update(train, classes)),
        "speedup": other["wall"] / own.wall,
        "speedup_cpu": other["cpu"] / own.cpu,
    }


def through_api(sizes: list[tuple[int, int]]) -> list[ApiResult]:
    """Start a platform and train on it; empty where there is no network for it."""
    source = Path(os.environ.get("LENSMITH_SHARED", "../shared")) / "models" / PACK
    if not source.is_dir():
        print(f"the part through the API is left out: there is no {source}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch, running_platform() as running:
        pack = Path(scratch) / PACK
        build_pack(read_source(source), pack)
        with lensmith.Client(running.url, running.key, timeout=300) as operator:
            base_model = operator.base_models.import_pack(pack).id
        dim = load_card(pack).feature_dim
        return [
            asyncio.run(measure_api(running, base_model, *drawn(rows + NEW_PICTURES, concepts, dim, "as real")))
            for rows, concepts in sizes
        ]


def show_api(results: list[dict[str, object]]) -> None:
    """Print for people."""
    table = Table(title="From TrainModel to READY: seconds (processor seconds of all processes)")
    for column in ("data", "", "seconds", "TrainModel", "fetch", "fit", "hand in"):
        table.add_column(column, justify="left" if column in ("data", "") else "right")
    for result in results:
        data = f"{result['rows']:,} x {result['concepts']}"
        kinds = [
            ("first", [result["first"]]),
            ("again", result["again"]),
            ("ten new", result["ten_new"]),
            ("tier auto", [result["auto"]]),
        ]
        for kind, trainings in kinds:
            one = min(trainings, key=lambda training: training["seconds"])
            parts = [f"{one['parts'].get(name, 0.0):.3f}" for name in ("fetch", "fit", "hand_in")]
            seconds = f"{one['seconds']:.2f} ({sum(one['cpu'].values()):.2f})"
            table.add_row(data, kind, seconds, f"{one['queued']:.3f}", *parts)
        alone, beside = result["trainer_peak_over_matrix"], result["two_models_peak_over_matrix"]
        data = f"trainer at its peak: {alone:.2f} x the matrix of float32, with a second model {beside:.2f} x"
        table.add_section()
        table.add_row(data)
    Console(width=max(140, Console().width)).print(table)


def keys_of(results: list[dict[str, object]]) -> dict[str, float]:
    """The figures that have a target: the best of each kind."""
    found = {}
    for result in results:
        size = f"{result['rows']}x{result['concepts']}"
        for kind, trainings in (("ready", [result["first"]]), ("ten_new", result["ten_new"])):
            found[f"{kind}_seconds_{size}"] = min(training["seconds"] for training in trainings)
    return found


def show(result: dict[str, object]) -> None:
    """Print for people."""
    table = Table(title="Training a head: seconds (processor seconds)")
    for column in (
        "data",
        "features",
        "Lensmith, all of it",
        "scikit-learn LR, fit",
        "ratio",
        "accuracy",
        "ten new",
        "memory",
    ):
        table.add_column(column, justify="left" if column in ("data", "features") else "right")
    for row in result["sizes"]:
        own, other, new = row["lensmith"], row["sklearn_lr"], row["update_and_solve"]
        table.add_row(
            f"{row['rows']:,} x {row['dim']} x {row['concepts']}",
            row["features"],
            f"{own['wall']:.2f} ({own['cpu']:.2f})",
            f"{other['wall']:.1f} ({other['cpu']:.1f}), {other['iterations']} iterations",
            f"{row['speedup']:.1f} ({row['speedup_cpu']:.1f})",
            f"{100 * row['accuracy']:.1f} / {100 * other['accuracy']:.1f} %",
            f"{new['wall']:.3f} ({new['cpu']:.3f})",
            f"{row['peak_over_matrix']:.2f} x",
        )
    Console(width=max(140, Console().width)).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--concepts", type=int, default=500)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--only", choices=("library", "api"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, object] = {"target": TARGET}
    if options.only != "api":
        # The small one comes first: what a process does once, the first time, is no part of a training.
        small = measure(*SMALL, options.dim, "as real")
        large, white = (measure(options.rows, options.concepts, options.dim, kind) for kind in KINDS)
        result["sizes"] = [large, white, small]
        result["speedup_over_sklearn_lr"] = large["speedup"]
        result["speedup_on_white_noise"] = white["speedup"]
    if options.only != "library":
        api = [asdict(one) for one in through_api([SMALL, (options.rows, options.concepts)])]
        result |= {"api": api, **keys_of(api)}
    if options.json:
        print(json.dumps(result))
    else:
        if "sizes" in result:
            show(result)
        if result.get("api"):
            show_api(result["api"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
