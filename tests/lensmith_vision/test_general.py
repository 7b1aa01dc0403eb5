"""General: its concepts, sums over classes, calibrations and how they are fitted."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lensmith_vision.errors import PackError
from lensmith_vision.general import (
    LEAVES,
    Calibration,
    calibration_from_json,
    evaluate,
    hierarchy,
    true_concepts,
)
from lensmith_vision.general.concepts import check_labels, taxonomy_of
from lensmith_vision.general.fitting import calibrate
from tests.general_pack import LABELS

ROOT = Path(__file__).parents[2]
WORDNET = Path(os.environ.get("LENSMITH_WORDNET", "/usr/share/wordnet"))
Logits = npt.NDArray[np.float64]


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(PackError) as caught:
        yield
    assert caught.value.reason == reason


def _logits(rows: int, seed: int, sharpness: float = 3.0) -> Logits:
    return np.random.RandomState(seed).randn(rows, LEAVES) * sharpness


def _probability(values: npt.NDArray[np.float32], concept: str) -> float:
    return float(values[0, hierarchy().place[concept]])


def test_concepts_are_those_of_the_given_hierarchy(shared: Path) -> None:
    given = json.loads((shared / "models" / "mobilenetv2-imagenet" / "hierarchy.json").read_text())
    ours = hierarchy()
    assert len(ours) == len(given["ancestors"]) + LEAVES
    for synset, record in given["ancestors"].items():
        concept = ours.by_synset[int(synset[1:])]
        assert [concept.name, *concept.synonyms] == record["lemmas"]
        assert {f"n{ours.concepts[parent].synset:08}" for parent in concept.parents} == set(record["parents"])
    for record, leaf in zip(given["classes"][1:], ours.concepts[-LEAVES:], strict=True):
        assert f"n{leaf.synset:08}" == record["wnid"]
        assert leaf.leaf == record["index"] - 1
        assert [leaf.name, *leaf.synonyms] == record["lemmas"]
        assert leaf.longest_depth == len(record["hypernyms"])
        below = [
            one.synset for one, leaves in zip(ours.concepts, ours.leaves_below, strict=True) if leaf.leaf in leaves
        ]
        assert {f"n{synset:08}" for synset in below} == {record["wnid"], *record["all_ancestor_wnids"]}
    labels = (shared / "models" / "mobilenetv2-imagenet" / "labels.txt").read_text().splitlines()
    assert taxonomy_of(labels[1:]) == "imagenet-1k"


@pytest.mark.skipif(not WORDNET.is_dir(), reason=f"NO WORDNET at {WORDNET}: Debian's package is wordnet-base")
def test_file_is_what_wordnet_gives() -> None:
    script = ROOT / "scripts" / "make_general_concepts.py"
    done = subprocess.run([sys.executable, script, WORDNET, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ids_tell_homonyms_apart() -> None:
    concepts = hierarchy().concepts
    assert len({one.id for one in concepts}) == len({one.synset for one in concepts}) == len(concepts) == 1860
    cranes = {one.id for one in concepts if one.name == "crane"}
    assert cranes == {"crane-wading-bird", "crane-lifting-device"}
    assert all(one.id and set(one.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for one in concepts)


def test_depth_is_that_of_the_shortest_way() -> None:
    ours = hierarchy()
    dog = ours.concepts[ours.place["dog"]]
    # By way of the domestic animal, not of the mammal.
    assert (dog.depth, dog.longest_depth) == (8, 13)
    assert [ours.concepts[parent].id for parent in dog.parents] == ["canine", "domestic-animal"]
    assert [one.id for one in ours.concepts if one.depth == 0] == ["entity"]


def test_probability_is_the_sum_over_the_classes_below() -> None:
    ours = hierarchy()
    logits = _logits(4, 1)
    leaves = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = ours.sums.probabilities(logits)
    for concept, below in zip(ours.concepts, ours.leaves_below, strict=True):
        assert values[:, ours.place[concept.id]] == pytest.approx(leaves[:, below].sum(axis=1), abs=1e-6)
    assert values[:, ours.place["entity"]] == pytest.approx([1.0] * 4)
    for index, concept in enumerate(ours.concepts):
        for parent in concept.parents:
            assert (values[:, parent] >= values[:, index] - 1e-6).all()


def test_class_is_counted_once_when_several_ways_lead_to_it() -> None:
    logits = np.full((1, LEAVES), -50.0)
    logits[0, hierarchy().concepts[hierarchy().place["german-shepherd"]].leaf] = 50.0
    values = hierarchy().sums.probabilities(logits)
    for concept in ("german-shepherd", "shepherd-dog", "dog", "canine", "domestic-animal", "animal", "entity"):
        assert _probability(values, concept) == pytest.approx(1.0)
    assert _probability(values, "cat") == pytest.approx(0.0)


def test_probabilities_are_flatter_when_the_temperature_is_higher() -> None:
    logits = _logits(8, 2)
    sharp, plain, flat = (hierarchy().sums.probabilities(logits, one)[:, -LEAVES:] for one in (0.5, 1.0, 4.0))
    assert (sharp.max(axis=1) > plain.max(axis=1)).all()
    assert (plain.max(axis=1) > flat.max(axis=1)).all()
    assert flat.sum(axis=1) == pytest.approx([1.0] * 8, abs=1e-4)


def test_some_concepts_can_be_asked_alone() -> None:
    logits = _logits(3, 3)
    some = hierarchy().sums_of(["dog", "entity", "banana"]).probabilities(logits)
    everything = hierarchy().sums.probabilities(logits)
    places = [hierarchy().place[one] for one in ("dog", "entity", "banana")]
    assert some == pytest.approx(everything[:, places])
    for unknown in ([], ["unicorn"]):
        with refused("GENERAL_CONCEPT_UNKNOWN"):
            hierarchy().sums_of(unknown)


@pytest.mark.parametrize("shape", [(2, 1001), (1000,), (2, 999)])
def test_logits_of_another_taxonomy_are_refused(shape: tuple[int, ...]) -> None:
    for call in (hierarchy().sums.probabilities, true_concepts):
        with refused("GENERAL_LOGITS_INVALID"):
            call(np.zeros(shape))


def test_labels_in_another_order_are_no_taxonomy() -> None:
    labels = list(LABELS[1:])
    check_labels(labels)
    assert taxonomy_of([label.split(",")[0].replace(" ", "_").upper() for label in labels]) == "imagenet-1k"
    assert taxonomy_of(labels[::-1]) == ""
    assert taxonomy_of([*labels[1:], labels[0]]) == ""
    assert taxonomy_of(labels[:-1]) == ""
    assert taxonomy_of([]) == ""


def test_calibration_comes_back_as_it_was_written() -> None:
    calibration = Calibration(
        temperature=1.25, default_threshold=0.4, thresholds={"dog": 0.75, "crane-wading-bird": 0.1}
    )
    assert calibration_from_json(calibration.to_json()) == calibration
    thresholds = dict(zip([one.id for one in hierarchy().concepts], calibration.of_all().tolist(), strict=True))
    assert (thresholds["dog"], thresholds["cat"]) == (0.75, 0.4)
    assert set(Calibration().of_all().tolist()) == {0.5}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"taxonomy": "places365"},
        {"temperature": 0},
        {"temperature": True},
        {"temperature": float("nan")},
        {"default_threshold": 1.5},
        {"thresholds": {"unicorn": 0.5}},
        {"thresholds": {"dog": "high"}},
        {"thresholds": []},
        {"surprise": 1},
    ],
)
def test_calibration_is_refused_when_it_breaks_the_format(change: dict[str, object]) -> None:
    document = {**json.loads(Calibration().to_json()), **change}
    with refused("PACK_CALIBRATION_INVALID"):
        calibration_from_json(json.dumps(document))
    for broken in ("", "[]", "{", "[" * 100_000, " " * (2 << 20)):
        with refused("PACK_CALIBRATION_INVALID"):
            calibration_from_json(broken)


def _student(teacher: Logits, seed: int, temperature: float = 1.0) -> Logits:
    """What a weaker network might say: the teacher's opinion, blurred."""
    return (teacher + np.random.RandomState(seed).randn(*teacher.shape) * 1.5) * temperature


@pytest.fixture(scope="module")
def pictures() -> Logits:
    """A teacher's logits: some classes much more probable than others, a few of them common."""
    random = np.random.RandomState(0)
    logits = random.randn(600, LEAVES)
    common = random.permutation(LEAVES)[:60]
    for row in logits:
        row[random.choice(common, 3, replace=False)] += [9.0, 8.0, 7.5]
        row[random.randint(0, LEAVES)] += 6.0
    return logits


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_undoes_a_scale(pictures: Logits, factor: float) -> None:
    fitted = calibrate(pictures * factor, pictures)
    assert fitted.temperature == pytest.approx(factor, rel=0.01)


def test_what_is_said_is_right_at_least_as_often_as_it_was_fitted_to_be(pictures: Logits) -> None:
    student = _student(pictures, 1)
    said = []
    for target in (0.8, 0.9, 0.95):
        fitted = calibrate(student[:400], pictures[:400], target_precision=target)
        held_out = evaluate(student[400:], pictures[400:], temperature=fitted.temperature, thresholds=fitted.of_all())
        assert held_out.precision > target - 0.05
        said.append(held_out.concepts_per_picture)
    assert said == sorted(said, reverse=True)
    assert said[-1] > 1


def test_concept_gets_the_threshold_of_its_depth_when_no_picture_shows_it(pictures: Logits) -> None:
    fitted = calibrate(_student(pictures, 1)[:400], pictures[:400])
    shown = true_concepts(pictures[:400]).any(axis=0)
    assert not shown.all()
    assert set(fitted.thresholds) == {one.id for one in hierarchy().concepts}
    assert all(0.0 < value <= 1.0 for value in fitted.thresholds.values())


def test_calibration_needs_pictures(pictures: Logits) -> None:
    for logits, teacher in ((pictures[:2], pictures[:3]), (pictures[:0], pictures[:0])):
        with refused("GENERAL_LOGITS_INVALID"):
            calibrate(logits, teacher)


def test_truth_is_everything_that_the_best_classes_are_kinds_of() -> None:
    ours = hierarchy()
    logits = np.zeros((1, LEAVES))
    for place, name in enumerate(("german-shepherd", "banana", "church", "crane-wading-bird", "zebra")):
        logits[0, ours.concepts[ours.place[name]].leaf] = 10.0 - place
    truth = {one.id for one, true in zip(ours.concepts, true_concepts(logits)[0], strict=True) if true}
    assert {"german-shepherd", "dog", "edible-fruit", "building", "bird", "equine", "entity"} <= truth
    assert not {"cat", "vehicle", "crane-lifting-device"} & truth
    best = true_concepts(logits, top=1)[0]
    assert {one.id for one, true in zip(ours.concepts, best, strict=True) if true} < truth


def test_evaluation_leaves_out_what_is_true_of_most_pictures(pictures: Logits) -> None:
    perfect = evaluate(pictures, pictures, temperature=1.0, thresholds=np.full(len(hierarchy()), 0.3))
    truth = true_concepts(pictures)
    usual = truth.mean(axis=0) > 0.2
    assert perfect.left_out == int(usual.sum()) > 0
    given = (hierarchy().sums.probabilities(pictures) >= 0.3) & ~usual
    assert perfect.precision == pytest.approx((given & truth).sum() / given.sum())
    assert perfect.concepts_per_picture == pytest.approx(given.sum() / len(pictures))
    assert sum(count.given for count in perfect.by_depth.values()) == given.sum()
    assert sum(count.right for count in perfect.by_depth.values()) == (given & truth).sum()
    deep = given[:, hierarchy().depths >= 8].sum(axis=1)
    assert perfect.deep_per_picture == pytest.approx(deep.mean())
    assert perfect.pictures_with_deep == pytest.approx((deep > 0).mean())
    assert perfect.top1_agreement == perfect.top5_agreement == 1.0
    silent = evaluate(pictures, pictures, temperature=1.0, thresholds=np.full(len(hierarchy()), 1.1))
    assert (silent.precision, silent.concepts_per_picture, silent.by_depth) == (0.0, 0.0, {})
