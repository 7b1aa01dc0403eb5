"""What is found to fix in training sets whose faults are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from lensmith_vision.curation.asked import with_asked
from lensmith_vision.curation.curate import suggest
from lensmith_vision.curation.harm import harm_of_labels, more_where_harmful
from lensmith_vision.curation.likely_labels import likely_looks
from lensmith_vision.curation.second_look import scores_without
from lensmith_vision.curation.suggestion import Curated, Pictures, Suggestion
from lensmith_vision.errors import TrainingError
from lensmith_vision.folds import groups_of
from lensmith_vision.heads import Head
from lensmith_vision.kernel import held_out_similarity
from lensmith_vision.training import TrainingSet, TrainOptions, fit

Floats = npt.NDArray[np.float32]
DIM = 32
CONCEPTS = ("glass", "metal", "paper")
EACH = 40


def _features(seed: int, each: int = EACH) -> Floats:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((len(CONCEPTS), DIM))
    rows = np.repeat(centres, each, axis=0) + 0.6 * random.standard_normal((len(CONCEPTS) * each, DIM))
    return rows.astype(np.float32)


def _classes(classes: npt.NDArray[np.int64], features: Floats) -> tuple[Curated, Head]:
    """A trained multi-class set; pictures are called 0, 1, 2 and so on."""
    ids = tuple(str(row) for row in range(len(classes)))
    labels = np.eye(len(CONCEPTS), dtype=np.float32)[classes]
    fitted = fit(TrainingSet("space", CONCEPTS, ids, features, ids, labels), TrainOptions("multi_class"))
    given = [{CONCEPTS[one]: True} for one in classes]
    scores, groups = fitted.out_of_fold.scores, groups_of(features, ids)
    return Curated("multi_class", CONCEPTS, ids, features, ids, groups, given, scores, labels), fitted.head


def _of(found: list[Suggestion], kind: str) -> list[Suggestion]:
    return [one for one in found if one.kind == kind]


def test_turned_labels_are_found_with_the_right_concept_when_classes_are_clear() -> None:
    classes = np.repeat(np.arange(3), EACH)
    turned = np.array([1, 5, 44, 61, 90, 119])
    given = classes.copy()
    given[turned] = (classes[turned] + 1) % 3
    data, head = _classes(given, _features(0))

    wrong = _of(suggest(data, head), "WRONG_LABEL")

    assert {int(one.picture) for one in wrong} == set(turned.tolist())
    for one in wrong:
        right = CONCEPTS[classes[int(one.picture)]]
        assert (one.other, dict(one.desired)) == (right, {right: True})
        assert dict(one.current) == {one.concept: True}
    # Pictures that were never held out are judged by what they look like alone.
    blind = replace(data, scores=np.full_like(data.scores, np.nan))
    assert {one.picture for one in _of(suggest(blind, head), "WRONG_LABEL")} >= {str(row) for row in turned[:4]}


def test_one_kind_of_fault_is_not_taken_for_another() -> None:
    features, classes = _features(1), np.repeat(np.arange(3), EACH)
    # A copy of a picture of glass that is labelled paper; one of metal that is like nothing else; little paper.
    features[119] = features[0]
    features[50] = -4 * features[40:80].mean(axis=0)
    keep = np.ones(len(classes), dtype=np.bool_)
    keep[85:115] = False
    data, head = _classes(classes[keep], features[keep])
    copy, stranger = len(data.ids) - 1, 50

    found = suggest(data, head)

    [contrary] = _of(found, "DUPLICATE")
    assert (contrary.picture, contrary.related, contrary.concept) == (str(copy), ("0",), "paper")
    assert dict(contrary.desired) == {}
    assert str(stranger) in {one.picture for one in _of(found, "OUTLIER") + _of(found, "WRONG_LABEL")}
    [few] = _of(found, "FEW_IMAGES")
    assert (few.concept, few.picture) == ("paper", "")
    assert "15 more" in few.message


def test_both_sides_of_a_label_are_judged_when_concepts_overlap() -> None:
    features = _features(2)
    shown = np.repeat(np.eye(3, dtype=np.float32), EACH, axis=0)
    labels = shown.copy()
    labels[3, 0], labels[70, 2] = 0.0, 1.0
    labels[100, 1] = np.nan
    ids = tuple(str(row) for row in range(len(features)))
    fitted = fit(TrainingSet("space", CONCEPTS, ids, features, ids, labels), TrainOptions("multi_label"))
    given = [
        {concept: bool(value) for concept, value in zip(CONCEPTS, row, strict=True) if np.isfinite(value)}
        for row in labels
    ]
    given[3] = {"none": True}
    scores, groups = fitted.out_of_fold.scores, groups_of(features, ids)
    data = Curated("multi_label", CONCEPTS, ids, features, ids, groups, given, scores, labels, negative="none")

    wrong = {one.picture: one for one in _of(suggest(data, fitted.head), "WRONG_LABEL")}

    assert wrong.keys() == {"3", "70"}
    assert dict(wrong["70"].desired) == {"paper": False}
    # What shows a concept is no longer "none of these".
    assert (dict(wrong["3"].current), dict(wrong["3"].desired)) == ({"none": True}, {"glass": True})


def test_two_names_of_one_thing_are_told_though_their_labels_are_doubted() -> None:
    told = []
    for seed in range(20):
        # Half of the pictures of metal are called paper.
        data, head = _classes(np.repeat([0, 1, 2], [20, 10, 10]), _features(seed, 20)[:40])
        told += _of(suggest(data, head), "CONFUSED_CONCEPTS")

    assert [{one.concept, one.other} for one in told] == [{"metal", "paper"}] * 20


def test_labels_that_are_surely_wrong_make_no_two_concepts_confused() -> None:
    given = np.repeat(np.arange(3), EACH)
    turned = np.arange(0, 2 * EACH, 8)
    given[turned] = 1 - given[turned]
    data, head = _classes(given, _features(4))

    found = suggest(data, head)

    assert {one.picture for one in _of(found, "WRONG_LABEL")} >= {str(row) for row in turned}
    assert not _of(found, "CONFUSED_CONCEPTS")


def test_a_number_far_off_is_found_with_what_it_looks_like() -> None:
    random = np.random.default_rng(3)
    features = random.standard_normal((80, DIM)).astype(np.float32)
    numbers = (features @ random.standard_normal(DIM)).astype(np.float32)
    typed = numbers.copy()
    typed[7] += 60
    ids = tuple(str(row) for row in range(80))
    fitted = fit(TrainingSet("space", ("size",), ids, features, ids, targets=typed), TrainOptions("regression"))
    given = [{"size": float(value)} for value in typed]
    scores, groups = fitted.out_of_fold.scores, groups_of(features, ids)
    data = Curated("regression", ("size",), ids, features, ids, groups, given, scores, targets=typed)

    first = _of(suggest(data, fitted.head), "WRONG_LABEL")[0]

    assert first.picture == "7"
    assert abs(float(first.desired["size"]) - float(numbers[7])) < 20


def test_pictures_to_label_next_are_unsure_and_unlike_each_other() -> None:
    data, head = _classes(np.repeat(np.arange(3), EACH), _features(4))
    centres = np.random.default_rng(99).standard_normal((len(CONCEPTS), DIM)).astype(np.float32)
    between = (centres[0] + centres[1]) / 2
    clear, copies = centres[[0, 1, 2]], np.stack([between, between, between])
    features = np.concatenate([clear, copies]).astype(np.float32)
    ids = [*(f"clear-{concept}" for concept in CONCEPTS), "between-1", "between-2", "between-3"]
    pictures = Pictures(ids, features, ids)

    chosen = _of(suggest(data, head, unlabelled=pictures), "LABEL_NEXT")

    assert chosen[0].picture.startswith("between")
    # A copy of what is chosen already teaches nothing more.
    assert sum(one.picture.startswith("between") for one in chosen) == 1
    assert all(not one.current and len(one.desired) == 1 for one in chosen)


def test_pictures_that_look_like_what_is_rare_or_confused_are_asked_for() -> None:
    classes = np.repeat(np.arange(3), EACH)
    features = _features(7)
    keep = np.ones(len(classes), dtype=np.bool_)
    keep[85:] = False
    data, head = _classes(classes[keep], features[keep])
    parts = np.linspace(0, 1, 10_001, dtype=np.float32)[:, None]
    mixtures = parts * features[0] + (1 - parts) * features[40]
    between = mixtures[head.scores(mixtures)[:, :2].min(axis=1).argmax()]
    paper = features[90:93]
    pictures = Pictures(
        ["glass", "between", "paper-1", "paper-2", "paper-3", "copy"],
        np.concatenate([features[[0]], between[None], paper, paper[[2]]]).astype(np.float32),
        ["g", "b", "p1", "p2", "p3", "p3"],
    )
    few = Suggestion("FEW_IMAGES", "few", 0.5, "paper")
    confused = Suggestion("CONFUSED_CONCEPTS", "confused", 0.5, "glass", "metal", related=("0",))
    other = Suggestion("OUTLIER", "unlike", 0.5, "glass", picture="3")

    found = with_asked([few, confused, other], head, pictures)

    assert {one.picture for one in found[0].asked} == {"paper-1", "paper-2", "paper-3"}
    assert found[0].message == "few; 3 pictures without a label look like it"
    assert all((one.concept, one.value) == ("paper", True) for one in found[0].asked)
    assert [one.score for one in found[0].asked] == sorted((one.score for one in found[0].asked), reverse=True)
    assert [one.picture for one in found[1].asked] == ["between"]
    assert found[1].asked[0].concept in ("glass", "metal")
    assert found[2] is other
    # What is suggested of a set names them too.
    [rare] = _of(suggest(data, head, unlabelled=pictures), "FEW_IMAGES")
    assert len(rare.asked) == 3


def test_pictures_that_nobody_judged_are_asked_for_when_a_concept_has_few_negatives() -> None:
    features = _features(8)
    labels = np.repeat(np.eye(3, dtype=np.float32), EACH, axis=0)
    # Of glass, three pictures are said to be none, and one more is a copy of one that nobody judged.
    labels[EACH:, 0] = np.nan
    labels[[40, 41, 80], 0] = 0.0
    features[119] = features[118]
    ids = tuple(str(row) for row in range(len(features)))
    copies = (*ids[:119], ids[118])
    fitted = fit(TrainingSet("space", CONCEPTS, ids, features, copies, labels), TrainOptions("multi_label"))
    given = [{c: bool(v) for c, v in zip(CONCEPTS, row, strict=True) if np.isfinite(v)} for row in labels]
    scores, groups = fitted.out_of_fold.scores, groups_of(features, copies)
    data = Curated("multi_label", CONCEPTS, ids, features, copies, groups, given, scores, labels)
    fresh = Pictures(["like-glass", "like-paper"], features[[0, 90]] + np.float32(0.01), ["g", "p"])

    [few] = _of(suggest(data, fitted.head, unlabelled=fresh), "FEW_IMAGES")

    assert (few.concept, few.few_negatives, few.score) == ("glass", True, pytest.approx(1 - 3 / 25))
    assert few.message.startswith("only 3 pictures are labelled as not showing glass, and 40 as showing it: about 22")
    assert len(few.asked) == 20
    unjudged = {one for one, value in zip(ids, labels[:, 0], strict=True) if np.isnan(value)} | set(fresh.ids)
    assert {one.picture for one in few.asked} <= unjudged
    assert len({"118", "119"} & {one.picture for one in few.asked}) <= 1
    # What likely shows no glass and looks most like it comes first; what looks like glass comes last, if at all.
    absent = [one.score for one in few.asked if one.value is False]
    assert absent == sorted(absent)
    assert [one.value for one in few.asked] == [False] * len(absent) + [True] * (len(few.asked) - len(absent))
    # With five pictures that do not show it for one that does, and 25 of them, nothing is said.
    labels[42:80, 0] = 0.0
    assert _of(suggest(replace(data, labels=labels), fitted.head), "FEW_IMAGES") == []


def test_training_pictures_with_a_copy_among_the_tests_are_told() -> None:
    data, head = _classes(np.repeat(np.arange(3), EACH), _features(5))
    tests = Pictures(["test"], data.features[[17]], [data.group_ids[17]])

    [leak] = _of(suggest(data, head, tests=tests), "DUPLICATE")

    assert (leak.picture, leak.related, leak.score) == ("17", ("test",), 1.0)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    data, _ = _classes(np.repeat(np.arange(3), EACH), _features(6))
    with pytest.raises(TrainingError):
        replace(data, scores=data.scores[:-1])
    with pytest.raises(TrainingError):
        replace(data, labels=None)


def _turned(count: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What pictures show, which of them are labelled as the next concept, and the labels that come of it."""
    classes = np.repeat(np.arange(3), EACH)
    turned = np.random.default_rng(seed).permutation(len(classes))[:count]
    given = classes.copy()
    given[turned] = (classes[turned] + 1) % 3
    return classes, turned, given


def test_labels_in_doubt_have_no_say_when_a_model_is_asked_again() -> None:
    classes, turned, given = _turned(36, seed=5)
    data, _ = _classes(given, _features(5))
    doubted = np.zeros(len(classes), dtype=np.bool_)
    doubted[turned] = True

    again = scores_without(data, doubted, "linear", seed=0)

    assert again is not None
    assert (again.argmax(axis=1) == classes).all()
    every = np.arange(len(classes))
    assert again[every, classes].mean() > data.scores[every, classes].mean() + 0.1
    # Nothing is in doubt, or next to nothing is left of paper.
    assert scores_without(data, np.zeros_like(doubted), "linear", seed=0) is None
    assert scores_without(data, given == 2, "linear", seed=0) is None


def test_labels_that_the_others_do_not_bear_out_have_no_say_in_what_pictures_look_like() -> None:
    classes, _, given = _turned(12, seed=7)
    data, _ = _classes(given, _features(7))

    looks = likely_looks(data)

    assert looks is not None
    assert np.allclose(looks.chances.sum(axis=1), 1, atol=1e-5)
    assert (looks.chances.argmax(axis=1) == classes).all()
    every = np.arange(len(classes))
    assert looks.chances[every, classes].mean() > data.scores[every, classes].mean() + 0.05
    # A picture's own label says nothing about what it looks like.
    other = given.copy()
    other[0] = (given[0] + 1) % 3
    again = likely_looks(_classes(other, data.features)[0])
    assert again is not None
    assert np.abs(again.chances[0] - looks.chances[0]).max() < 0.05


def test_harm_of_a_label_is_how_much_likelier_the_others_are_without_it() -> None:
    random = np.random.default_rng(8)
    features, classes = random.standard_normal((30, 4)), random.integers(0, 3, 30)
    groups = np.arange(30)
    groups[[3, 4, 5]] = 3
    inverse = np.linalg.inv(features @ features.T + 2 * np.eye(30))
    given, scale, rate, every = np.eye(3)[classes], 3.0, 0.1, np.arange(30)

    def chances(targets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        likely = np.exp(scale * held_out_similarity(inverse, targets, groups))
        return np.asarray(likely / likely.sum(axis=1, keepdims=True))

    def likelihood(targets: npt.NDArray[np.float64], without: npt.NDArray[np.bool_]) -> float:
        own = chances(targets)[every, classes]
        return float(np.log((1 - rate) * own + rate / 2 * (1 - own))[~without].sum())

    values = held_out_similarity(inverse, given, groups)
    harm = harm_of_labels(inverse, values, chances(given), classes, groups, scale, rate)

    for one in (0, 4, 17):
        moved, step = given.copy(), 1e-5
        moved[one] += step * (values[one] - given[one])
        alike = groups == groups[one]
        expected = (likelihood(moved, alike) - likelihood(given, alike)) / step
        assert harm[one] == pytest.approx(expected, rel=1e-3)
    wrong = np.full(30, 0.5, np.float32)
    assert (more_where_harmful(wrong, harm.astype(np.float32)) > 0.5).tolist() == (harm > 0).tolist()


def test_most_pictures_may_look_the_same() -> None:
    random = np.random.default_rng(0)
    features = random.random((300, 64)).astype(np.float32)
    # As of a camera that sees the same most of the time: less apart than some numbers are rounded.
    features[:240] = features[0] * (1 + 3e-4 * random.standard_normal((240, 64)))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    data, _ = _classes(np.arange(300) % 3, features.astype(np.float16).astype(np.float32))
    looks = likely_looks(replace(data, groups=np.arange(300)))
    assert looks is not None
    assert np.isfinite(looks.chances).all()
    assert np.isfinite(looks.harm).all()
    whole = TrainingSet("space", CONCEPTS, data.ids, data.features, data.ids, data.labels)
    similar = fit(whole, TrainOptions("multi_class", tier="kernel"))
    assert np.isfinite(similar.out_of_fold.scores).all()
