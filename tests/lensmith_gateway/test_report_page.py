"""The page of a report on very many concepts: readable, and right about what it leaves out."""

from lensmith_api.v1.evaluation_pb2 import CalibrationBin, ConceptEvaluation, ConfusionCell, Evaluation
from lensmith_api.v1.model_version_pb2 import Finding
from lensmith_api.v1.suggestion_pb2 import InputToLabel, Suggestion, SuggestionKind, SuggestionState
from lensmith_api.v1.suggestion_service_pb2 import ListSuggestionsResponse
from lensmith_gateway.report.advice import advice, groups
from lensmith_gateway.report.composition import _calibration, _confusion
from lensmith_gateway.report.content import ConceptRow, Report, Verdict
from lensmith_gateway.report.page import as_html

MANY = 200


def test_worst_concepts_stand_first_and_the_others_are_folded_when_there_are_very_many() -> None:
    rows = tuple(
        ConceptRow(f"c{place:03}", f"c{place:03}", 10, 0.5, 0.5, place / MANY, 0.5, "", "") for place in range(MANY)
    )
    page = as_html(_report(rows[::-1]))
    shown, folded = page.split("<summary>The other 170</summary>")
    assert shown.index("c000") < shown.index("c029")
    assert "c030" not in shown
    assert folded.index("c030") < folded.index("c199")
    assert "<summary>" not in as_html(_report(rows[:60]))


def test_mistakes_are_told_of_all_pictures_when_only_the_highest_cells_are_there() -> None:
    evaluation = Evaluation(
        concepts=[ConceptEvaluation(concept="a", positives=200)],
        confusion=[
            ConfusionCell(actual="a", predicted="a", count=120),
            ConfusionCell(actual="a", predicted="b", count=9),
        ],
    )
    found = _confusion(evaluation, ["a", "b"], {})
    assert found is not None
    assert [(pair.predicted, pair.count, pair.of) for pair in found.pairs] == [("b", 9, 200)]


def test_scores_are_not_called_wrong_when_so_few_pictures_tell_nothing_of_them() -> None:
    def told(pictures: int) -> str:
        bins = [CalibrationBin(count=pictures // 5, confidence=0.1 + 0.2 * place) for place in range(5)]
        found = _calibration(Evaluation(expected_calibration_error=0.15, calibration=bins))
        assert found is not None
        return found.words

    # A perfect model on 60 pictures, 5 bars: 0.8 * the mean of sqrt(p (1 - p) / 12).
    assert "off by 15 points of 100 on average, but on so few pictures chance alone would make it about 9" in told(60)
    assert told(1000) == "Scores are off by 15 points of 100 on average: do not read them as exact chances."


def test_too_few_pictures_and_too_few_negatives_are_told_apart_with_pictures_worth_labelling() -> None:
    few = [
        Suggestion(
            kind=SuggestionKind.SUGGESTION_KIND_FEW_IMAGES,
            message=f"{concept} has few",
            concept=concept,
            state=SuggestionState.SUGGESTION_STATE_OPEN,
            few_negatives=negatives,
            inputs_to_label=[InputToLabel(input=f"{concept}-{n}-{negatives}") for n in range(asked)],
        )
        for concept, negatives, asked in (("a", False, 9), ("b", False, 2), ("a", True, 1), ("c", True, 0))
    ]
    shown, missing = groups(ListSuggestionsResponse(suggestions=few), {"a": "A", "b": "B", "c": "C"})
    assert shown.message == "a has few; there are too few of B as well"
    # The first of each, then the second of each.
    assert [sentence for _, sentence in shown.looks] == ["A?", "B?", "A?", "B?", "A?", "A?"]
    assert missing.message == "a has few; too few are labelled as not showing C as well"
    assert missing.looks == (("a-0-True", "not A?"),)
    # What training noticed of pictures that show a concept is said by the first of them alone.
    noticed = [Finding(reason="FEW_IMAGES", message="a has only 4 images")]
    assert len(advice([shown, missing], noticed, {})) == 2
    assert [one.message for one in advice([missing], noticed, {})] == [missing.message, "a has only 4 images"]


def _report(rows: tuple[ConceptRow, ...]) -> Report:
    return Report(
        name="apps/a/models/m/versions/1",
        title="m",
        description="",
        type="multi-class",
        what="",
        version=1,
        production=True,
        created="",
        verdict=Verdict("useful", "", ()),
        method="",
        figures=(),
        concepts=rows,
        confusion=None,
        calibration=None,
        residuals=(),
        learning=None,
        advice=(),
        wrong=(),
        right=(),
        cautions=(),
        facts={},
        licence="",
        notes=(),
    )
