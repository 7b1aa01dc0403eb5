"""Roles, row-level security, units of work."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lensmith_platform.db import Database, create_pool, savepoint
from lensmith_platform.errors import ConflictError, DependencyUnavailableError, InternalError

if TYPE_CHECKING:
    from tests.conftest import Database as Place


@asynccontextmanager
async def service(database: Place, *, worker: bool = False, size: int = 10) -> AsyncIterator[Database]:
    pool = await create_pool(database.url("dataset", worker=worker), size=size)
    try:
        yield Database(pool)
    finally:
        await pool.close()


async def run_migration(database: Place, sql: str) -> None:
    connection = await asyncpg.connect(database.migrate_url)
    try:
        await connection.execute(f"SET search_path = dataset, lensmith, public; {sql}")
    finally:
        await connection.close()


@pytest.fixture
async def things(database: Place) -> Place:
    await run_migration(
        database,
        """
        CREATE TABLE things (app_id bigint, id bigint, name text, CONSTRAINT things_pkey PRIMARY KEY (app_id, id));
        SELECT protect('things');
        CREATE TABLE shown (app_id bigint, id bigint, PRIMARY KEY (app_id, id));
        SELECT protect('shown', public => true);
        """,
    )
    return database


async def test_rows_are_of_the_transactions_app_when_the_query_has_no_filter(things: Place) -> None:
    async with service(things) as db:
        for app_id in (1, 2, 3):
            async with db.transaction(app_id) as connection:
                await connection.execute("INSERT INTO things VALUES ($1, 10, 'x')", app_id)
                await connection.execute("INSERT INTO shown VALUES ($1, 10)", app_id)
        async with db.transaction(2) as connection:
            assert [row["app_id"] for row in await connection.fetch("SELECT * FROM things")] == [2]
            assert [row["app_id"] for row in await connection.fetch("SELECT * FROM shown ORDER BY 1")] == [1, 2]
            assert await connection.execute("UPDATE things SET name = 'y'") == "UPDATE 1"
            assert await connection.execute("DELETE FROM shown") == "DELETE 1"
        async with db.transaction(None) as connection:
            assert await connection.fetch("SELECT * FROM things") == []
    async with service(things, worker=True) as worker, worker.transaction(None) as connection:
        assert await connection.fetchval("SELECT count(*) FROM things") == 3
        assert await connection.fetchval("SELECT count(*) FROM shown") == 2


async def test_writing_for_another_app_is_refused_when_a_transaction_is_bound(things: Place) -> None:
    async with service(things) as db:
        for table in ("things", "shown"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with db.transaction(2) as connection:
                    await connection.execute(f"INSERT INTO {table} (app_id, id) VALUES (1, 1)")


async def test_partitions_are_protected_when_they_are_read_directly(database: Place) -> None:
    await run_migration(
        database,
        """
        CREATE TABLE vectors (app_id bigint, id bigint) PARTITION BY HASH (app_id);
        CREATE TABLE vectors_0 PARTITION OF vectors FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        SELECT protect('vectors');
        """,
    )
    async with service(database) as db:
        async with db.transaction(2) as connection:
            await connection.execute("INSERT INTO vectors VALUES (2, 1)")
        async with db.transaction(3) as connection:
            assert await connection.fetch("SELECT * FROM vectors_0") == []


async def test_the_app_is_forgotten_when_the_transaction_ends(things: Place) -> None:
    async with service(things, size=1) as db:
        async with db.transaction(7) as connection:
            assert await connection.fetchval("SELECT current_setting('lensmith.app')") == "7"
        async with db.transaction(None) as connection:
            assert not await connection.fetchval("SELECT current_setting('lensmith.app', true)")


@pytest.mark.parametrize("worker", [False, True])
async def test_roles_can_do_nothing_else_when_they_log_in(database: Place, worker: bool) -> None:
    async with service(database, worker=worker) as db:
        async with db.transaction(None) as connection:
            row = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
            assert not any(row[name] for name in ("rolsuper", "rolbypassrls", "rolcreatedb", "rolcreaterole"))
            assert await connection.fetchval("SELECT current_schema()") == "dataset"
        for statement in (
            "SELECT * FROM auth.outbox",
            "SELECT * FROM registry.schema_migrations",
            "CREATE TABLE dataset.mine (id int)",
            "CREATE TABLE public.mine (id int)",
            "ALTER TABLE outbox DISABLE ROW LEVEL SECURITY",
            "DELETE FROM schema_migrations",
            "SELECT lensmith.protect('outbox')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with db.transaction(1) as connection:
                    await connection.execute(statement)


async def test_nothing_is_kept_when_the_block_raises(things: Place) -> None:
    async with service(things) as db:

        async def insert_and_fail() -> None:
            async with db.transaction(2) as connection:
                await connection.execute("INSERT INTO things VALUES (2, 1, 'x')")
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await insert_and_fail()
        async with db.transaction(2) as connection:
            assert await connection.fetch("SELECT * FROM things") == []


async def test_an_error_is_raised_when_the_block_swallowed_a_database_error(things: Place) -> None:
    async with service(things) as db:

        async def insert_twice() -> None:
            async with db.transaction(2) as connection:
                await connection.execute("INSERT INTO things VALUES (2, 1, 'x')")
                with pytest.raises(asyncpg.UniqueViolationError):
                    await connection.execute("INSERT INTO things VALUES (2, 1, 'x')")

        with pytest.raises(InternalError) as raised:
            await insert_twice()
        assert raised.value.reason == "TRANSACTION_ABORTED"


async def test_the_transaction_goes_on_when_an_error_happened_in_a_savepoint(things: Place) -> None:
    async with service(things) as db:
        async with db.transaction(2) as connection:
            await connection.execute("INSERT INTO things VALUES (2, 1, 'x')")
            with pytest.raises(asyncpg.UniqueViolationError) as raised:
                async with savepoint(connection):
                    await connection.execute("INSERT INTO things VALUES (2, 2, 'y'), (2, 1, 'x')")
            assert raised.value.constraint_name == "things_pkey"
        async with db.transaction(2) as connection:
            assert await connection.fetchval("SELECT array_agg(id) FROM things") == [1]


async def test_a_deadlock_is_a_conflict_and_retried_when_two_transactions_cross(things: Place) -> None:
    async with service(things) as db:
        async with db.transaction(2) as connection:
            await connection.execute("INSERT INTO things VALUES (2, 1, ''), (2, 2, '')")
        conflicts: list[str] = []
        both = asyncio.Barrier(2)

        async def update(first: int, second: int) -> None:
            tries = 0

            async def once() -> None:
                nonlocal tries
                tries += 1
                try:
                    async with db.transaction(2) as connection:
                        await connection.execute("UPDATE things SET name = name || 'x' WHERE id = $1", first)
                        if tries == 1:
                            await both.wait()
                        await connection.execute("UPDATE things SET name = name || 'x' WHERE id = $1", second)
                except ConflictError as error:
                    conflicts.append(error.reason)
                    raise

            await db.retry(once)

        await asyncio.gather(update(1, 2), update(2, 1))
        assert set(conflicts) == {"TRANSACTION_CONFLICT"}
        async with db.transaction(2) as connection:
            assert await connection.fetchval("SELECT array_agg(DISTINCT name) FROM things") == ["xx"]


async def test_a_write_skew_is_a_conflict_when_serializable(things: Place) -> None:
    async with service(things) as db:
        both = asyncio.Barrier(2)

        async def add(number: int) -> None:
            async with db.transaction(2, isolation="serializable") as connection:
                await connection.fetchval("SELECT count(*) FROM things")
                await both.wait()
                await connection.execute("INSERT INTO things VALUES (2, $1, '')", number)
                await both.wait()

        results = await asyncio.gather(add(1), add(2), return_exceptions=True)
        assert sorted(type(result) for result in results if result is not None) == [ConflictError]


async def test_the_connection_is_clean_when_a_call_was_cancelled(things: Place) -> None:
    async with service(things, size=1) as db:
        started = asyncio.Event()

        async def slow() -> None:
            async with db.transaction(2) as connection:
                await connection.execute("INSERT INTO things VALUES (2, 1, 'x')")
                started.set()
                await connection.execute("SELECT pg_sleep(60)")

        task = asyncio.create_task(slow())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with db.transaction(2) as connection:
            assert await connection.fetch("SELECT * FROM things") == []


async def test_a_slow_statement_is_unavailable_when_it_passes_the_limit(database: Place) -> None:
    async with service(database) as db:
        with pytest.raises(DependencyUnavailableError) as raised:
            async with db.transaction(2) as connection:
                await connection.execute("SET LOCAL statement_timeout = '20ms'; SELECT pg_sleep(30)")
        assert raised.value.reason == "POSTGRES_TIMEOUT"


async def test_json_is_python_values_when_read_and_written(database: Place) -> None:
    async with service(database) as db, db.transaction(None) as connection:
        value = {"a": [1, None, "ü"]}
        assert await connection.fetchval("SELECT $1::jsonb", value) == value
        assert await connection.fetchval("SELECT $1::json", value) == value


async def test_work_goes_on_when_the_servers_connections_were_killed(things: Place) -> None:
    async with service(things, size=4) as db:
        admin = await asyncpg.connect(things.admin_url)

        async def work_on_a_dying_connection() -> None:
            async with db.transaction(2) as connection:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
                await admin.execute("SELECT pg_terminate_backend($1)", pid)
                await connection.fetchval("SELECT pg_sleep(10)")

        try:
            with pytest.raises(DependencyUnavailableError) as raised:
                await work_on_a_dying_connection()
            assert raised.value.reason == "POSTGRES_UNAVAILABLE"
        finally:
            await admin.close()
        async with db.transaction(2) as connection:
            assert await connection.fetchval("SELECT 1") == 1


async def test_the_pool_is_refused_when_postgres_does_not_come_up() -> None:
    with pytest.raises(DependencyUnavailableError) as raised:
        await create_pool(f"postgresql://x:{uuid.uuid4().hex}@127.0.0.1:1/lensmith", wait_seconds=0.2)
    assert raised.value.reason == "POSTGRES_UNAVAILABLE"
