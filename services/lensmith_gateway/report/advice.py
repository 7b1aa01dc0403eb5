"""What to fix: suggestions kind by kind with pictures to look at, then what was noticed in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lensmith_api.v1.model_version_pb2 import Finding, FindingSeverity
from lensmith_api.v1.suggestion_pb2 import Suggestion, SuggestionKind, SuggestionState
from lensmith_api.v1.suggestion_service_pb2 import ListSuggestionsResponse
from lensmith_gateway.report.content import Advice, Look
from lensmith_gateway.report.pictures import Seen

__all__ = ["Group", "advice", "groups"]

_LOOKS = 6
_NAMED = 12
_SAID_BY = {"FEW_IMAGES": "FEW_IMAGES", "MORE_IMAGES": "FEW_IMAGES"}
"""Findings that a kind of suggestion says better."""
_SEVERITIES = {
    FindingSeverity.FINDING_SEVERITY_ERROR: "error",
    FindingSeverity.FINDING_SEVERITY_WARNING: "warning",
    FindingSeverity.FINDING_SEVERITY_HINT: "hint",
}
# One of a kind tells of itself; of several, so many are told of together.
_TOGETHER = {
    SuggestionKind.SUGGESTION_KIND_WRONG_LABEL: "{} pictures may have a wrong label, the likeliest first",
    SuggestionKind.SUGGESTION_KIND_DUPLICATE: "{} times copies of one picture contradict each other",
    SuggestionKind.SUGGESTION_KIND_OUTLIER: "{} pictures are unlike the others of their concept",
    SuggestionKind.SUGGESTION_KIND_LABEL_NEXT: "{} pictures without a label would teach it most: label these next",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Open suggestions that are told of together.

    Attributes:
        count: how many there are, those that are not listed here among them.
        looks: inputs to show, each with what is said of it, or the ones to label; empty where there are none.
        negatives: whether it is about what is said not to show concepts, of which findings with its name say nothing.
    """

    kind: SuggestionKind.ValueType
    message: str
    count: int
    looks: tuple[tuple[str, str], ...]
    negatives: bool = False


def groups(listed: ListSuggestionsResponse | None, names: Mapping[str, str]) -> list[Group]:
    """Put the open suggestions together, in the order of the list.

    Args:
        listed: what a version suggests; None: that could not be had.
        names: names for people by own id of the concept.
    """
    if listed is None:
        return []
    by_kind: dict[SuggestionKind.ValueType, list[Suggestion]] = {}
    for one in listed.suggestions:
        if one.state == SuggestionState.SUGGESTION_STATE_OPEN:
            by_kind.setdefault(one.kind, []).append(one)
    totals = {one.kind: one.open for one in listed.counts}
    found: list[Group] = []
    for kind, members in by_kind.items():
        if kind == SuggestionKind.SUGGESTION_KIND_FEW_IMAGES:
            found += _too_few(members, names)
            continue
        together = _TOGETHER.get(kind)
        if together is None:
            found += [Group(kind, one.message, 1, _related(one)) for one in members]
            continue
        count = max(totals.get(kind, 0), len(members))
        looks = tuple((one.input, one.message) for one in members if one.input)[:_LOOKS]
        message = together.format(count) if count > 1 else members[0].message
        found.append(Group(kind, message, count, looks))
    return found


def _too_few(members: Sequence[Suggestion], names: Mapping[str, str]) -> Iterator[Group]:
    """What shows concepts is told of together, and so is what is said not to show them."""
    for negatives, too_few in ((False, "there are too few of"), (True, "too few are labelled as not showing")):
        ours = [one for one in members if one.few_negatives is negatives]
        if not ours:
            continue
        others = [names.get(one.concept) or one.concept for one in ours[1:]]
        shown = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
        message = f"{ours[0].message}; {too_few} {shown} as well" if others else ours[0].message
        yield Group(ours[0].kind, message, len(ours), _worth_labelling(ours, names), negatives)


def _worth_labelling(members: Sequence[Suggestion], names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The first picture that each asks for, then the second ones and so on."""
    looks: dict[str, str] = {}
    for rank in range(_LOOKS):
        for one in members:
            for asked in one.inputs_to_label[rank : rank + 1]:
                concept = names.get(one.concept) or one.concept
                looks.setdefault(asked.input, f"not {concept}?" if one.few_negatives else f"{concept}?")
    return tuple(looks.items())[:_LOOKS]


def _related(one: Suggestion) -> tuple[tuple[str, str], ...]:
    names = [name for name in (one.input, *one.related_inputs) if name]
    return tuple((name, "") for name in names[:_LOOKS])


def advice(found: Sequence[Group], findings: Iterable[Finding], pictures: Mapping[str, Seen]) -> list[Advice]:
    """Say what to fix.

    Args:
        found: of `groups`.
        findings: what was noticed in training.
        pictures: by resource name of the input.
    """
    told = [
        Advice(
            kind=SuggestionKind.Name(group.kind).removeprefix("SUGGESTION_KIND_"),
            severity="warning",
            message=group.message,
            count=group.count,
            looks=tuple(_look(name, sentence, pictures.get(name, Seen())) for name, sentence in group.looks),
        )
        for group in found
    ]
    kinds = {one.kind for one, group in zip(told, found, strict=True) if not group.negatives}
    told += [
        Advice(finding.reason, _SEVERITIES.get(finding.severity, "hint"), finding.message)
        for finding in findings
        if _SAID_BY.get(finding.reason, finding.reason) not in kinds
    ]
    return told


def _look(name: str, sentence: str, seen: Seen) -> Look:
    return Look(seen.name or name, sentence, seen.file, seen.picture.uri if seen.picture else "")
