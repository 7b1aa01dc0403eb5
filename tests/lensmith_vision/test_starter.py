"""The base network that ships with the code: within its budget, and worth more than no learning."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from lensmith_vision import resize
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.general import TAXONOMY
from lensmith_vision.pack import BUILTIN_PACKS, builtin_pack, load_card, space_of
from lensmith_vision.training import TrainingSet, TrainOptions, fit

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = ROOT / "scripts" / "train_starter" / "held_out.csv"
CLASSES = 6
TAUGHT, ASKED = 10, 12


def test_it_keeps_its_budget() -> None:
    card = load_card(builtin_pack("starter"))
    model = onnx.load(builtin_pack("starter") / "model.onnx")
    numbers = sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)
    assert numbers <= 3_000_000
    assert 128 <= card.resize.height == card.resize.width <= 160
    assert max(opset.version for opset in model.opset_import) <= 17


def test_it_gives_a_map_for_heat_maps_and_the_classes_of_general() -> None:
    card = load_card(builtin_pack("starter"))
    engine = OnnxRuntimeEngine()
    engine.load(space_of(card).id, builtin_pack("starter"))
    side = card.resize.height
    pictures = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    outputs = engine.run(space_of(card).id, pictures, feature_map=True, logits=True)
    assert outputs.feature_map is not None
    assert outputs.logits is not None
    assert np.allclose(outputs.feature_map.mean((2, 3)), outputs.features, atol=1e-4)
    assert card.logits is not None
    assert (card.logits.taxonomy, outputs.logits.shape) == (TAXONOMY, (2, 1001))


def test_it_is_the_best_that_ships() -> None:
    cards = [load_card(folder) for folder in sorted(BUILTIN_PACKS.iterdir()) if folder.is_dir()]
    assert max(cards, key=lambda card: card.rank).id == "starter"


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[tuple[str, Path]]:
    """Pictures with their labels, of classes that took no part in making the network, the same number of each."""
    with HELD_OUT.open(newline="", encoding="utf-8") as file:
        held_out = {row["file"] for row in csv.DictReader(file) if row["purpose"] == "caltech101"}
    by_label: dict[str, list[Path]] = {}
    with (shared / "distill" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["file"] in held_out:
                by_label.setdefault(row["label"], []).append(shared / "distill" / row["file"])
    chosen = sorted(by_label)[:CLASSES]
    return [(label, path) for label in chosen for path in by_label[label][: TAUGHT + ASKED]]


def test_it_sees_more_than_no_learning_on_classes_it_never_saw(photographs: list[tuple[str, Path]]) -> None:
    right = {name: _right(builtin_pack(name), photographs) for name in ("plain", "starter")}
    assert right["starter"] > right["plain"]
    assert right["starter"] >= 0.8 * CLASSES * ASKED


def _right(folder: Path, photographs: list[tuple[str, Path]]) -> int:
    """How many of the asked pictures a head on the pack's features gets right."""
    card, engine = load_card(folder), OnnxRuntimeEngine()
    engine.load(space_of(card).id, folder)
    pictures = np.stack([resize.apply(decode(path.read_bytes()), card.resize) for _, path in photographs])
    features = engine.run(space_of(card).id, pictures).features
    concepts = sorted({label for label, _ in photographs})
    labels = np.eye(CLASSES, dtype=np.float32)[[concepts.index(label) for label, _ in photographs]]
    taught: npt.NDArray[np.bool_] = np.arange(len(photographs)) % (TAUGHT + ASKED) < TAUGHT
    ids = tuple(str(path) for _, path in photographs)
    data = TrainingSet(space_of(card).id, tuple(concepts), ids, features, ids, labels=labels)
    scores = fit(data.rows(taught), TrainOptions("multi_class")).head.scores(features[~taught])
    return int((scores.argmax(1) == labels[~taught].argmax(1)).sum())
