"""The change feed: nothing is lost, whoever commits late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from lensmith_platform import change_feed
from lensmith_platform.db import Database
from lensmith_platform.errors import InvalidInputError

OpenDatabase = Callable[..., Awaitable[Database]]
APP = 7


async def record(database: Database, *ids: int, app_id: int = APP) -> None:
    async with database.transaction(app_id) as connection:
        await change_feed.record(connection, app_id, ids)


async def read_all(database: Database, cursor: str = "", *, limit: int = 7) -> tuple[list[int], str]:
    ids: list[int] = []
    while True:
        async with database.transaction(APP) as connection:
            changes = await change_feed.read(connection, APP, cursor, limit)
        if not changes.ids:
            return ids, cursor
        ids += changes.ids
        cursor = changes.next_cursor


async def test_a_change_is_read_when_it_commits_after_later_ones(dataset: OpenDatabase) -> None:
    database = await dataset()
    async with database.transaction(APP) as late:
        await change_feed.record(late, APP, [1])
        await record(database, 2)
        # The horizon: what came after the running transaction waits for it, else its change would be skipped.
        ids, cursor = await read_all(database)
        assert ids == []
    ids, cursor = await read_all(database, cursor)
    assert ids == [1, 2]
    assert await read_all(database, cursor) == ([], cursor)


async def test_an_input_comes_once_at_its_newest_change(dataset: OpenDatabase) -> None:
    database = await dataset()
    await record(database, 1, 2, 3)
    ids, cursor = await read_all(database)
    assert ids == [1, 2, 3]
    await record(database, 2, 1, 2)
    await record(database, 1)
    assert (await read_all(database, cursor))[0] == [2, 1]
    assert (await read_all(database))[0] == [3, 2, 1]


async def test_changes_are_fed_again_when_a_dump_was_restored_into_a_new_cluster(dataset: OpenDatabase) -> None:
    database = await dataset()
    await record(database, 1)
    async with database.transaction(APP) as connection:
        # A new cluster counts transactions from the beginning; these are of one that had come further.
        await connection.execute(
            "INSERT INTO input_changes (app_id, input_id, xid) VALUES ($1, 2, '900000000'), ($1, 3, '900000001')", APP
        )
    assert (await read_all(database))[0] == [1]
    async with database.transaction(APP) as connection:
        await change_feed.heal(connection, APP)
    ids, cursor = await read_all(database)
    assert ids == [1, 2, 3]
    async with database.transaction(APP) as connection:
        await change_feed.heal(connection, APP)
    assert await read_all(database, cursor) == ([], cursor)


async def test_a_cursor_is_refused_when_it_is_ahead_of_the_database(dataset: OpenDatabase) -> None:
    database = await dataset()
    await record(database, 1)
    async with database.transaction(APP) as connection:
        with pytest.raises(InvalidInputError, match="ahead of this database") as refused:
            await change_feed.read(connection, APP, "900000000.3", 10)
    assert refused.value.reason == "CURSOR_INVALID"


async def test_nothing_is_fed_when_the_change_was_rolled_back(dataset: OpenDatabase) -> None:
    database = await dataset()

    async def fail() -> None:
        async with database.transaction(APP) as connection:
            await change_feed.record(connection, APP, [1])
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await fail()
    assert await read_all(database) == ([], "")


async def test_another_apps_changes_are_not_fed(dataset: OpenDatabase) -> None:
    database = await dataset()
    await record(database, 1)
    await record(database, 2, app_id=8)
    assert (await read_all(database))[0] == [1]


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1.", ".1", "-1.2", "1.2.3", "²." + "1", "1." + "9" * 30, "9" * 19 + ".0"]
)
async def test_a_cursor_is_refused_when_it_is_none(dataset: OpenDatabase, cursor: str) -> None:
    database = await dataset()
    async with database.transaction(APP) as connection:
        with pytest.raises(InvalidInputError) as raised:
            await change_feed.read(connection, APP, cursor, 10)
    assert raised.value.reason == "CURSOR_INVALID"


async def test_the_index_is_used_when_row_level_security_holds(dataset: OpenDatabase) -> None:
    database = await dataset()
    await record(database, *range(5000))
    async with database.transaction(APP) as connection:
        plan = await connection.fetch(
            """
            EXPLAIN SELECT xid, input_id FROM input_changes WHERE app_id = 7 AND (xid, input_id) > ('1'::xid8, 3)
            AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, input_id LIMIT 5
            """
        )
    assert "Index Only Scan using input_changes_app_id_xid_idx" in str(plan) or "Index Scan" in str(plan)


async def test_nothing_is_lost_when_two_hundred_writers_work_at_once(dataset: OpenDatabase) -> None:
    """A reader that follows the feed while they write sees every input, and the last state of each."""
    writers, rounds, inputs = 200, 3, 400
    database = await dataset(size=60)
    async with database.transaction(APP) as connection:
        await connection.execute("SELECT pg_current_xact_id()")
    changed: set[int] = set()
    writing = True

    async def write(number: int) -> None:
        chance = random.Random(number)
        for _ in range(rounds):
            ids = [number, *chance.sample(range(writers, inputs), 3)]

            async def once(ids: list[int] = ids) -> None:
                async with database.transaction(APP) as connection:
                    await change_feed.record(connection, APP, ids)
                    # Some commit late, long after others that began after them.
                    await connection.execute("SELECT pg_sleep($1)", chance.choice([0, 0, 0.03]))

            await database.retry(once, attempts=20)
            changed.update(ids)

    async def follow() -> list[int]:
        cursor, fed = "", []
        while True:
            last_round = not writing
            ids, cursor = await read_all(database, cursor, limit=50)
            fed += ids
            if last_round and not ids:
                return fed
            await asyncio.sleep(0.005)

    reader = asyncio.create_task(follow())
    await asyncio.gather(*(write(number) for number in range(writers)))
    # The last change of all inputs: each must come (again) after it.
    marker, cursor_before = await read_all(database)
    await record(database, *range(writers))
    writing = False
    fed = await reader
    seen = {one: position for position, one in enumerate(fed)}
    assert set(fed) == changed
    assert set(marker) == changed
    # In the end the reader has seen every input after its last change: nothing is left behind its cursor.
    assert (await read_all(database, cursor_before))[0] == list(range(writers))
    assert sorted(sorted(seen, key=seen.__getitem__)[-writers:]) == list(range(writers))
