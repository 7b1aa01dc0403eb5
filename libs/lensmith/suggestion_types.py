"""What the SDK says of suggestions: what to fix in the data of a model, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from lensmith.errors import LensmithError


class SuggestionKind(StrEnum):
    """What a suggestion is about."""

    WRONG_LABEL = "wrong-label"
    CONFUSED_CONCEPTS = "confused-concepts"
    FEW_IMAGES = "few-images"
    DUPLICATE = "duplicate"
    OUTLIER = "outlier"
    LABEL_NEXT = "label-next"


class SuggestionState(StrEnum):
    """What became of a suggestion; `stale`: the picture or its labels changed before anybody decided."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DISMISSED = "dismissed"
    STALE = "stale"


class SuggestionAction(StrEnum):
    """What to do about a suggestion: what it says, take the labels in doubt away, or leave everything as it is.

    `merge-concepts` makes two confused concepts one, see `merge`.
    """

    APPLY = "apply"
    REMOVE_LABELS = "remove-labels"
    DISMISS = "dismiss"
    MERGE_CONCEPTS = "merge-concepts"


@dataclass(frozen=True)
class InputToLabel:
    """A picture without a label that somebody should look at.

    Attributes:
        input: Its own id.
        concept: What the version takes it for.
        value: Whether it shows that, or the number.
        score: How likely that is, 0 to 1.
    """

    input: str
    concept: str
    value: bool | float
    score: float


@dataclass(frozen=True)
class Suggestion:
    """Something to fix in the data of a version, or to add to it.

    Attributes:
        number: 1, 2, 3 and so on within the version, the most useful of each kind first.
        score: How sure it is, or how much it would help, 0 to 1; to be compared within one kind.
        other_concept: The suggested concept, or the one that it is confused with; empty: none.
        input: Own id of the picture whose labels would change; empty: none would.
        related_inputs: Own ids of other pictures to look at.
        current: The labels in doubt, as the version saw them: whether it shows a concept, or the number.
        desired: What they become when it is applied.
        actions: What may be done about it.
        actor: Who decided; empty: nobody yet.
        inputs_to_label: Pictures without a label that come on the list of what to label next when it is applied.
        few_negatives: Of `few-images`: what is too few are the pictures labelled as not showing the concept.
    """

    name: str
    number: int
    kind: SuggestionKind
    message: str
    score: float
    concept: str
    other_concept: str
    input: str
    related_inputs: tuple[str, ...]
    current: Mapping[str, bool | float]
    desired: Mapping[str, bool | float]
    actions: tuple[SuggestionAction, ...]
    state: SuggestionState
    actor: str
    decided_at: datetime | None
    inputs_to_label: tuple[InputToLabel, ...] = ()
    few_negatives: bool = False


@dataclass(frozen=True)
class SuggestionCount:
    """How many suggestions of a kind a version has, and how many of them nobody has decided on yet."""

    kind: SuggestionKind
    open: int
    total: int


@dataclass(frozen=True)
class SuggestionOverview:
    """What a version suggests; `pending`: its data is still being looked through."""

    pending: bool
    counts: tuple[SuggestionCount, ...]


@dataclass(frozen=True)
class DecidedSuggestion:
    """What became of one suggestion.

    Attributes:
        error: Why nothing was done about it.
        label_next: Numbers of the suggestions of what to label next about the pictures that it asks for.
        action: What was to be done about it: as asked, or labels removed where, of all wrong labels, it is not sure
            enough; None of a platform that does not tell.
    """

    name: str
    state: SuggestionState | None
    error: LensmithError | None
    label_next: tuple[int, ...] = ()
    action: SuggestionAction | None = None
