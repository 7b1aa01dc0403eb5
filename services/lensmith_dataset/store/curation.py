"""What makes an app's data better: pictures to label next, and labels changed only if they are as somebody saw them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from lensmith_dataset.store import inputs, labels
from lensmith_dataset.store.labels import Label
from lensmith_dataset.store.training_data import TrainingState
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import ConflictError, LensmithError, NotFoundError

__all__ = ["Copied", "Swap", "copy_labels", "swap", "unlabelled_ids", "vectors"]


@dataclass(frozen=True, slots=True)
class Swap:
    """A change of the labels of one input.

    Attributes:
        uid: of the input.
        concepts: own ids of the concepts that it is about.
        expected: the labels of these that the input must have, by own id.
        desired: the labels of these that it gets.
    """

    uid: str
    concepts: Sequence[str]
    expected: Mapping[str, Label]
    desired: Mapping[str, Label]


@dataclass(frozen=True, slots=True)
class Copied:
    """What one step of copying labels did.

    Attributes:
        count: inputs that were labelled.
        more: whether there may be more.
        last: id of the last input that was looked at; of the one to go on after where there was none.
    """

    count: int
    more: bool
    last: int


async def unlabelled_ids(
    connection: Connection, app_id: int, space: str, concepts: Sequence[str], start: UUID, limit: int
) -> list[int]:
    """Choose inputs with a vector and no label of some concepts, not kept for testing: the first ones from a uid on.

    uids are random, so the ones after a random uid are a random sample, found by the index without a look at the rest.
    """
    found: list[int] = []
    for condition in (">=", "<"):
        rows = await connection.fetch(
            f"""
            SELECT input.id FROM inputs AS input
            WHERE input.app_id = $1 AND input.uid {condition} $4 AND NOT input.test
              AND EXISTS (SELECT FROM embeddings AS vector
                          WHERE vector.app_id = $1 AND vector.space = $2 AND vector.input_id = input.id)
              AND NOT EXISTS (SELECT FROM annotations AS label
                              JOIN concepts AS concept ON concept.app_id = $1 AND concept.id = label.concept_id
                              WHERE label.app_id = $1 AND label.input_id = input.id AND concept.own_id = ANY($3))
            ORDER BY input.uid LIMIT $5
            """,
            app_id,
            space,
            concepts,
            start,
            limit - len(found),
        )
        found += [row["id"] for row in rows]
        if len(found) >= limit:
            break
    return found


async def vectors(connection: Connection, app_id: int, space: str, ids: Sequence[int]) -> list[TrainingState]:
    """Return inputs with their vectors and without labels; those without a vector are left out."""
    rows = await connection.fetch(
        """
        SELECT input.uid, input.sha256, input.test, vector.vector FROM inputs AS input
        JOIN embeddings AS vector ON vector.app_id = $1 AND vector.space = $3 AND vector.input_id = input.id
        WHERE input.app_id = $1 AND input.id = ANY($2::bigint[]) ORDER BY input.uid
        """,
        app_id,
        ids,
        space,
    )
    return [TrainingState(row["uid"], False, row["sha256"], row["test"], row["vector"], ()) for row in rows]


async def swap(connection: Connection, app_id: int, swaps: Sequence[Swap], actor: str) -> list[LensmithError | None]:
    """Change the labels of inputs that still have the expected ones; return for each None, or why it was not done.

    One that has the desired labels already is done: repeating a call changes nothing.
    """
    concepts = await labels.hold_concepts(connection, app_id, {name for one in swaps for name in one.concepts})
    found = await inputs.lock(connection, app_id, list({one.uid for one in swaps}))
    present = await _labels_of(connection, app_id, list(set(found.values())))
    put: dict[tuple[int, int], Label] = {}
    removed: set[tuple[int, int]] = set()
    outcomes: list[LensmithError | None] = []
    for one in swaps:
        input_id = found.get(one.uid)
        if input_id is None:
            outcomes.append(_gone(one.uid))
            continue
        known = present.setdefault(input_id, {})
        have = {name: known[name] for name in one.concepts if name in known}
        if have == one.desired:
            outcomes.append(None)
        elif have != one.expected or not one.desired.keys() <= concepts.keys():
            outcomes.append(_changed(one.uid))
        else:
            outcomes.append(None)
            for name in have.keys() - one.desired.keys():
                removed.add((input_id, concepts[name]))
                put.pop((input_id, concepts[name]), None)
                del known[name]
            for name, label in one.desired.items():
                put[input_id, concepts[name]] = label
                removed.discard((input_id, concepts[name]))
                known[name] = label
    changed = await labels.remove(connection, app_id, removed)
    changed |= await labels.put(connection, app_id, put, actor)
    await change_feed.record(connection, app_id, sorted(changed))
    return outcomes


async def copy_labels(
    connection: Connection, app_id: int, source: str, target: str, actor: str, after: int, limit: int
) -> Copied:
    """Label inputs that show one concept as showing another one too, at most so many, those after an id.

    Whoever goes on where the last step stopped has each label looked at once. What is done already is passed over, so
    that starting anew is right as well.

    Raises:
        NotFoundError: CONCEPT_NOT_FOUND.
    """
    concepts = await labels.hold_concepts(connection, app_id, {source, target})
    for name in (source, target):
        if name not in concepts:
            raise NotFoundError("CONCEPT_NOT_FOUND", f"the app has no concept {name!r}", metadata={"concept": name})
    ids = (concepts[source], concepts[target])
    found = await _shown_alone(connection, app_id, *ids, after, limit)
    locked = sorted((await inputs.lock(connection, app_id, list(found.values()))).values())
    # Once more: somebody may have taken a label away before the lock was had.
    still = await _shown_alone(connection, app_id, *ids, after, limit, locked)
    put = {(input_id, concepts[target]): Label(target, positive=True) for input_id in still}
    changed = await labels.put(connection, app_id, put, actor)
    await change_feed.record(connection, app_id, sorted(changed))
    return Copied(len(changed), len(found) == limit, max(found, default=after))


async def _shown_alone(
    connection: Connection,
    app_id: int,
    source: int,
    target: int,
    after: int,
    limit: int,
    among: Sequence[int] | None = None,
) -> dict[int, str]:
    """Return uids by id of inputs that show one concept and are not said to show another one, the lowest ids first.

    A number that says how much of it they show is not replaced either. Given ids, only these are looked at.
    """
    rows = await connection.fetch(
        """
        SELECT input.uid, input.id FROM annotations AS label
        JOIN inputs AS input ON input.app_id = $1 AND input.id = label.input_id
        WHERE label.app_id = $1 AND label.concept_id = $2 AND label.positive AND label.input_id > $5
          AND ($6::bigint[] IS NULL OR label.input_id = ANY($6))
          AND NOT EXISTS (SELECT FROM annotations AS other
                          WHERE other.app_id = $1 AND other.input_id = label.input_id AND other.concept_id = $3
                            AND (other.positive OR other.number IS NOT NULL))
        ORDER BY label.input_id LIMIT $4
        """,
        app_id,
        source,
        target,
        limit,
        after,
        among,
    )
    return {row["id"]: str(row["uid"]) for row in rows}


async def _labels_of(connection: Connection, app_id: int, ids: Sequence[int]) -> dict[int, dict[str, Label]]:
    rows = await connection.fetch(
        """
        SELECT label.input_id, concept.own_id AS concept, label.positive, label.number
        FROM annotations AS label
        JOIN concepts AS concept ON concept.app_id = label.app_id AND concept.id = label.concept_id
        WHERE label.app_id = $1 AND label.input_id = ANY($2::bigint[])
        """,
        app_id,
        ids,
    )
    found: dict[int, dict[str, Label]] = {}
    for row in rows:
        found.setdefault(row["input_id"], {})[row["concept"]] = Label(row["concept"], row["positive"], row["number"])
    return found


def _gone(uid: str) -> LensmithError:
    return NotFoundError("INPUT_NOT_FOUND", f"the app has no input {uid!r} any more", metadata={"input": uid})


def _changed(uid: str) -> LensmithError:
    return ConflictError(
        "LABELS_CHANGED", "the labels of the input changed meanwhile: nothing was done", metadata={"input": uid}
    )
