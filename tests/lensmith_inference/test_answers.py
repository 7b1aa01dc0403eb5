"""Which concepts are shown, in which order, and which count as predicted."""

import json

import numpy as np
import pytest

from lensmith_api.internal.v1.serving_service_pb2 import ServedModel
from lensmith_api.v1.inference_service_pb2 import PredictRequest
from lensmith_inference.answers import Selection, ServedVersion, native_scores
from lensmith_platform.errors import InternalError, InvalidInputError
from lensmith_vision.card import Card, card_from_json
from lensmith_vision.pack import builtin_pack, load_card

SERVED = ServedVersion.of(
    ServedModel(
        name="apps/a/models/m/versions/3",
        concepts=["glass", "metal", "paper", "trash"],
        display_names=["Glass", "Metal", "Paper", "Paper"],
        thresholds=[0.1, 0.5, 0.2, 0.9],
    )
)
SCORES = np.array([0.1, 0.4, 0.4, 0.05], np.float32)


def shown(**request: object) -> list[str]:
    selection = Selection.of(PredictRequest(**request), SERVED)
    return [score.concept for score in selection.concept_scores(SCORES)]


def test_all_concepts_by_falling_score_when_nothing_is_selected() -> None:
    assert shown() == ["metal", "paper", "glass", "trash"]


def test_fewer_concepts_when_limits_are_given() -> None:
    assert shown(max_concepts=2) == ["metal", "paper"]
    assert shown(min_value=0.3) == ["metal", "paper"]
    assert shown(min_value=0.99) == []


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (["glass"], ["glass"]),
        (["Glass", "trash"], ["glass", "trash"]),
        (["Paper"], ["paper", "trash"]),
        (["glass", "GLASS", "nothing"], ["glass"]),
    ],
)
def test_selected_concepts_only_when_ids_or_names_are_given(selected: list[str], expected: list[str]) -> None:
    assert shown(select_concepts=selected) == expected


def test_request_is_refused_when_no_selected_concept_is_known() -> None:
    with pytest.raises(InvalidInputError) as raised:
        shown(select_concepts=["GLASS", "wood"])
    assert raised.value.reason == "SELECT_CONCEPTS_UNKNOWN"
    assert "'GLASS', 'wood'" in raised.value.message


def test_concept_is_predicted_when_its_score_reaches_its_threshold() -> None:
    selection = Selection.of(PredictRequest(), SERVED)
    scores = np.array([0.5, 0.5, 0.19, 0.95], np.float32)
    answer = {score.concept: score.predicted for score in selection.concept_scores(scores)}
    assert answer == {"glass": True, "metal": True, "paper": False, "trash": True}


def test_version_is_refused_when_registry_describes_it_wrongly() -> None:
    broken = ServedModel(concepts=["a", "b"], display_names=["A"], thresholds=[0.5, 0.5])
    with pytest.raises(InternalError):
        ServedVersion.of(broken)


def card_with(outputs: dict[str, object]) -> Card:
    """The plain pack's card with a classifier."""
    document = json.loads(load_card(builtin_pack()).to_json())
    document["outputs"] = {**document["outputs"], **outputs}
    return card_from_json(json.dumps(document))


def _version(concepts: int) -> ServedVersion:
    return ServedVersion.of(ServedModel(concepts=[f"concept-{index}" for index in range(concepts)]))


def test_version_is_refused_when_it_has_concepts_that_general_has_not() -> None:
    with pytest.raises(InternalError, match="unicorn"):
        ServedVersion.of(ServedModel(concepts=["dog", "unicorn"], taxonomy="imagenet-1k"))


def test_background_class_leaves_before_the_softmax_when_the_card_ignores_it() -> None:
    card = card_with({"logits": {"dim": 3, "activation": "softmax", "ignored": [0]}})
    scores = native_scores(np.array([[100.0, 1.0, 1.0]], np.float32), card, _version(2))
    assert scores.tolist() == [[0.5, 0.5]]


def test_scores_stand_alone_when_the_card_says_sigmoid() -> None:
    card = card_with({"logits": {"dim": 2, "activation": "sigmoid", "ignored": []}})
    scores = native_scores(np.array([[0.0, 1000.0]], np.float32), card, _version(2))
    assert scores.tolist() == [[0.5, 1.0]]


def test_classifier_is_refused_when_the_concepts_do_not_fit() -> None:
    card = card_with({"logits": {"dim": 3, "activation": "softmax", "ignored": []}})
    with pytest.raises(InternalError):
        native_scores(np.zeros((1, 3), np.float32), card, _version(2))
    with pytest.raises(InternalError):
        native_scores(np.zeros((1, 3), np.float32), load_card(builtin_pack()), _version(3))
