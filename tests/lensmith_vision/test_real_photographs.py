"""From files to a judged head, on real photographs with the networks at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lensmith_vision import metrics
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.pack import builtin_pack, load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.resize import apply
from lensmith_vision.training import Fitted, TrainingSet, TrainOptions, fit

CLASSES = ("glass", "paper", "cardboard", "plastic", "metal", "trash")
Floats = npt.NDArray[np.float32]
Split = tuple[list[Path], list[int]]


@pytest.fixture(scope="module")
def trashnet(shared: Path) -> Path:
    return shared / "datasets" / "trashnet"


@pytest.fixture(scope="module")
def features_pack(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("packs") / "mobilenetv2-features"
    build_pack(read_source(shared / "models" / "mobilenetv2-features"), destination)
    return destination


def split(root: Path, name: str, each: int) -> Split:
    """The first ``each`` pictures of every class of an official split."""
    files: list[Path] = []
    truth: list[int] = []
    for line in (root / "_meta" / f"one-indexed-files-notrash_{name}.txt").read_text().splitlines():
        file, _, number = line.partition(" ")
        index = int(number) - 1
        if truth.count(index) < each:
            files.append(root / CLASSES[index] / file)
            truth.append(index)
    return files, truth


def embed(pack: Path, files: list[Path]) -> Floats:
    card = load_card(pack)
    space = space_of(card).id
    engine = OnnxRuntimeEngine(threads=2)
    engine.load(space, pack)
    pictures = [
        apply(decode(file.read_bytes(), min_side_hint=card.resize.min_side_hint), card.resize) for file in files
    ]
    return engine.run(space, np.stack(pictures)).features


def train(pack: Path, root: Path) -> tuple[Fitted, float]:
    files, truth = split(root, "train", 30)
    names = tuple(file.name for file in files)
    labels = np.eye(len(CLASSES), dtype=np.float32)[truth]
    data = TrainingSet(space_of(load_card(pack)).id, CLASSES, names, embed(pack, files), names, labels)
    result = fit(data, TrainOptions("multi_class"))
    test_files, test_truth = split(root, "test", 12)
    scores = result.head.scores(embed(pack, test_files))
    return result, metrics.accuracy(np.asarray(test_truth), scores)


def test_fit_tells_materials_apart_when_features_are_learnt(features_pack: Path, trashnet: Path) -> None:
    result, held_out = train(features_pack, trashnet)
    assert held_out > 0.65
    assert result.evaluation.accuracy is not None
    assert abs(result.evaluation.accuracy - held_out) < 0.15


def test_fit_is_far_above_chance_when_features_are_plain(trashnet: Path) -> None:
    _, held_out = train(builtin_pack(), trashnet)
    assert held_out > 0.4


def test_features_agree_when_jpeg_is_decoded_at_reduced_size(features_pack: Path, near_duplicates: Path) -> None:
    card = load_card(features_pack)
    engine = OnnxRuntimeEngine()
    space = space_of(card).id
    engine.load(space, features_pack)
    files = sorted((near_duplicates / "base_images").glob("*.jpg"))
    whole = np.stack([apply(decode(file.read_bytes()), card.resize) for file in files])
    quick = np.stack([apply(decode(file.read_bytes(), min_side_hint=224), card.resize) for file in files])
    left, right = engine.run(space, whole).features, engine.run(space, quick).features
    cosine = (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    assert cosine.min() > 0.97
