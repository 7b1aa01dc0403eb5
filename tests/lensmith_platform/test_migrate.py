"""Migrations: each file once, in order, unchanged; two runs at once are safe."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from lensmith_platform.db.migrate import MigrationError, migrate, pending
from lensmith_platform.db.roles import bootstrap

if TYPE_CHECKING:
    from tests.conftest import Database as Place

SCHEMA = "garden"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Migrations of a service `garden` that is installed for this test only."""
    package = tmp_path / "lensmith_garden"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield package / "migrations"
    sys.modules.pop("lensmith_garden", None)


@pytest.fixture
async def garden(database: Place) -> Place:
    """A database with a schema for it."""
    connection = await asyncpg.connect(database.admin_url)
    roles = ("lensmith_garden", "lensmith_garden_worker")
    for role in roles:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"CREATE ROLE {role}")
    await connection.execute("CREATE SCHEMA garden; ALTER SCHEMA garden OWNER TO lensmith_migrate")
    await connection.close()
    return database


async def query(place: Place, sql: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(place.admin_url)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def test_each_file_runs_once_and_is_recorded(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int); INSERT INTO plants VALUES (1);")
    assert await pending(garden.migrate_url, [SCHEMA]) == [
        "garden/lensmith_platform/0001_create_outbox",
        "garden/lensmith_platform/0002_create_dead_letters",
        "garden/lensmith_platform/0003_create_processed_events",
        "garden/lensmith_garden/0001_create_plants",
    ]
    assert len(await migrate(garden.migrate_url, [SCHEMA])) == 4
    (folder / "0002_add_name.sql").write_text("ALTER TABLE plants ADD COLUMN name text;")
    assert await migrate(garden.migrate_url, [SCHEMA]) == ["garden/lensmith_garden/0002_add_name"]
    assert await migrate(garden.migrate_url, [SCHEMA]) == []
    assert await pending(garden.migrate_url, [SCHEMA]) == []
    rows = await query(
        garden, "SELECT * FROM garden.schema_migrations WHERE origin = 'lensmith_garden' ORDER BY number"
    )
    assert [(row["number"], row["name"], len(row["sha256"])) for row in rows] == [
        (1, "create_plants", 64),
        (2, "add_name", 64),
    ]


async def test_nothing_runs_twice_when_two_migrations_run_at_once(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int); SELECT pg_sleep(0.3);")
    results = await asyncio.gather(*(migrate(garden.migrate_url, [SCHEMA]) for _ in range(3)))
    assert sorted(map(len, results)) == [0, 0, 4]


async def test_nothing_of_a_file_is_kept_when_it_fails(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int); SELECT 1/0;")
    with pytest.raises(MigrationError, match="0001_create_plants: division by zero"):
        await migrate(garden.migrate_url, [SCHEMA])
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int);")
    assert await migrate(garden.migrate_url, [SCHEMA]) == ["garden/lensmith_garden/0001_create_plants"]


async def test_a_changed_file_is_refused_when_it_was_applied(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int);")
    await migrate(garden.migrate_url, [SCHEMA])
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id bigint);")
    for run in (migrate, pending):
        with pytest.raises(MigrationError, match="changed after it was applied"):
            await run(garden.migrate_url, [SCHEMA])


async def test_a_file_is_refused_when_a_later_one_was_applied(garden: Place, folder: Path) -> None:
    (folder / "0002_create_plants.sql").write_text("CREATE TABLE plants (id int);")
    await migrate(garden.migrate_url, [SCHEMA])
    (folder / "0001_create_trees.sql").write_text("CREATE TABLE trees (id int);")
    with pytest.raises(MigrationError, match="give it the next number"):
        await migrate(garden.migrate_url, [SCHEMA])


@pytest.mark.parametrize("names", [["1_x.sql"], ["0001_Create.sql"], ["0001_a.sql", "0001_b.sql"]])
async def test_a_folder_is_refused_when_its_names_are_wrong(garden: Place, folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"not named NNNN|have the number"):
        await migrate(garden.migrate_url, [SCHEMA])


async def test_a_table_of_apps_is_refused_when_it_is_not_protected(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (app_id bigint, id bigint);")
    with pytest.raises(MigrationError, match="plants: a table with an app_id needs"):
        await migrate(garden.migrate_url, [SCHEMA])
    assert await query(garden, "SELECT to_regclass('garden.plants')::text AS name") == [(None,)]


async def test_an_index_is_made_concurrently_when_the_file_says_no_transaction(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text("CREATE TABLE plants (id int);")
    (folder / "0002_index_plants.sql").write_text(
        "-- lensmith: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS plants_id_idx ON plants (id);"
    )
    # The second one waits for the first; waiting inside Postgres would make the index wait for it in turn.
    await asyncio.gather(*(migrate(garden.migrate_url, [SCHEMA]) for _ in range(2)))
    assert await query(garden, "SELECT to_regclass('garden.plants_id_idx')::text AS name") == [
        ("garden.plants_id_idx",)
    ]


async def test_a_backfill_sees_the_rows_of_all_apps(garden: Place, folder: Path) -> None:
    (folder / "0001_create_plants.sql").write_text(
        "CREATE TABLE plants (app_id bigint, n int); SELECT protect('plants');INSERT INTO plants VALUES (7, 1), (8, 1);"
    )
    (folder / "0002_double_plants.sql").write_text("UPDATE plants SET n = 2 * n;")
    await migrate(garden.migrate_url, [SCHEMA])
    assert await query(garden, "SELECT sum(n)::int AS sum FROM garden.plants") == [(4,)]


async def test_the_bootstrap_changes_nothing_when_it_runs_again_and_at_once(database: Place) -> None:
    passwords = database.servers.passwords()
    await asyncio.gather(*(bootstrap(database.admin_url, passwords) for _ in range(3)))
    connection = await asyncpg.connect(database.url("dataset"))
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
    await connection.close()


def test_the_command_applies_checks_and_says_what_is_wrong(database: Place) -> None:
    def run(*arguments: str, url: str) -> tuple[int, str]:
        result = subprocess.run(
            [sys.executable, "-m", "lensmith_platform.db.migrate", *arguments],
            env={**os.environ, "LENSMITH_MIGRATE_POSTGRES_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr

    assert run(url=database.migrate_url) == (0, "")
    assert run("--check", url=database.migrate_url) == (0, "")
    assert run("--chekc", url=database.migrate_url)[0] == 2
    code, output = run(url=database.migrate_url.replace("lensmith_migrate:", "lensmith_migrate:wrong"))
    assert code == 1
    assert output.startswith("Postgres refuses the connection")
    assert len(output.splitlines()) == 1
