"""What more pictures would bring, in words and as a chart."""

from __future__ import annotations

from collections.abc import Mapping

from lensmith_api.v1.evaluation_pb2 import ConceptLearningCurve, LearningCurve, LearningCurvePoint
from lensmith_gateway.report.content import CurvePoint, Learning, Range

__all__ = ["learning"]

_MOST_HELPED = 5
_WORTH_TELLING = 0.02


def learning(curve: LearningCurve, names: Mapping[str, str]) -> Learning:
    """Say what a learning curve shows.

    Args:
        curve: one that is READY.
        names: names for people by own id of the concept.
    """
    points = (
        *(_point(one, expected=False) for one in curve.points),
        *(_point(one, expected=True) for one in curve.expected),
    )
    highest = max((point.interval.high for point in points), default=1.0)
    return Learning(
        figure=curve.figure,
        words=_words(curve),
        points=points,
        helped=tuple(_helped(one, names) for one in curve.concepts if _gain(one) >= _WORTH_TELLING)[:_MOST_HELPED],
        top=highest or 1.0 if curve.figure == "mean_absolute_error" else 1.0,
    )


def _point(one: LearningCurvePoint, *, expected: bool) -> CurvePoint:
    spread = Range(one.range.low, one.range.high) if one.HasField("range") else Range(one.value, one.value)
    return CurvePoint(one.images, one.value, spread, expected)


def _words(curve: LearningCurve) -> str:
    if not (curve.points and curve.expected):
        return "There are too few pictures to say what more of them would bring."
    # Where it stands now is told by the evaluation, on more pictures than any draw of the curve was judged on.
    now, then = curve.points[-1], curve.expected[0]
    if curve.figure == "mean_absolute_error":
        better = 1 - then.value / now.value if now.value else 0.0
        return f"With {then.images} pictures, its errors are expected to be {_points(better)} smaller."
    told = "right answers" if curve.figure == "accuracy" else "points of F1"
    return f"With {then.images} pictures, about {_points(then.value - now.value)} more {told} are expected."


def _points(gain: float) -> str:
    return f"{max(0, round(100 * gain))} of 100"


def _gain(one: ConceptLearningCurve) -> float:
    return one.expected[0].value - one.points[-1].value if one.points and one.expected else 0.0


def _helped(one: ConceptLearningCurve, names: Mapping[str, str]) -> str:
    name = names.get(one.concept) or one.concept
    return f"{name}: with {one.expected[0].images} pictures about {_points(_gain(one))} better"
