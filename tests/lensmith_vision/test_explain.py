"""Heat maps: their sum is the answer, their geometry is the picture's, and their peak lies on the object."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from lensmith_vision import explain, resize
from lensmith_vision.card import MODEL_FILE
from lensmith_vision.decode import decode
from lensmith_vision.engine import OnnxRuntimeEngine
from lensmith_vision.explain import ExplainError
from lensmith_vision.general import hierarchy
from lensmith_vision.graph_parts import read_classifier
from lensmith_vision.heads import Head
from lensmith_vision.heat import OVERLAY_SIDE, overlay_png, seen_part, shrunk
from lensmith_vision.kernel import KernelPart
from lensmith_vision.pack import builtin_pack, golden_images, kept_logits, load_card, space_of
from lensmith_vision.resize import ResizePolicy
from lensmith_vision.training import TrainingSet, TrainOptions, fit
from lensmith_vision.transforms import transformed

DIM, FRUIT = 24, ("apple", "banana", "orange")


def head_of(transform: str, *, kernel: bool, kind: str = "multi_class") -> Head:
    random = np.random.default_rng(1)
    count = 1 if kind == "regression" else 3
    landmarks = transformed(random.normal(size=(6, DIM)).astype(np.float32), transform).astype(np.float16)
    part = KernelPart(landmarks.astype(np.float32), random.normal(size=(6, count)).astype(np.float32), 0.8)
    return Head(
        type=kind,
        space="s",
        concepts=tuple("abc")[:count],
        weights=random.normal(size=(DIM, count)).astype(np.float32),
        bias=random.normal(size=count).astype(np.float32),
        thresholds=np.full(count, 0.5, np.float32),
        value_range=(-1e6, 1e6) if kind == "regression" else None,
        transform=transform,
        kernel=part if kernel else None,
    )


@pytest.mark.parametrize("kernel", [False, True], ids=["linear", "kernel"])
@pytest.mark.parametrize("transform", ["none", "unit", "root"])
def test_the_mean_of_each_map_is_its_logit_whatever_the_head(transform: str, kernel: bool) -> None:
    random = np.random.default_rng(2)
    # Values of both signs, a channel that is silent, and one that cancels out: the hard cases of sharing out.
    feature_map = random.normal(size=(DIM, 4, 5)).astype(np.float32)
    feature_map[0] = 0
    feature_map[1] = np.where(np.arange(20).reshape(4, 5) % 2, 3.0, -3.0)
    for kind in ("multi_class", "multi_label", "regression"):
        head = head_of(transform, kernel=kernel, kind=kind)
        maps = explain.head_maps(head, feature_map, range(len(head.concepts)))
        features = feature_map.mean(axis=(1, 2))[np.newaxis]
        np.testing.assert_allclose(head.activate(maps.mean(axis=(1, 2))[np.newaxis]), head.scores(features), atol=1e-4)
        chosen = explain.head_maps(head, feature_map, [len(head.concepts) - 1])
        np.testing.assert_allclose(chosen[0], maps[-1], atol=1e-5)


def test_a_cell_says_what_the_head_says_of_it_alone_when_nothing_is_transformed() -> None:
    head = head_of("none", kernel=False)
    feature_map = np.random.default_rng(3).normal(size=(DIM, 2, 3)).astype(np.float32)
    maps = explain.head_maps(head, feature_map, range(3))
    assert explain.method_of(head) == "class_activation"
    assert explain.method_of(head_of("unit", kernel=False)) == "shared_contribution"
    for row, column in np.ndindex(2, 3):
        alone = feature_map[:, row, column] @ head.weights + head.bias
        np.testing.assert_allclose(maps[:, row, column], alone, atol=1e-4)
    with pytest.raises(ExplainError):
        explain.head_maps(head, feature_map[:-1], [0])


def test_general_points_at_what_stands_out_when_its_classes_are_shared_out() -> None:
    pack = builtin_pack("starter")
    card = load_card(pack)
    engine = OnnxRuntimeEngine()
    engine.load(space_of(card).id, pack)
    pixels = golden_images([4], card.resize.height, card.resize.width)
    outputs = engine.run(space_of(card).id, pixels, feature_map=True, logits=True)
    assert outputs.feature_map is not None
    assert outputs.logits is not None
    classifier = read_classifier(pack / MODEL_FILE, card)
    assert classifier is not None
    np.testing.assert_allclose(outputs.features @ classifier.weights + classifier.bias, outputs.logits, atol=1e-3)
    classes = explain.class_maps(classifier, outputs.feature_map[0], [3, 999])
    np.testing.assert_allclose(classes.mean(axis=(1, 2)), outputs.logits[0, [3, 999]], atol=1e-3)

    kept = np.setdiff1d(np.arange(len(classifier.bias)), card.logits.ignored if card.logits else ())
    named = explain.Classifier(classifier.weights[:, kept], classifier.bias[kept])
    members = [hierarchy().leaves_below[hierarchy().place[name]] for name in ("dog", "banana")]
    maps = explain.odds_maps(named, outputs.feature_map[0], members, 1.7)
    # The definition: the log odds of a concept change by the mean of its map when all features grow by a small part.
    step, logits = 1e-4, kept_logits(card, outputs.logits).astype(np.float64)[0] / 1.7
    bias = named.bias.astype(np.float64) / 1.7
    for one, leaves in zip(maps, members, strict=True):
        inside = np.zeros(len(kept), bool)
        inside[leaves] = True

        def odds(values: np.ndarray, inside: np.ndarray = inside) -> float:
            return float(np.log(np.exp(values[inside]).sum()) - np.log(np.exp(values[~inside]).sum()))

        shares = np.where(inside, np.exp(logits), 0) / np.exp(logits)[inside].sum()
        shares -= np.where(inside, 0, np.exp(logits)) / np.exp(logits)[~inside].sum()
        slope = (odds(logits + step * (logits - bias)) - odds(logits)) / step
        assert one.mean() == pytest.approx(slope + float(bias @ shares), abs=2e-2)


def test_a_map_lies_where_the_network_looked_when_it_is_drawn() -> None:
    picture = np.full((400, 1000, 3), 128, np.uint8)
    policy = ResizePolicy("short_side_crop", 224, 224, 256)
    part = seen_part(400, 1000, policy)
    assert part == pytest.approx((0.325, 0.0625, 0.675, 0.9375))
    assert seen_part(400, 1000, ResizePolicy("squash", 128, 128)) == (0, 0, 1, 1)
    small = shrunk(picture)
    assert max(small.shape) == OVERLAY_SIDE
    values = np.zeros((7, 7), np.float32)
    values[0, 6] = 1
    drawn = np.asarray(Image.open(io.BytesIO(overlay_png(small, values, part)))).astype(int)
    assert drawn.shape == small.shape
    changed = np.abs(drawn - 128).sum(axis=2) > 0
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    height, width = small.shape[:2]
    assert [columns[0], columns[-1] + 1] == pytest.approx([part[0] * width, part[2] * width], abs=1)
    assert [rows[0], rows[-1] + 1] == pytest.approx([part[1] * height, part[3] * height], abs=1)
    hottest = np.unravel_index((drawn[..., 0] - drawn[..., 2]).argmax(), drawn.shape[:2])
    assert hottest[0] < 0.25 * height
    assert 0.55 * width < hottest[1] < 0.7 * width


def test_peaks_lie_on_fruit_when_heads_have_only_seen_labels(shared: Path) -> None:
    pack = builtin_pack("starter")
    card, engine = load_card(pack), OnnxRuntimeEngine(threads=2)
    space = space_of(card).id
    engine.load(space, pack)
    root = shared / "datasets" / "fruit-multilabel"
    with (root / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pictures = [(root / row["image"]).read_bytes() for row in rows]
    pixels = [resize.apply(decode(one, min_side_hint=card.resize.min_side_hint), card.resize) for one in pictures]
    labels = np.asarray([[fruit in row["labels"] for fruit in FRUIT] for row in rows], np.float32)
    test = np.asarray([row["image"].startswith("test/") for row in rows])
    features = engine.run(space, np.stack(pixels)).features
    ids = tuple(row["image"] for row in rows)
    data = TrainingSet(space, FRUIT, ids, features, ids, labels)
    head = fit(data.rows(~test), TrainOptions("multi_label")).head

    hits, chances = [], []
    for place in np.flatnonzero(test):
        feature_map = engine.run(space, pixels[place][np.newaxis], feature_map=True).feature_map
        assert feature_map is not None
        document = ElementTree.parse((root / "xml_original" / ids[place]).with_suffix(".xml"))
        size = [float(document.findtext(f"size/{side}", "0")) for side in ("width", "height")]
        for fruit, values in zip(FRUIT, explain.head_maps(head, feature_map[0], range(3)), strict=True):
            boxes = [
                [float(item.findtext(f"bndbox/{edge}", "0")) for edge in ("xmin", "ymin", "xmax", "ymax")]
                for item in document.iter("object")
                if item.findtext("name") == fruit
            ]
            if not boxes or not all(size):
                continue
            inside = np.zeros(values.shape, bool)
            y, x = ((np.indices(values.shape) + 0.5).T / values.shape[::-1]).T
            for left, top, right, bottom in boxes:
                inside |= (
                    (left <= x * size[0]) & (x * size[0] <= right) & (top <= y * size[1]) & (y * size[1] <= bottom)
                )
            hits.append(inside[np.unravel_index(values.argmax(), values.shape)])
            chances.append(inside.mean())
    assert len(hits) > 50
    # Guessing has its hits spread by chance too: five of its standard deviations are not luck.
    spread = np.sqrt(np.sum(np.multiply(chances, np.subtract(1, chances)))) / len(chances)
    assert np.mean(hits) > 0.75 > 1.5 * np.mean(chances)
    assert np.mean(hits) > np.mean(chances) + 5 * spread
