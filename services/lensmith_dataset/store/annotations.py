"""Annotations: changed for many inputs at once, and listed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from lensmith_dataset.store import inputs, labels
from lensmith_dataset.store.additions import unknown_concepts
from lensmith_dataset.store.labels import Label
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import LensmithError, NotFoundError

Action = Literal["merge", "set", "remove"]


@dataclass(frozen=True, slots=True)
class LabelChange:
    """What to do with the annotations of one input.

    Attributes:
        key: own id or uid of the input.
        action: how the labels join those it has; of `remove` only the concepts count.
    """

    key: str
    action: Action
    labels: Sequence[Label]


@dataclass(frozen=True, slots=True)
class AnnotationRow:
    """An annotation with the names of its input and concept."""

    input_id: int
    input_uid: UUID
    input_own_id: str | None
    concept_id: int
    concept: str
    positive: bool | None
    number: float | None
    actor: str
    updated_at: datetime


Position = tuple[datetime, int, int]
"""Where a page ended: time, input, concept."""

_COLUMNS = """
    input.id AS input_id, input.uid AS input_uid, input.own_id AS input_own_id, label.concept_id,
    concept.own_id AS concept, label.positive, label.number, label.actor, label.updated_at
"""
_TABLES = """
    annotations AS label
    JOIN inputs AS input ON input.app_id = label.app_id AND input.id = label.input_id
    JOIN concepts AS concept ON concept.app_id = label.app_id AND concept.id = label.concept_id
"""


@dataclass(slots=True)
class _Plan:
    """All changes of a call together, folded in their order: what repeats an input builds on what came before."""

    cleared: set[int] = field(default_factory=set)
    put: dict[tuple[int, int], Label] = field(default_factory=dict)
    removed: set[tuple[int, int]] = field(default_factory=set)

    def apply(self, input_id: int, change: LabelChange, concepts: Mapping[str, int]) -> None:
        """Fold one change in."""
        pairs = {(input_id, concepts[label.concept]): label for label in change.labels}
        if change.action == "set":
            self.cleared.add(input_id)
            self.put = {pair: label for pair, label in self.put.items() if pair[0] != input_id}
            self.removed = {pair for pair in self.removed if pair[0] != input_id}
        if change.action == "remove":
            for pair in pairs:
                self.put.pop(pair, None)
            self.removed |= pairs.keys()
        else:
            self.put |= pairs
            self.removed -= pairs.keys()


async def change(
    connection: Connection, app_id: int, changes: Sequence[LabelChange], actor: str
) -> list[LensmithError | None]:
    """Change the annotations of inputs; return for each change None, or why it was not made.

    A change that names an unknown input or concept does nothing; the others are made, all or none of them.
    """
    concepts = await labels.hold_concepts(
        connection, app_id, {label.concept for change in changes for label in change.labels}
    )
    found = await inputs.lock(connection, app_id, list({change.key for change in changes}))
    plan = _Plan()
    outcomes: list[LensmithError | None] = []
    for item in changes:
        error = _refusal(item, found, concepts)
        if error is None:
            plan.apply(found[item.key], item, concepts)
        outcomes.append(error)
    removed = set(plan.removed)
    if plan.cleared:
        present = await labels.present(connection, app_id, plan.cleared)
        removed |= {pair for pair in present if pair not in plan.put}
    changed = await labels.remove(connection, app_id, removed)
    changed |= await labels.put(connection, app_id, plan.put, actor)
    await change_feed.record(connection, app_id, sorted(changed))
    return outcomes


def _refusal(
    change: LabelChange, inputs_found: Mapping[str, int], concepts_found: Collection[str]
) -> LensmithError | None:
    if change.key not in inputs_found:
        return NotFoundError("INPUT_NOT_FOUND", f"the app has no input {change.key!r}", metadata={"input": change.key})
    return unknown_concepts(change.labels, concepts_found)


async def of_inputs(connection: Connection, app_id: int, input_ids: Sequence[int]) -> dict[int, list[AnnotationRow]]:
    """Return the annotations of inputs, in order of the concepts' own ids."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM {_TABLES} WHERE label.app_id = $1 AND label.input_id = ANY($2::bigint[])
        ORDER BY concept.own_id
        """,
        app_id,
        input_ids,
    )
    found: dict[int, list[AnnotationRow]] = {}
    for row in rows:
        found.setdefault(row["input_id"], []).append(AnnotationRow(**row))
    return found


async def list_page(
    connection: Connection,
    app_id: int,
    *,
    before: Position | None,
    limit: int,
    concept: str | None = None,
    key: str | None = None,
) -> list[AnnotationRow]:
    """Return annotations, the ones changed last first.

    Args:
        connection: a transaction bound to the app.
        app_id: the app.
        before: where the page before ended; None: the first page.
        limit: most annotations to return.
        concept: only of the concept with this own id.
        key: only of the input with this own id or uid.
    """
    conditions = ["label.app_id = $1"]
    arguments: list[object] = [app_id, limit]

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    if before is not None:
        place = ", ".join(given(part) for part in before)
        conditions.append(f"(label.updated_at, label.input_id, label.concept_id) < ({place})")
    if concept is not None:
        conditions.append(
            f"label.concept_id = (SELECT id FROM concepts WHERE app_id = $1 AND own_id = {given(concept)})"
        )
    if key is not None:
        conditions.append(
            "label.input_id = (SELECT id FROM inputs WHERE app_id = $1 "
            f"AND (own_id = {given(key)} OR uid = {given(inputs.as_uid(key))}))"
        )
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM {_TABLES} WHERE {" AND ".join(conditions)}
        ORDER BY label.updated_at DESC, label.input_id DESC, label.concept_id DESC LIMIT $2
        """,
        *arguments,
    )
    return [AnnotationRow(**row) for row in rows]
