"""What base networks see: held-out accuracy of the same linear head on each, and how fast each is.

    python benchmarks/base_models.py [--draws 10] [--json]

Sets: trashnet (its official split), and two labelled sets of the pool of which no picture took part in distillation:
animals (8 classes) and Caltech-101 (whole categories, each by the hash of the file's name halved into training and
test). Five, ten, 25 and all pictures a class, the same draws for every network. The head is the one that users get.

Networks: the starter's architecture with random weights, colour histogram with HOG (Dalal & Triggs 2005, as
scikit-image has it), `plain`, `starter`, and the MobileNetV2 packs. Speed is measured in the same run, one thread, in
passes of four pictures as the engine makes them.

The answer is `starter_vs_mobilenetv2`: the mean over sets and shots of the starter's accuracy over that of
`mobilenetv2-features`. Needs `../shared` (`LENSMITH_SHARED`) and the extra `benchmarks`.
"""

import argparse
import csv
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from labelled_sets import shared_folder
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table
from skimage.feature import hog

from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import builtin_pack, load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.training import TrainingSet, TrainOptions, fit

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT = ROOT / "scripts" / "train_starter" / "held_out.csv"
SHOTS: tuple[int | None, ...] = (5, 10, 25, None)
PEER = "mobilenetv2-features"
TARGET = 0.92
_SPEED_SECONDS = 3.0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelledSet:
    """Pictures with one label each, split once and for all."""

    name: str
    train: tuple[tuple[Path, str], ...]
    test: tuple[tuple[Path, str], ...]

    @property
    def concepts(self) -> tuple[str, ...]:
        """Its labels, sorted."""
        return tuple(sorted({label for _, label in self.train}))


@dataclass(frozen=True)
class Network:
    """Something that turns pictures, resized as `policy` says, into features [n, d]."""

    name: str
    policy: ResizePolicy
    embed: Callable[[npt.NDArray[np.uint8]], Floats]


def trashnet(shared: Path) -> LabelledSet:
    """The official split."""
    root = shared / "datasets" / "trashnet"

    def listed(part: str) -> tuple[tuple[Path, str], ...]:
        lines = next((root / "_meta").glob(f"*_{part}.txt")).read_text(encoding="utf-8").split("\n")
        names = [line.split()[0] for line in lines if line.strip()]
        return tuple((next(root.rglob(name)), name.rstrip("0123456789.jpg")) for name in names)

    return LabelledSet("trashnet", listed("train"), listed("test"))


def held_out(shared: Path, purpose: str) -> LabelledSet:
    """A labelled set of the pool whose classes took no part in distillation."""
    with HELD_OUT.open(newline="", encoding="utf-8") as file:
        kept = {row["file"] for row in csv.DictReader(file) if row["purpose"] == purpose}
    parts: tuple[list[tuple[Path, str]], list[tuple[Path, str]]] = ([], [])
    with (shared / "distill" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["file"] in kept:
                side = hashlib.sha256(row["file"].encode()).digest()[-1] % 2
                parts[side].append((shared / "distill" / row["file"], row["label"]))
    return LabelledSet(purpose, tuple(parts[0]), tuple(parts[1]))


def pack_network(folder: Path, name: str | None = None) -> Network:
    """A model pack on the engine that serves it, one thread."""
    engine = OnnxRuntimeEngine(threads=1)
    card = load_card(folder)
    space = space_of(card).id
    engine.load(space, folder)
    return Network(name or card.id, card.resize, lambda batch: engine.run(space, batch).features)


def random_network(scratch: Path, like: Path) -> Network:
    """The starter's graph with random weights (He et al. 2015) and no biases."""
    import onnxruntime as ort

    random = np.random.default_rng(0)
    model = onnx.load(like / "model.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name.startswith("lensmith.") or values.dtype.kind != "f":
            continue
        fan_in = int(np.prod(values.shape[1:])) if values.ndim > 1 else 0
        drawn = random.normal(0, np.sqrt(2 / fan_in), values.shape) if fan_in else np.zeros(values.shape)
        tensor.CopyFrom(numpy_helper.from_array(drawn.astype(values.dtype), tensor.name))
    path = scratch / "random.onnx"
    onnx.save(model, path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options)

    def embed(batch: npt.NDArray[np.uint8]) -> Floats:
        parts = [session.run(["features"], {"image": batch[at : at + 4]})[0] for at in range(0, len(batch), 4)]
        return np.concatenate(parts)

    return Network("random network", load_card(like).resize, embed)


def histogram_and_hog() -> Network:
    """512 colours and oriented gradients of 128 x 128 pixels, square roots of both."""

    def one(picture: npt.NDArray[np.uint8]) -> Floats:
        bins = (picture >> 5).astype(np.int64)
        colours = np.bincount((bins[..., 0] * 64 + bins[..., 1] * 8 + bins[..., 2]).ravel(), minlength=512)
        gradients = hog(picture, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2), channel_axis=-1)
        parts = np.sqrt(colours / colours.sum()), np.sqrt(np.maximum(gradients, 0) / max(1e-9, gradients.sum()))
        return np.concatenate(parts).astype(np.float32)

    return Network("histogram + HOG", ResizePolicy("squash", 128, 128), lambda batch: np.stack([one(p) for p in batch]))


def embedded(network: Network, files: Sequence[Path]) -> Floats:
    """Features of pictures [n, d], decoded and resized as the platform does."""

    def one(path: Path) -> npt.NDArray[np.uint8]:
        return resize.apply(decode(path.read_bytes(), min_side_hint=network.policy.min_side_hint), network.policy)

    with ThreadPoolExecutor(2) as executor:
        pictures = np.stack(list(executor.map(one, files)))
        starts = range(0, len(pictures), 32)
        return np.concatenate(list(executor.map(lambda at: network.embed(pictures[at : at + 32]), starts)))


def speed(network: Network) -> float:
    """Pictures a second on one core, in passes of four: the best of three stretches."""
    batch = np.random.default_rng(0).integers(0, 256, (4, network.policy.height, network.policy.width, 3), np.uint8)
    network.embed(batch)
    best = 0.0
    for _ in range(3):
        begun, count = time.process_time(), 0
        while time.process_time() - begun < _SPEED_SECONDS / 3:
            network.embed(batch)
            count += len(batch)
        best = max(best, count / (time.process_time() - begun))
    return best


def draws(labels: npt.NDArray[np.str_], shots: int | None, count: int) -> Iterator[npt.NDArray[np.intp]]:
    """Rows to train on: so many of each class, other ones in each draw."""
    if shots is None:
        yield np.arange(len(labels))
        return
    for seed in range(count):
        random = np.random.default_rng(seed)
        classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        yield np.sort(np.concatenate([random.permutation(rows)[:shots] for rows in classes]))


def accuracy(space: str, concepts: tuple[str, ...], train: tuple[Floats, Floats], test: tuple[Floats, Floats]) -> float:
    """Share of test pictures whose most probable concept is the right one."""
    rows = tuple(str(row) for row in range(len(train[0])))
    data = TrainingSet(space, concepts, rows, train[0], rows, labels=train[1])
    scores = fit(data, TrainOptions("multi_class")).head.scores(test[0])
    return float((scores.argmax(1) == test[1].argmax(1)).mean())


def measure(
    networks: Sequence[Network], sets: Sequence[LabelledSet], count: int, told: Callable[[str], None]
) -> list[dict[str, object]]:
    """One row for each network."""
    rows: list[dict[str, object]] = []
    for network in networks:
        cells: dict[str, dict[str, float]] = {}
        for one in sets:
            told(f"{network.name}: {one.name}")
            one_hot = {
                label: row for label, row in zip(one.concepts, np.eye(len(one.concepts), dtype=np.float32), strict=True)
            }
            parts = []
            for part in (one.train, one.test):
                features = embedded(network, [path for path, _ in part])
                parts.append((features, np.stack([one_hot[label] for _, label in part])))
            (features, targets), test = parts
            labels = np.array([label for _, label in one.train])
            fewest = min(np.unique(labels, return_counts=True)[1])
            for shots in SHOTS:
                if shots is not None and shots > fewest:
                    continue
                values = [
                    accuracy(network.name, one.concepts, (features[chosen], targets[chosen]), test)
                    for chosen in draws(labels, shots, count)
                ]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells[f"{one.name}/{shots or 'all'}"] = {"accuracy": statistics.mean(values), "spread": spread}
        rows.append({"network": network.name, "cells": cells, "images_per_second_per_core": speed(network)})
    return rows


def report(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """The rows with the ratio that counts."""
    by_name = {str(row["network"]): row for row in rows}
    result: dict[str, object] = {"rows": list(rows)}
    if {"starter", PEER} <= by_name.keys():
        own, peer = by_name["starter"], by_name[PEER]
        ratios = {key: own["cells"][key]["accuracy"] / peer["cells"][key]["accuracy"] for key in peer["cells"]}
        result["ratios"] = ratios
        result["starter_vs_mobilenetv2"] = statistics.mean(ratios.values())
        result["least_ratio"] = min(ratios.values())
        result["speed_vs_mobilenetv2"] = own["images_per_second_per_core"] / peer["images_per_second_per_core"]
        result["target"] = TARGET
    return result


def show(result: dict[str, object]) -> None:
    """Print for people."""
    console = Console(width=max(120, Console().width))
    rows = result["rows"]
    keys = list(rows[0]["cells"])
    table = Table(title="Held-out accuracy of a linear head, % (mean over draws), by pictures a class")
    table.add_column("network")
    for key in keys:
        table.add_column(key.replace("/", "\n"), justify="right")
    table.add_column("images/s\none core", justify="right")
    for row in rows:
        cells = [f"{100 * row['cells'][key]['accuracy']:.1f}" for key in keys]
        table.add_row(row["network"], *cells, f"{row['images_per_second_per_core']:.0f}")
    if "ratios" in result:
        table.add_section()
        table.add_row(
            "starter / " + PEER,
            *(f"{result['ratios'][key]:.3f}" for key in keys),
            f"{result['speed_vs_mobilenetv2']:.2f} x",
        )
    console.print(table)
    if "ratios" in result:
        console.print(
            f"mean ratio [bold]{result['starter_vs_mobilenetv2']:.3f}[/] (target {TARGET}), "
            f"least {result['least_ratio']:.3f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--starter", type=Path, help="another starter pack than the one that ships")
    parser.add_argument("--only", nargs="*", help="names of networks to measure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = shared_folder()
    starter = options.starter or builtin_pack("starter")
    with tempfile.TemporaryDirectory(prefix="lensmith-bench-") as scratch:
        packs = []
        for name in ("mobilenetv2-imagenet", PEER):
            build_pack(read_source(shared / "models" / name), Path(scratch) / name)
            packs.append(pack_network(Path(scratch) / name))
        networks = [
            random_network(Path(scratch), starter),
            histogram_and_hog(),
            pack_network(builtin_pack("plain")),
            pack_network(starter, "starter"),
            *packs,
        ]
        if options.only:
            networks = [network for network in networks if network.name in options.only]
        sets = [trashnet(shared), held_out(shared, "animals"), held_out(shared, "caltech101")]
        told: Callable[[str], None] = lambda text: sys.stderr.write(f"{text}\n")  # noqa: E731
        result = report(measure(networks, sets, options.draws, told))
    if options.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
