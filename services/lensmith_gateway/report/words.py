"""Figures in words that anybody understands."""

from __future__ import annotations

from lensmith_gateway.report.content import Range, Verdict

__all__ = [
    "TYPES",
    "calibration_words",
    "found_words",
    "number_verdict",
    "of_hundred",
    "percent",
    "right_words",
    "share",
    "several_verdict",
    "single_verdict",
    "what_it_is",
]

TYPES = {1: "multi-class", 2: "multi-label", 3: "regression"}
_FEW = 30
_LEVELS = ((0.8, "dependable"), (0.5, "useful"), (0.2, "beginning"))
_LEVEL_WORDS = {
    "dependable": "That is far better than guessing: a model to rely on, as long as somebody keeps an eye on it.",
    "useful": "That is much better than guessing: useful where a mistake costs little or somebody looks again.",
    "beginning": "That is better than guessing, but not by much: a beginning, not yet to be relied on.",
    "guessing": "That is hardly better than guessing: it has not learnt what you mean yet.",
}
_WELL_CALIBRATED = 0.05


def percent(value: float) -> str:
    """`84 %`, with a digit more where two would say 0 or 100."""
    rounded = round(100 * value)
    if 0.9995 <= value < 1:
        return "over 99.9 %"
    exact = 0 < value < 0.01 or 0.99 < value < 1
    return f"{100 * value:.1f} %" if exact else f"{rounded} %"


def of_hundred(value: float) -> str:
    """`84 of 100`, but never all or none where that is not so."""
    rounded = round(100 * value)
    if rounded == 100 and value < 1:
        return "over 99 of 100"
    if rounded == 0 and value > 0:
        return "fewer than 1 of 100"
    return f"{rounded} of 100"


def share(value: float, of: int) -> str:
    """A part of so many: of few as a count, of many as so many of 100."""
    return f"{round(value * of)} of {of}" if of < _FEW else of_hundred(value)


def right_words(name: str, precision: float) -> str:
    """What the precision of a concept means."""
    if not precision:
        return f"it never says {name} rightly"
    return f"of 100 pictures it calls {name}, {_number(precision)} are"


def found_words(name: str, recall: float, pictures: int) -> str:
    """What the recall of a concept means."""
    if not pictures:
        return f"no picture showed {name}"
    return f"it finds {share(recall, pictures)} pictures of {name}"


def what_it_is(kind: int, names: tuple[str, ...], count: int) -> str:
    """What the model does, in a sentence."""
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    learnt = f"It learnt that from {count} pictures." if count else "It came trained."
    if kind == 1:
        return f"It looks at a picture and says which one of {len(names)} things it shows: {shown}. {learnt}"
    if kind == 2:
        return f"It looks at a picture and says which of {len(names)} things it shows, none or many: {shown}. {learnt}"
    return f"It looks at a picture and answers with a number: {shown}. {learnt}"


def single_verdict(accuracy: float, interval: Range | None, base: float, examined: int) -> Verdict:
    """Sum up a model that says which one of several things a picture shows.

    Args:
        accuracy: part answered right.
        interval: where the figure may lie.
        base: part that is right when the most frequent concept is always said.
        examined: pictures.
    """
    level = _level((accuracy - base) / (1 - base) if base < 1 else 0.0)
    sentences = [_LEVEL_WORDS[level]]
    if interval is not None:
        low, high = round(100 * interval.low), round(100 * interval.high)
        between = f"could have come out between {low} and {high}" if low < high else "would have come out much the same"
        sentences.append(f"With other pictures of the same kind, it {between}.")
    sentences.append(f"Always saying the most frequent thing would be right on {of_hundred(base)}.")
    return Verdict(level, f"Right on {share(accuracy, examined)} pictures", tuple(sentences))


def several_verdict(precision: float, recall: float, f1: float) -> Verdict:
    """Sum up a model that names any number of things."""
    level = _level(f1)
    named = f"Of 100 things it names, {_number(precision)} are there"
    return Verdict(level, f"{named}; of 100 that are there it finds {_number(recall)}", (_LEVEL_WORDS[level],))


def number_verdict(error: float, median: float | None, explained: float | None) -> Verdict:
    """Sum up a model that answers with a number.

    Args:
        error: mean absolute error.
        median: what half of the answers are off by less than.
        explained: coefficient of determination.
    """
    level = _level(explained or 0.0)
    sentences = [_LEVEL_WORDS[level]]
    if explained is not None:
        why = (
            "no better than always saying the average"
            if explained <= 0
            else f"explains {percent(explained)} of these differences"
        )
        sentences.append(f"The pictures' numbers differ from each other; the model {why}.")
    half = f"; half of its answers are off by less than {median:.3g}" if median is not None else ""
    return Verdict(level, f"Off by {error:.3g} on average{half}", tuple(sentences))


def calibration_words(error: float, by_chance: float) -> str:
    """What the calibration error means.

    Args:
        error: as it was measured.
        by_chance: what a perfectly calibrated model would have shown on as many pictures.
    """
    points = round(100 * error)
    if error <= _WELL_CALIBRATED:
        off = "1 point" if points == 1 else f"{points or 'less than 1'} points"
        return f"Scores can be read as chances: they are off by {off} of 100 on average."
    if by_chance > error / 2:
        return (
            f"Scores came out off by {points} points of 100 on average, but on so few pictures chance alone would "
            f"make it about {round(100 * by_chance)}: more pictures would tell how far to believe them."
        )
    return f"Scores are off by {points} points of 100 on average: do not read them as exact chances."


def _level(gain: float) -> str:
    return next((name for least, name in _LEVELS if gain >= least), "guessing")


def _number(value: float) -> str:
    return of_hundred(value).removesuffix(" of 100")
