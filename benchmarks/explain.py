"""Whether heat maps point at what they speak of: how often the peak lies on the object, against chance.

    python benchmarks/explain.py [--networks starter mobilenetv2-imagenet] [--mosaics 60] [--json]

Three exams with known places, by networks and kinds of heads, all trained and asked as the platform does it:

- **boxes**: photographs of fruit with boxes drawn by people. Heads learn from the 240 pictures for training; the map
  of every fruit that the 60 others hold is looked at. Chance is the part of the picture that lies in its boxes.
- **mosaics**: four test pictures of trashnet of four classes in a 2 x 2 square, which the head has never seen so; the
  peak of each class must lie in its quarter. Chance is a quarter.
- **general**: General's banana and orange on the same fruit, by networks that have its classes.

`peak_in_place` is the mean over all exams of boxes and mosaics, `chance` what guessing gives. Needs `../shared`
(`LENSMITH_SHARED`).
"""

import argparse
import csv
import json
import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from lensmith_vision import explain, resize
from lensmith_vision.card import MODEL_FILE
from lensmith_vision.classes import Tier
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.explain import Classifier
from lensmith_vision.general import hierarchy
from lensmith_vision.graph_parts import read_classifier
from lensmith_vision.heads import Head, HeadType
from lensmith_vision.heat import seen_part
from lensmith_vision.pack import BUILTIN_PACKS, load_card, space_of
from lensmith_vision.pack_builder import build_pack, read_source
from lensmith_vision.training import TrainingSet, TrainOptions, fit

ROOT = Path(__file__).resolve().parent.parent
FRUIT = ("apple", "banana", "orange")
OF_GENERAL = {"banana": "banana", "orange": "orange"}
NETWORKS = ("starter", "mobilenetv2-features", "mobilenetv2-imagenet")
TRAINED_A_CLASS = 60
MOSAIC_SIDE = 320
LEAST_RATIO = 1.5

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of the picture."""


@dataclass(frozen=True)
class Exam:
    """How often peaks lay in place."""

    network: str
    name: str
    head: str
    maps: int
    hits: int
    chance: float

    @property
    def rate(self) -> float:
        """Part of the maps whose peak lay in place."""
        return self.hits / self.maps


class Network:
    """A base network, and what it makes of pictures."""

    def __init__(self, folder: Path) -> None:
        self.card = load_card(folder)
        self.space = space_of(self.card).id
        self._engine = OnnxRuntimeEngine(threads=1)
        self._engine.load(self.space, folder)
        taxonomy = self.card.logits is not None and bool(self.card.logits.taxonomy)
        self.classifier = read_classifier(folder / MODEL_FILE, self.card) if taxonomy else None

    def look(self, picture: Pixels) -> tuple[Floats, Floats]:
        """Features [d] and feature map [d, h, w] of a picture."""
        pixels = resize.apply(picture, self.card.resize)
        outputs = self._engine.run(self.space, pixels[np.newaxis], feature_map=True)
        if outputs.feature_map is None:
            raise SystemExit(f"{self.card.id} gives no feature map")
        return outputs.features[0], outputs.feature_map[0]

    def read(self, path: Path) -> Pixels:
        """A file as the platform decodes it."""
        return decode(path.read_bytes(), min_side_hint=self.card.resize.min_side_hint)

    def general_maps(self, feature_map: Floats, concepts: Sequence[str]) -> Floats | None:
        """Maps of General's concepts; None where the network does not know its classes."""
        if self.classifier is None or self.card.logits is None:
            return None
        kept = np.setdiff1d(np.arange(self.card.logits.dim), self.card.logits.ignored)
        classifier = Classifier(self.classifier.weights[:, kept], self.classifier.bias[kept])
        places = [hierarchy().place[concept] for concept in concepts]
        return explain.odds_maps(classifier, feature_map, [hierarchy().leaves_below[place] for place in places], 1.0)


def peak_is_in(values: Floats, picture: Pixels, network: Network, boxes: Sequence[Box]) -> bool:
    """Whether the middle of the greatest cell lies in one of the boxes."""
    left, top, right, bottom = seen_part(picture.shape[0], picture.shape[1], network.card.resize)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    x = left + (column + 0.5) / values.shape[1] * (right - left)
    y = top + (row + 0.5) / values.shape[0] * (bottom - top)
    return any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in boxes)


def part_in(boxes: Sequence[Box], cells: int = 100) -> float:
    """The part of a picture that lies in any of the boxes."""
    middle = (np.arange(cells) + 0.5) / cells
    inside = np.zeros((cells, cells), bool)
    for left, top, right, bottom in boxes:
        inside |= np.outer((middle >= top) & (middle <= bottom), (middle >= left) & (middle <= right))
    return float(inside.mean())


@dataclass(frozen=True, eq=False)
class Fruit:
    """A photograph of fruit."""

    path: Path
    boxes: dict[str, list[Box]]
    test: bool


def fruit_pictures(shared: Path) -> list[Fruit]:
    """All photographs with their boxes."""
    root = shared / "datasets" / "fruit-multilabel"
    found = []
    with (root / "labels.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path = root / row["image"]
            document = ElementTree.parse((root / "xml_original" / row["image"]).with_suffix(".xml")).getroot()
            found.append(Fruit(path, _boxes(document), row["image"].startswith("test/")))
    return found


def _boxes(document: ElementTree.Element) -> dict[str, list[Box]]:
    width, height = (float(document.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    boxes: dict[str, list[Box]] = {}
    for item in document.iter("object"):
        edges = [float(item.findtext(f"bndbox/{edge}", "0")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        if width and height:
            box = (edges[0] / width, edges[1] / height, edges[2] / width, edges[3] / height)
            boxes.setdefault(item.findtext("name", ""), []).append(box)
    return boxes


def train(network: Network, features: Floats, labels: Floats, kind: HeadType, tier: Tier, names: Sequence[str]) -> Head:
    """Train as the platform does."""
    ids = tuple(str(row) for row in range(len(features)))
    data = TrainingSet(network.space, tuple(names), ids, features, ids, labels)
    return fit(data, TrainOptions(kind, tier=tier)).head


def boxes_exam(network: Network, name: str, fruits: Sequence[Fruit]) -> Iterator[Exam]:
    """Fruit in boxes: multi-label, and categories by both tiers; then General."""
    trained = [(fruit, network.look(network.read(fruit.path))[0]) for fruit in fruits if not fruit.test]
    features = np.stack([vector for _, vector in trained])
    labels = np.asarray([[fruit in one.boxes for fruit in FRUIT] for one, _ in trained], np.float32)
    single = labels.sum(axis=1) == 1
    heads = {
        "multi-label": train(network, features, labels, "multi_label", "auto", FRUIT),
        "linear": train(network, features[single], labels[single], "multi_class", "linear", FRUIT),
        "kernel": train(network, features[single], labels[single], "multi_class", "kernel", FRUIT),
    }
    tests = [(fruit, network.read(fruit.path)) for fruit in fruits if fruit.test and fruit.boxes]
    seen = [(fruit, picture, network.look(picture)[1]) for fruit, picture in tests]

    def examined(kind: str, exam: str, concepts: Sequence[str], maps_of: Callable[[Floats], Floats]) -> Exam:
        hits, chances = [], []
        for fruit, picture, feature_map in seen:
            for concept, values in zip(concepts, maps_of(feature_map), strict=True):
                if concept in fruit.boxes:
                    hits.append(peak_is_in(values, picture, network, fruit.boxes[concept]))
                    chances.append(part_in(fruit.boxes[concept]))
        return Exam(name, exam, kind, len(hits), sum(hits), float(np.mean(chances)))

    for kind, head in heads.items():

        def of_head(map_: Floats, head: Head = head) -> Floats:
            return explain.head_maps(head, map_, range(len(FRUIT)))

        yield examined(kind, "boxes", FRUIT, of_head)
    if network.classifier is not None:
        concepts = list(OF_GENERAL)
        own = [OF_GENERAL[concept] for concept in concepts]

        def of_general(map_: Floats) -> Floats:
            maps = network.general_maps(map_, own)
            return maps if maps is not None else np.empty((0, 1, 1), np.float32)

        yield examined("classifier", "general", concepts, of_general)


def mosaics_exam(network: Network, name: str, shared: Path, count: int) -> Iterator[Exam]:
    """Squares of four test pictures of four classes."""
    root, random = shared / "datasets" / "trashnet", np.random.default_rng(0)
    parts: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for part, by_class in parts.items():
        for line in next((root / "_meta").glob(f"*_{part}.txt")).read_text(encoding="utf-8").splitlines():
            if line.strip():
                file = line.split()[0]
                label = file.rstrip("0123456789.jpg")
                by_class.setdefault(label, []).append(root / label / file)
    classes = sorted(parts["train"])
    chosen = [(place, path) for place, label in enumerate(classes) for path in parts["train"][label][:TRAINED_A_CLASS]]
    features = np.stack([network.look(network.read(path))[0] for _, path in chosen])
    labels = np.eye(len(classes), dtype=np.float32)[[place for place, _ in chosen]]
    drawn = []
    for _ in range(count):
        four = random.permutation(len(classes))[:4]
        files = [parts["test"][classes[place]] for place in four]
        picture = mosaic([network.read(paths[random.integers(len(paths))]) for paths in files])
        drawn.append((four, picture, network.look(picture)[1]))
    for tier in ("linear", "kernel"):
        head = train(network, features, labels, "multi_class", tier, classes)
        hits = 0
        for four, picture, feature_map in drawn:
            for quarter, values in enumerate(explain.head_maps(head, feature_map, four.tolist())):
                left, top = quarter % 2 / 2, quarter // 2 / 2
                hits += peak_is_in(values, picture, network, [(left, top, left + 0.5, top + 0.5)])
        yield Exam(name, "mosaics", tier, 4 * count, hits, 0.25)


def mosaic(pictures: Sequence[Pixels]) -> Pixels:
    """Four pictures in a square."""
    policy = resize.ResizePolicy("squash", MOSAIC_SIDE, MOSAIC_SIDE)
    one, two, three, four = (resize.apply(picture, policy) for picture in pictures)
    return np.vstack([np.hstack([one, two]), np.hstack([three, four])])


def main() -> int:
    """Examine, print, and return whether every exam is far above chance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--mosaics", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    shared = Path(os.environ.get("LENSMITH_SHARED", ROOT.parent / "shared"))
    if not (shared / "datasets").is_dir():
        print(f"no shared data in {shared}: set LENSMITH_SHARED", file=sys.stderr)
        return 2
    begin, fruits, exams = time.perf_counter(), fruit_pictures(shared), []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as scratch:
            folder = BUILTIN_PACKS / name
            if not folder.is_dir():
                folder = Path(scratch) / name
                build_pack(read_source(shared / "models" / name), folder)
            network = Network(folder)
            exams += [*boxes_exam(network, name, fruits), *mosaics_exam(network, name, shared, options.mosaics)]
    result = summary(exams, time.perf_counter() - begin)
    if options.json:
        print(json.dumps(result))
    else:
        show(exams, result)
    return 0 if result["target_met"] else 1


def summary(exams: Sequence[Exam], seconds: float) -> dict[str, object]:
    """The figures as one object."""
    own = [exam for exam in exams if exam.name != "general"]
    return {
        "peak_in_place": round(float(np.mean([exam.rate for exam in own])), 4),
        "chance": round(float(np.mean([exam.chance for exam in own])), 4),
        "least_ratio": round(min(exam.rate / exam.chance for exam in own), 3),
        "target_met": all(exam.rate >= LEAST_RATIO * exam.chance for exam in own),
        "exams": [
            {
                "network": exam.network,
                "exam": exam.name,
                "head": exam.head,
                "maps": exam.maps,
                "peak_in_place": round(exam.rate, 4),
                "chance": round(exam.chance, 4),
            }
            for exam in exams
        ],
        "seconds": round(seconds, 1),
    }


def show(exams: Sequence[Exam], result: dict[str, object]) -> None:
    """Print a table for people."""
    table = Table(title="where the peak of a heat map lies")
    for column in ("network", "exam", "head"):
        table.add_column(column)
    for column in ("maps", "in place", "chance", "times"):
        table.add_column(column, justify="right")
    for exam in exams:
        row = (exam.network, exam.name, exam.head, str(exam.maps), f"{exam.rate:.1%}", f"{exam.chance:.1%}")
        table.add_row(*row, f"{exam.rate / exam.chance:.2f}")
    Console().print(table)
    print({key: value for key, value in result.items() if key != "exams"})


if __name__ == "__main__":
    sys.exit(main())
