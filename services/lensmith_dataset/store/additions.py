"""Adding inputs: one short transaction for a group of items, in which each is added, found again, or refused alone."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from lensmith_dataset.store import blobs, inputs, labels
from lensmith_dataset.store.labels import Label
from lensmith_platform import change_feed
from lensmith_platform.db.unit_of_work import Connection
from lensmith_platform.errors import AlreadyExistsError, LensmithError, NotFoundError


@dataclass(frozen=True, slots=True)
class NewInput:
    """An input whose bytes are checked and stored.

    Attributes:
        position: its place in the request.
        uid: uid it gets if it becomes a new input.
        own_id: id that the user wants; None: the uid.
        sha256: hash of its bytes.
        blob_id: number of the reserved blob.
        labels: annotations to make with it.
    """

    position: int
    uid: UUID
    own_id: str | None
    sha256: bytes
    blob_id: int
    test: bool
    metadata: Mapping[str, Any] | None
    source_url: str
    labels: Sequence[Label]


@dataclass(frozen=True, slots=True)
class Added:
    """What an item became: a new input, or with `duplicate` one that the app already had."""

    input_id: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Addition:
    """The outcome of a group.

    Attributes:
        results: by position; a position that is missing must be tried again, its bytes were purged meanwhile.
        waiting_uids: uids of the inputs that wait to be embedded: the new ones, and failed ones that were added again.
    """

    results: Mapping[int, Added | LensmithError]
    waiting_uids: Sequence[UUID]


@dataclass(slots=True)
class _Group:
    """A group on its way through the transaction; items leave `waiting` with a result."""

    waiting: dict[int, NewInput]
    results: dict[int, Added | LensmithError] = field(default_factory=dict)
    waiting_uids: list[UUID] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)

    def refuse(self, position: int, error: LensmithError) -> None:
        """Give an item up."""
        self.results[position] = error
        del self.waiting[position]

    def settle(self, position: int, input_id: int, *, duplicate: bool) -> NewInput:
        """Say which input an item became."""
        self.results[position] = Added(input_id, duplicate)
        return self.waiting.pop(position)


async def recall(
    connection: Connection, app_id: int, request_id: str, sha256s: Mapping[int, bytes | None]
) -> dict[int, Added | LensmithError]:
    """Return what the items of a repeated request became before, by position.

    Args:
        connection: a transaction bound to the app.
        app_id: the app.
        request_id: the caller's name for the attempt.
        sha256s: the hash of each item by position; None where the bytes are not known yet (a URL).
    """
    rows = await connection.fetch(
        """
        SELECT request.position, request.sha256, request.input_id, request.duplicate, input.id IS NULL AS gone
        FROM requests AS request
        LEFT JOIN inputs AS input ON input.app_id = request.app_id AND input.id = request.input_id
        WHERE request.app_id = $1 AND request.request_id = $2 AND request.position = ANY($3::int[])
        """,
        app_id,
        request_id,
        list(sha256s),
    )
    results: dict[int, Added | LensmithError] = {}
    for row in rows:
        position = row["position"]
        if sha256s[position] not in (None, row["sha256"]):
            results[position] = AlreadyExistsError(
                "REQUEST_ID_REUSED",
                f"request_id {request_id!r} was used before with another picture at place {position}; use a new one",
                metadata={"request_id": request_id},
            )
        elif row["gone"]:
            results[position] = NotFoundError(
                "INPUT_DELETED",
                "This request was answered before, and the input that it added has been deleted since.",
                metadata={"request_id": request_id},
            )
        else:
            results[position] = Added(row["input_id"], row["duplicate"])
    return results


async def add(
    connection: Connection,
    app_id: int,
    items: Sequence[NewInput],
    *,
    allow_duplicate: bool,
    request_id: str,
    actor: str,
) -> Addition:
    """Add a group of inputs with their annotations, and tell the change feed; the caller tells the bus.

    Equal bytes pass the lock of their blob, so two calls that add the same picture at once make one input.
    """
    taken = await blobs.take(connection, app_id, {item.sha256: item.blob_id for item in items})
    group = _Group({item.position: item for item in items if item.sha256 in taken})
    if request_id:
        await _recall(connection, app_id, group, request_id)
    concepts = await _resolve_labels(connection, app_id, group)
    pairs: dict[tuple[int, int], Label] = {}

    def put(input_id: int, item: NewInput) -> None:
        pairs.update({(input_id, concepts[label.concept]): label for label in item.labels})

    answered = set(group.results)
    existing = await _find_existing(connection, app_id, group, allow_duplicate=allow_duplicate)
    for item, input_id in existing:
        put(input_id, item)
    for item, input_id in await _insert(connection, app_id, group, allow_duplicate=allow_duplicate, actor=actor):
        put(input_id, item)
    if existing:
        found = sorted({input_id for _, input_id in existing})
        await _lock_inputs(connection, app_id, found)
        group.waiting_uids += await _revive(connection, app_id, found)
    group.touched |= await labels.put(connection, app_id, pairs, actor)
    if request_id:
        await _remember(connection, app_id, request_id, items, group, answered)
    if group.touched:
        await change_feed.record(connection, app_id, sorted(group.touched))
    # What was taken for an item that was refused must not be kept for ever.
    refused = {item.sha256 for item in items if isinstance(group.results.get(item.position), LensmithError)}
    if refused:
        await blobs.release(connection, app_id, sorted(refused & taken))
    return Addition(group.results, group.waiting_uids)


async def _recall(connection: Connection, app_id: int, group: _Group, request_id: str) -> None:
    known = await recall(
        connection, app_id, request_id, {position: item.sha256 for position, item in group.waiting.items()}
    )
    for position, result in known.items():
        group.results[position] = result
        del group.waiting[position]


async def _resolve_labels(connection: Connection, app_id: int, group: _Group) -> dict[str, int]:
    """Find the concepts of all items; refuse items that name an unknown one."""
    wanted = {label.concept for item in group.waiting.values() for label in item.labels}
    concepts = await labels.hold_concepts(connection, app_id, wanted)
    for position, item in list(group.waiting.items()):
        unknown = unknown_concepts(item.labels, concepts)
        if unknown is not None:
            group.refuse(position, unknown)
    return concepts


def unknown_concepts(wanted: Sequence[Label], known: Collection[str]) -> NotFoundError | None:
    """Return the error that names the concepts which do not exist, or None when all do."""
    missing = list(dict.fromkeys(label.concept for label in wanted if label.concept not in known))
    if not missing:
        return None
    shown = ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
    return NotFoundError(
        "CONCEPT_NOT_FOUND",
        f"the app has no concept {shown}; create it first",
        metadata={"concepts": ",".join(missing[:10])},
    )


async def _find_existing(
    connection: Connection, app_id: int, group: _Group, *, allow_duplicate: bool
) -> list[tuple[NewInput, int]]:
    """Settle items whose own id, or whose bytes, the app already has."""
    by_sha256 = await _by_bytes(connection, app_id, group, allow_duplicate=allow_duplicate)
    own_ids = [item.own_id for item in group.waiting.values() if item.own_id is not None]
    # A round trip for nothing would cost as much as one for thirty.
    rows = (
        []
        if not own_ids
        else await connection.fetch(
            """
        SELECT id, uid, own_id, sha256 FROM inputs
        WHERE app_id = $1 AND (own_id = ANY($2::text[]) OR uid = ANY($3::uuid[]))
        """,
            app_id,
            own_ids,
            [uid for own_id in own_ids if (uid := inputs.as_uid(own_id)) is not None],
        )
    )
    by_own_id = {row["own_id"]: row for row in rows if row["own_id"] is not None}
    uids = {str(row["uid"]) for row in rows}
    found: list[tuple[NewInput, int]] = []
    for position, item in list(group.waiting.items()):
        if item.own_id is None:
            if item.sha256 in by_sha256:
                input_id = by_sha256[item.sha256]
                found.append((group.settle(position, input_id, duplicate=True), input_id))
        elif item.own_id in by_own_id and by_own_id[item.own_id]["sha256"] == item.sha256:
            input_id = by_own_id[item.own_id]["id"]
            found.append((group.settle(position, input_id, duplicate=True), input_id))
        elif item.own_id in by_own_id or item.own_id in uids:
            group.refuse(position, _taken(item.own_id))
    return found


async def _by_bytes(connection: Connection, app_id: int, group: _Group, *, allow_duplicate: bool) -> dict[bytes, int]:
    """The oldest input of each file that items without an own id bring again."""
    sha256s = [item.sha256 for item in group.waiting.values() if item.own_id is None]
    if allow_duplicate or not sha256s:
        return {}
    rows = await connection.fetch(
        """
        SELECT DISTINCT ON (sha256) sha256, id FROM inputs
        WHERE app_id = $1 AND sha256 = ANY($2::bytea[]) ORDER BY sha256, id
        """,
        app_id,
        sha256s,
    )
    return {row["sha256"]: row["id"] for row in rows}


async def _insert(
    connection: Connection, app_id: int, group: _Group, *, allow_duplicate: bool, actor: str
) -> list[tuple[NewInput, int]]:
    """Insert the items that are left, and settle those that repeat another item of the group."""
    firsts, repeats = _split_repeats(group, allow_duplicate=allow_duplicate)
    # In the order of the own ids: two calls that add the same ones wait for each other instead of deadlocking.
    ordered = sorted(firsts, key=lambda item: (item.own_id or "", item.position))
    rows = await connection.fetch(
        """
        INSERT INTO inputs (app_id, uid, own_id, sha256, test, metadata, source_url, actor)
        SELECT $1, uid, own_id, sha256, test, metadata, source_url, $8
        FROM unnest($2::uuid[], $3::text[], $4::bytea[], $5::boolean[], $6::jsonb[], $7::text[])
            AS new (uid, own_id, sha256, test, metadata, source_url)
        ON CONFLICT (app_id, own_id) DO NOTHING
        RETURNING id, uid
        """,
        app_id,
        [item.uid for item in ordered],
        [item.own_id for item in ordered],
        [item.sha256 for item in ordered],
        [item.test for item in ordered],
        [item.metadata for item in ordered],
        [item.source_url for item in ordered],
        actor,
    )
    ids = {row["uid"]: row["id"] for row in rows}
    settled: list[tuple[NewInput, int]] = []
    for item in firsts:
        if item.uid in ids:
            settled.append((group.settle(item.position, ids[item.uid], duplicate=False), ids[item.uid]))
            group.waiting_uids.append(item.uid)
        else:  # Another call added this own id with other bytes just now.
            group.refuse(item.position, _taken(item.own_id or ""))
    group.touched |= set(ids.values())
    for item, first in repeats:
        if first.uid not in ids or (item.own_id is not None and item.sha256 != first.sha256):
            group.refuse(item.position, _taken(item.own_id or first.own_id or ""))
        else:
            settled.append((group.settle(item.position, ids[first.uid], duplicate=True), ids[first.uid]))
    return settled


def _split_repeats(group: _Group, *, allow_duplicate: bool) -> tuple[list[NewInput], list[tuple[NewInput, NewInput]]]:
    """Split the items into those to insert, and those that repeat the own id or the bytes of one of them."""
    firsts: list[NewInput] = []
    repeats: list[tuple[NewInput, NewInput]] = []
    by_own_id: dict[str, NewInput] = {}
    by_sha256: dict[bytes, NewInput] = {}
    for _, item in sorted(group.waiting.items()):
        if item.own_id is not None:
            first = by_own_id.setdefault(item.own_id, item)
        else:
            first = item if allow_duplicate else by_sha256.get(item.sha256, item)
        if first is item:
            firsts.append(item)
            by_sha256.setdefault(item.sha256, item)
        else:
            repeats.append((item, first))
    return firsts, repeats


async def _lock_inputs(connection: Connection, app_id: int, ids: Sequence[int]) -> None:
    """Lock existing inputs before their labels are written; those just inserted are locked already."""
    await connection.execute(
        "SELECT FROM inputs WHERE app_id = $1 AND id = ANY($2::bigint[]) ORDER BY id FOR NO KEY UPDATE", app_id, ids
    )


async def _revive(connection: Connection, app_id: int, ids: Sequence[int]) -> list[UUID]:
    """Have failed inputs tried again, now that somebody brings their bytes again; return the uids of those."""
    rows = await connection.fetch(
        """
        UPDATE inputs SET status = 1, error = NULL, attempts = 0, progressed_at = now(), updated_at = now()
        WHERE app_id = $1 AND id = ANY($2::bigint[]) AND status = 3 RETURNING uid
        """,
        app_id,
        ids,
    )
    return [row["uid"] for row in rows]


async def _remember(
    connection: Connection,
    app_id: int,
    request_id: str,
    items: Sequence[NewInput],
    group: _Group,
    answered: Collection[int],
) -> None:
    """Note what the items became; what is refused may be tried again."""
    new = [
        (item.position, item.sha256, result.input_id, result.duplicate)
        for item in items
        if item.position not in answered and isinstance(result := group.results.get(item.position), Added)
    ]
    await connection.execute(
        """
        INSERT INTO requests (app_id, request_id, position, sha256, input_id, duplicate)
        SELECT $1, $2, * FROM unnest($3::int[], $4::bytea[], $5::bigint[], $6::boolean[])
        ON CONFLICT DO NOTHING
        """,
        app_id,
        request_id,
        *([row[column] for row in new] for column in range(4)),
    )


def _taken(own_id: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        "INPUT_EXISTS",
        f"the app already has an input {own_id!r}, with other bytes",
        metadata={"input_id": own_id},
    )
