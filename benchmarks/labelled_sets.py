"""Labelled sets of real pictures, split once and for all, with features of `mobilenetv2-features`."""

import csv
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import golden_images, load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.training import TrainingSet
from lensmith_vision.views import VIEWS, build_pack_of_views

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "mobilenetv2-features"
SHOTS: tuple[int | None, ...] = (5, 10, 25, 50, None)
POOL_SETS = ("animals", "caltech101", "clothing")
FEWEST = 20
CENTRE_CROP = ResizePolicy("short_side_crop", 224, 224, 256)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def shared_folder() -> Path:
    """Where the pictures and networks are; says what is missing, and ends, where they are not."""
    shared = Path(os.environ.get("LENSMITH_SHARED", ROOT.parent / "shared"))
    if not (shared / "distill" / "manifest.csv").is_file():
        sys.exit(f"needs the pictures and networks in {shared} (LENSMITH_SHARED)")
    return shared


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Features, as the platform has them, of the centre crop and of several views, and classes; split once for all."""

    name: str
    train: Floats
    train_classes: Ints
    test: Floats
    test_classes: Ints
    train_crop: Floats
    test_crop: Floats
    train_views: Floats | None = None
    test_views: Floats | None = None


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
    """Features of pictures, kept in a folder so that a second run needs no network.

    Args:
        shared: The folder of shared pictures and networks.
        cache: Where packs and features are kept.
        views: Of each picture, 1 or 8.
    """

    def __init__(self, shared: Path, cache: Path, views: int = 1) -> None:
        pack = cache / NETWORK
        if not (pack / "card.json").is_file():
            build_pack(read_source(shared / "models" / NETWORK), pack)
        if views > 1:
            pack = cache / f"{NETWORK}-{VIEWS}-views"
            if not (pack / "card.json").is_file():
                build_pack_of_views(cache / NETWORK, pack)
        self._card = load_card(pack)
        self._space = space_of(self._card).id
        self._engine = OnnxRuntimeEngine(threads=1)
        self._engine.load(self._space, pack)
        self._cache = cache

    def __call__(self, name: str, files: Sequence[Path], policy: ResizePolicy | None = None) -> Floats:
        """Features [n, d] of files, as the platform resizes them unless told otherwise."""
        policy = policy or self._card.resize
        views = f"-{self._card.views}-views" if self._card.views > 1 else ""
        path = self._cache / f"{name}-{policy.key}{views}.npy"
        if path.is_file():
            return np.asarray(np.load(path), np.float32)
        sys.stderr.write(f"{name}: {len(files)} pictures, {policy.key}{views}\n")
        with ThreadPoolExecutor(2) as executor:
            parts = list(executor.map(lambda at: self._batch(files[at : at + 16], policy), range(0, len(files), 16)))
        features = np.concatenate(parts)
        np.save(path, features)
        return features

    def images_per_second(self, count: int = 64) -> float:
        """How many pictures one thread of the processor embeds in a second of its time; decoding is left out."""
        pictures = golden_images(range(count), self._card.resize.height, self._card.resize.width)
        self._engine.run(self._space, pictures[:8])
        begun = time.thread_time()
        self._engine.run(self._space, pictures)
        return count / (time.thread_time() - begun)

    def _batch(self, files: Sequence[Path], policy: ResizePolicy) -> Floats:
        pictures = [
            resize.apply(decode(file.read_bytes(), min_side_hint=policy.min_side_hint), policy) for file in files
        ]
        return self._engine.run(self._space, np.stack(pictures)).features


def load_set(shared: Path, name: str, embed: Embedder, embed_views: Embedder | None = None) -> LabelledSet:
    """A set with its features."""
    found = list(trashnet_files(shared) if name == "trashnet" else pool_files(shared, name))
    files = [path for path, _, _ in found]
    features, crops = embed(name, files), embed(name, files, CENTRE_CROP)
    views = None if embed_views is None else embed_views(name, files)
    labels = sorted({label for _, label, _ in found})
    classes = np.array([labels.index(label) for _, label, _ in found])
    train = np.array([part for _, _, part in found])
    return LabelledSet(
        name,
        features[train],
        classes[train],
        features[~train],
        classes[~train],
        crops[train],
        crops[~train],
        None if views is None else views[train],
        None if views is None else views[~train],
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


def training_set(features: Floats, classes: Ints) -> TrainingSet:
    """What the trainer would be given."""
    width = int(classes.max()) + 1
    rows = tuple(str(row) for row in range(len(features)))
    labels = np.eye(width, dtype=np.float32)[classes]
    return TrainingSet("bench", tuple(str(one) for one in range(width)), rows, features, rows, labels=labels)


def applicable(one: LabelledSet, shots: int | None) -> bool:
    """Whether half of the concepts have so many pictures."""
    return shots is None or shots <= float(np.median(np.bincount(one.train_classes)))
