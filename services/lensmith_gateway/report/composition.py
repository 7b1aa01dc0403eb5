"""From what the services told to what the report says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from lensmith_api.v1.evaluation_pb2 import EvaluatedInput, Evaluation, Interval
from lensmith_api.v1.model_pb2 import ModelType
from lensmith_api.v1.training_settings_pb2 import HeadTier
from lensmith_gateway.report import words
from lensmith_gateway.report.advice import advice, groups
from lensmith_gateway.report.content import (
    Calibration,
    CalibrationBin,
    ConceptRow,
    Confusion,
    ConfusionPair,
    Example,
    Figure,
    Range,
    Report,
    Residual,
    Verdict,
)
from lensmith_gateway.report.learning import learning
from lensmith_gateway.report.pictures import Seen
from lensmith_gateway.report.sources import Material

__all__ = ["compose"]

_READABLE = 16
"""Most concepts of a matrix that anybody reads."""
_PAIRS = 8
_FEW_CONCEPTS = 10
"""Up to so many, being among the five likeliest means little."""
# Name in the evaluation, name in the trade, what it means.
_PARTS = (
    ("accuracy", "accuracy", "of all pictures, so many got the right answer"),
    ("top5_accuracy", "top-5 accuracy", "the right answer was among its five likeliest"),
    ("macro_precision", "precision", "when it names something, it is right so often; the mean over all things"),
    ("macro_recall", "recall", "of what is there, it finds so much; the mean over all things"),
    ("macro_f1", "F1", "precision and recall in one figure; the lower of the two pulls it down"),
    ("macro_roc_auc", "ROC AUC", "it ranks a picture that shows the thing above one that does not so often"),
    ("macro_average_precision", "average precision", "how clean the top of its ranking is; the mean over all things"),
    ("r2", "R²", "of the differences between the pictures' numbers it explains so much"),
)
_NUMBERS = (
    ("mean_absolute_error", "mean error", "its answers are off by so much on average"),
    ("median_absolute_error", "median error", "half of its answers are off by less"),
    ("root_mean_squared_error", "root mean squared error", "as the mean error, but large mistakes weigh more"),
)


def compose(material: Material) -> Report:
    """Say what there is to say about a version."""
    card = material.card
    version, model = card.model_version, card.model
    names = dict(zip(version.concepts, card.display_names, strict=False))
    shown = tuple(names.get(concept) or concept for concept in version.concepts)
    evaluation = material.evaluation
    return Report(
        name=version.name,
        title=model.display_name or version.name.split("/")[3],
        description=model.description,
        type=words.TYPES.get(model.type, "multi-class"),
        what=words.what_it_is(model.type or ModelType.MODEL_TYPE_MULTI_CLASS, shown, version.input_count),
        version=version.number,
        production=version.production,
        created=version.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M UTC"),
        verdict=_verdict(model.type, evaluation),
        method=_method(evaluation),
        figures=tuple(_figures(evaluation)) if evaluation else (),
        concepts=tuple(_concepts(evaluation, names)) if evaluation else (),
        confusion=_confusion(evaluation, version.concepts, names) if evaluation else None,
        calibration=_calibration(evaluation) if evaluation else None,
        residuals=tuple(Residual(one.low, one.high, one.count) for one in evaluation.residuals) if evaluation else (),
        learning=learning(material.learning_curve, names) if material.learning_curve else None,
        advice=tuple(advice(groups(material.suggestions, names), version.findings, material.pictures)),
        wrong=tuple(_example(one, names, material.pictures) for one in material.wrong),
        right=tuple(_example(one, names, material.pictures) for one in material.right),
        cautions=tuple(card.cautions),
        facts=_facts(material),
        licence=card.base_model.licence,
        notes=tuple(material.notes),
    )


def _range(intervals: Mapping[str, Interval], key: str) -> Range | None:
    return Range(intervals[key].low, intervals[key].high) if key in intervals else None


def _verdict(kind: int, evaluation: Evaluation | None) -> Verdict:
    if evaluation is None:
        return Verdict(
            "unknown",
            "Nobody has examined it here",
            ("It came trained: try it on pictures of your own before you rely on it.",),
        )
    if kind == ModelType.MODEL_TYPE_REGRESSION:
        median = evaluation.median_absolute_error if evaluation.HasField("median_absolute_error") else None
        explained = evaluation.r2 if evaluation.HasField("r2") else None
        return words.number_verdict(evaluation.mean_absolute_error, median, explained)
    if kind == ModelType.MODEL_TYPE_MULTI_LABEL:
        return words.several_verdict(evaluation.micro_precision, evaluation.micro_recall, evaluation.macro_f1)
    base = max((one.positives for one in evaluation.concepts), default=0) / max(1, evaluation.input_count)
    interval = _range(evaluation.intervals, "accuracy")
    return words.single_verdict(evaluation.accuracy, interval, base, evaluation.input_count)


def _method(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    return (
        f"It was examined on {evaluation.input_count} pictures, each answered by a model that had not seen it nor a "
        f"copy of it ({evaluation.method})."
    )


def _figures(evaluation: Evaluation) -> Iterable[Figure]:
    given = {field.name for field, _ in evaluation.ListFields()}
    few = len(evaluation.concepts) <= _FEW_CONCEPTS
    for key, label, meaning in _PARTS:
        if key not in given or (key == "top5_accuracy" and few):
            continue
        value = float(getattr(evaluation, key))
        text = words.percent(value) if key != "r2" else f"{value:.2f}"
        yield Figure(key, label, value, text, meaning, _range(evaluation.intervals, key))
    for key, label, meaning in _NUMBERS:
        if key in given:
            value = float(getattr(evaluation, key))
            yield Figure(key, label, value, f"{value:.3g}", meaning, _range(evaluation.intervals, key))


def _concepts(evaluation: Evaluation, names: Mapping[str, str]) -> Iterable[ConceptRow]:
    for one in evaluation.concepts:
        name = names.get(one.concept) or one.concept
        yield ConceptRow(
            concept=one.concept,
            display_name=name,
            pictures=one.positives,
            precision=one.precision,
            recall=one.recall,
            f1=one.f1,
            threshold=one.threshold,
            right_words=words.right_words(name, one.precision),
            found_words=words.found_words(name, one.recall, one.positives),
            precision_interval=_range(one.intervals, "precision"),
            recall_interval=_range(one.intervals, "recall"),
            average_precision=one.average_precision if one.HasField("average_precision") else None,
        )


def _confusion(evaluation: Evaluation, concepts: Iterable[str], names: Mapping[str, str]) -> Confusion | None:
    if not evaluation.confusion:
        return None
    counts = {(cell.actual, cell.predicted): cell.count for cell in evaluation.confusion}
    # Of very many concepts only the highest cells are told, whose sum is less than there are pictures.
    totals = {one.concept: one.positives for one in evaluation.concepts}
    mistakes = sorted(((count, pair) for pair, count in counts.items() if pair[0] != pair[1]), key=lambda one: -one[0])
    pairs = tuple(
        ConfusionPair(names.get(actual) or actual, names.get(predicted) or predicted, count, totals.get(actual, count))
        for count, (actual, predicted) in mistakes[:_PAIRS]
    )
    order = list(concepts)
    if len(order) > _READABLE:
        return Confusion((), (), pairs)
    rows = tuple(tuple(counts.get((actual, predicted), 0) for predicted in order) for actual in order)
    return Confusion(tuple(names.get(concept) or concept for concept in order), rows, pairs)


def _calibration(evaluation: Evaluation) -> Calibration | None:
    if not evaluation.HasField("expected_calibration_error"):
        return None
    error = evaluation.expected_calibration_error
    bins = tuple(
        CalibrationBin(one.low, one.high, one.count, one.confidence, one.accuracy)
        for one in evaluation.calibration
        if one.count
    )
    # Of so many answers, the part that is right lies so far from its chance; 0.8: a normal deviation in the mean.
    total = sum(one.count for one in bins)
    by_chance = sum(0.8 * math.sqrt(one.count * one.confidence * (1 - one.confidence)) for one in bins) / max(total, 1)
    return Calibration(error, words.calibration_words(error, by_chance), bins)


def _example(one: EvaluatedInput, names: Mapping[str, str], pictures: Mapping[str, Seen]) -> Example:
    seen = pictures.get(one.input, Seen())
    actual = tuple(names.get(concept) or concept for concept in one.actual_concepts)
    predicted = tuple(names.get(concept) or concept for concept in one.predicted_concepts)
    numbers = one.HasField("actual_number")
    return Example(
        input=seen.name or one.input,
        correct=one.correct,
        actual=actual,
        predicted=predicted,
        confidence=one.confidence,
        sentence=_sentence(one, actual, predicted),
        actual_number=one.actual_number if numbers else None,
        predicted_number=one.predicted_number if numbers else None,
        file=seen.file,
        picture=seen.picture.uri if seen.picture else "",
        heat_map=seen.heat_map.uri if seen.heat_map else "",
    )


def _sentence(one: EvaluatedInput, actual: tuple[str, ...], predicted: tuple[str, ...]) -> str:
    if one.HasField("actual_number"):
        return f"It is {one.actual_number:.3g}; the model said {one.predicted_number:.3g}"
    said = ", ".join(predicted) or "none of them"
    if one.correct:
        return said
    return f"Labelled {', '.join(actual) or 'none of them'}; the model said {said}"


def _facts(material: Material) -> dict[str, str]:
    """What a version is, for whoever must train it again or answer for it."""
    card = material.card
    version, model, base = card.model_version, card.model, card.base_model
    own_id, own = base.name.removeprefix("baseModels/"), version.network_space
    took = version.end_time.ToDatetime() - version.start_time.ToDatetime()
    facts = {
        "version": version.name,
        "model type": words.TYPES.get(model.type, ""),
        "trained" if version.input_count else "installed": (
            f"{version.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC" if version.HasField("create_time") else ""
        ),
        "training took": f"{took.total_seconds():.1f} s" if version.HasField("start_time") else "",
        "pictures": str(version.input_count) if version.input_count else "",
        "data (SHA-256)": version.dataset_sha256,
        "base network": f"{base.display_name or own_id} ({own_id}, version {base.version})" if own_id else "",
        "space": version.space,
        "network of its own": f"fine-tuned from it, {version.network_size_bytes / 1e6:.1f} MB" if own else "",
        "space of that network": own,
        "licence of the base network": base.licence,
        "source of the base network": base.source,
        "kind of head": HeadTier.Name(version.tier).removeprefix("HEAD_TIER_").lower() if version.tier else "",
        "note": version.note,
    }
    return {name: value for name, value in facts.items() if value}
