"""How figures of versions are shown to people."""

from collections.abc import Mapping, Sequence

from lensmith.cli.output import console, counted, print_table, safe
from lensmith.evaluation_types import (
    ChangedInput,
    ComparisonVerdict,
    EvaluatedInput,
    Interval,
    LearningCurve,
    LearningCurvePoint,
    VersionComparison,
)
from lensmith.types import ConceptEvaluation, Evaluation

FEW_CONCEPTS = 10
MOST_CONFUSED = 5
MOST_CONCEPTS = 20
READABLE = 60
FIGURES = {"accuracy": "accuracy", "macro_f1": "mean F1", "mean_absolute_error": "mean absolute error"}


def print_evaluation(evaluation: Evaluation) -> None:
    """Shows an evaluation: the figures over all, each concept, and what is confused."""
    figures = [
        ("accuracy", evaluation.accuracy, "accuracy"),
        (
            "top-5 accuracy",
            evaluation.top5_accuracy if len(evaluation.concepts) > FEW_CONCEPTS else None,
            "top5_accuracy",
        ),
        ("mean F1", evaluation.macro_f1, "macro_f1"),
        ("mean precision", evaluation.macro_precision, "macro_precision"),
        ("mean recall", evaluation.macro_recall, "macro_recall"),
        ("mean ROC-AUC", evaluation.macro_roc_auc, ""),
        ("mean average precision", evaluation.macro_average_precision, ""),
        ("calibration error", evaluation.expected_calibration_error, ""),
        ("R²", evaluation.r2, "r2"),
        ("mean absolute error", evaluation.mean_absolute_error, "mean_absolute_error"),
        ("median absolute error", evaluation.median_absolute_error, ""),
        ("root mean squared error", evaluation.root_mean_squared_error, "root_mean_squared_error"),
    ]
    title = (
        f"tested on {counted(evaluation.input_count, 'picture')} by models that had not seen them ({evaluation.method})"
    )
    rows = [(name, value, ranged(evaluation.intervals.get(key))) for name, value, key in figures if value is not None]
    print_table(title, ["", "#", "95 %"] if evaluation.intervals else ["", "#", ""], rows)
    if evaluation.concepts:
        concepts = evaluation.concepts
        heading = "at other thresholds than those of the training" if evaluation.other_thresholds else ""
        if len(concepts) > READABLE:
            concepts = tuple(sorted(concepts, key=lambda one: one.f1)[:MOST_CONCEPTS])
            heading = (
                f"{heading}\n".lstrip() + f"the {MOST_CONCEPTS} concepts of {len(evaluation.concepts)} it tells worst"
            )
        table = [
            (c.concept, c.positives, _precision(c), c.recall, c.f1, ranged(c.intervals.get("f1")), c.threshold)
            for c in concepts
        ]
        columns = ["concept", "#pictures", "#precision", "#recall", "#F1", "F1 95 %", "#threshold"]
        print_table(heading, columns, table)
    confused = sorted((c for c in evaluation.confusion if c.actual != c.predicted), key=lambda c: -c.count)
    if confused:
        cells = [(cell.actual, cell.predicted, cell.count) for cell in confused[:MOST_CONFUSED]]
        print_table("most confused", ["is", "taken for", "#pictures"], cells)


def _precision(concept: ConceptEvaluation) -> float | None:
    """Which part of what is marked is right; None where nothing is marked, which the mean leaves out, too."""
    unknown = not concept.precision and concept.intervals and "precision" not in concept.intervals
    return None if unknown else concept.precision


def ranged(interval: Interval | None) -> str:
    """An interval in one cell."""
    return "" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"


def print_evaluated_inputs(inputs: Sequence[EvaluatedInput], files: Mapping[str, str]) -> None:
    """Shows what was answered about single inputs, with the names of their files by input."""
    if any(one.actual_number is not None for one in inputs):
        rows = [(one.input, files[one.input], actual(one), predicted(one), f"{one.confidence:.3g}") for one in inputs]
        print_table("furthest off first", ["!input", "file", "#is", "#answer", "#off by"], rows)
        return
    told = [(one.input, files[one.input], actual(one), predicted(one), one.confidence) for one in inputs]
    columns = ["!input", "file", "is", "taken for", "#confidence"]
    print_table("answered wrongly, the surest first", columns, told)


def actual(one: EvaluatedInput) -> str:
    """What an input shows, in one cell."""
    if one.actual_number is not None:
        return f"{one.actual_number:g}"
    return ", ".join(one.actual_concepts) or "none"


def predicted(one: EvaluatedInput) -> str:
    """What was answered about an input, in one cell."""
    if one.predicted_number is not None:
        return f"{one.predicted_number:g}"
    return ", ".join(one.predicted_concepts) or "none"


def print_comparison(compared: VersionComparison) -> None:
    """Shows two versions side by side, and what that says in plain words."""
    title = f"on the {counted(compared.input_count, 'picture')} that both were tested on"
    columns = ["", f"#version {compared.version}", f"#version {compared.other_version}", "#change", "95 %"]
    change = compared.other_value - compared.value
    row = (FIGURES[compared.figure], compared.value, compared.other_value, f"{change:+.3f}")
    print_table(title, columns, [(*row, signed(compared.difference_interval))])
    other = compared.other_version
    words = {
        ComparisonVerdict.BETTER: f"version {other} is better, and chance alone would hardly show that",
        ComparisonVerdict.WORSE: f"version {other} is worse, and chance alone would hardly show that",
        ComparisonVerdict.UNDECIDED: "the difference may be chance: more pictures would tell",
    }
    fixed, broken = compared.fixed_count, compared.broken_count
    said = words[compared.verdict] if fixed or broken or change else "both do equally well on each of these pictures"
    console.print(f"{said} (p = {compared.p_value:.3g})")
    console.print(f"{counted(fixed, 'picture')} fixed, {counted(broken, 'picture')} broken")
    changed = [row for row in compared.concepts if row.f1 != row.other_f1][:MOST_CONCEPTS]
    rows = [(c.concept, c.positives, c.f1, c.other_f1, signed(c.difference_interval)) for c in changed]
    if rows:
        print_table(
            "concepts that changed most",
            ["concept", "#pictures", f"#F1 {compared.version}", f"#F1 {other}", "change 95 %"],
            rows,
        )


def signed(interval: Interval | None) -> str:
    """The interval of a difference in one cell."""
    return "" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"


def print_changed_inputs(inputs: Sequence[ChangedInput], files: Mapping[str, str]) -> None:
    """Shows inputs that two versions answer differently, with the names of their files by input."""
    rows = [
        (
            one.change,
            one.other.input,
            files[one.other.input],
            actual(one.other),
            predicted(one.first),
            predicted(one.other),
        )
        for one in inputs
    ]
    print_table("changed", ["change", "!input", "file", "is", "was taken for", "is taken for"], rows)


def print_learning_curve(curve: LearningCurve) -> None:
    """Shows what more images would bring."""
    if curve.error is not None:
        console.print(safe(str(curve.error)), style="red")
        return
    print_table(
        f"{FIGURES.get(curve.figure, curve.figure)} with so many images to learn from",
        ["#images", "#", "range", ""],
        [*_rows(curve.points, "measured"), *_rows(curve.expected, "expected")],
    )
    rows = []
    for concept in curve.concepts[:MOST_CONCEPTS]:
        if not concept.points:
            continue
        now, twice = concept.points[-1], concept.expected[0] if concept.expected else None
        rows.append(
            (
                concept.concept,
                now.images,
                now.value,
                twice.value if twice else None,
                ranged(twice.range if twice else None),
            )
        )
    if rows:
        print_table(
            "where more images help most",
            ["concept", "#images", "#F1 now", "#F1 with twice as many", "range"],
            rows,
        )


def _rows(points: Sequence[LearningCurvePoint], how: str) -> list[tuple[object, ...]]:
    return [(point.images, point.value, ranged(point.range), how) for point in points]
