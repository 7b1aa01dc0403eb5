"""Forward-only SQL migrations: ``python -m lensmith_platform.db.migrate``.

A service's migrations are the files ``migrations/NNNN_verb_object.sql`` of its package and run in the schema named
like it, after those of this package, which give every schema its outbox, dead letters and processed events. A file runs
once, in one transaction, and is never changed afterwards. It must be safe while the code before it still serves.

A file whose first line is ``-- lensmith: no-transaction`` runs outside a transaction (``CREATE INDEX CONCURRENTLY``).
It holds one statement, which must succeed when it is run again after a kill.
"""

import asyncio
import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import asyncpg

from lensmith_platform.db.pool import NOT_UP_ERRORS
from lensmith_platform.db.roles import OWNERS

_LOG = logging.getLogger(__name__)

URL_VARIABLE = "LENSMITH_MIGRATE_POSTGRES_URL"
FUNCTIONS_SCHEMA = "lensmith"
"""Holds the functions that migrations call, `protect`."""

_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
_NO_TRANSACTION = "-- lensmith: no-transaction"
_LOCK_KEY = "lensmith_migrate"
_LOCK_WAIT_SECONDS = 600.0
_CONNECT_WAIT_SECONDS = 30.0
_ATTEMPTS = 5

_UNPROTECTED = """
SELECT c.oid::regclass::text FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'app_id' AND NOT a.attisdropped
WHERE c.relnamespace = $1::regnamespace AND c.relkind IN ('r', 'p') AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
ORDER BY 1
"""


class MigrationError(Exception):
    """The migrations cannot run; the message says in one sentence why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file.

    Attributes:
        origin: package it belongs to; numbers count within it.
        number: its place in the order.
        name: file name without number and ending.
        sql: its text.
    """

    origin: str
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Checksum of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """Whether it runs in a transaction."""
        return not self.sql.startswith(_NO_TRANSACTION)


async def migrate(url: str, schemas: Sequence[str] = OWNERS) -> list[str]:
    """Apply what is missing; return what was applied, as ``schema/origin/NNNN_name``.

    Two runs at once are safe: one waits for the other.

    Args:
        url: of `roles.MIGRATE_ROLE`, straight to Postgres: the lock and ``CONCURRENTLY`` need a session of their own.
        schemas: the services to migrate.

    Raises:
        MigrationError: an applied file was changed, a file is out of order or failed, or Postgres cannot be reached.
    """
    async with _connection(url) as connection, _lock(connection):
        applied = []
        for schema, migrations in (await _plan(connection, schemas)).items():
            for migration in migrations:
                await _apply(connection, schema, migration)
                applied.append(_label(schema, migration))
                _LOG.info("applied %s", applied[-1])
        return applied


async def pending(url: str, schemas: Sequence[str] = OWNERS) -> list[str]:
    """What `migrate` would apply; changes nothing.

    Raises:
        MigrationError: as `migrate`.
    """
    async with _connection(url) as connection:
        plan = await _plan(connection, schemas)
    return [_label(schema, migration) for schema, migrations in plan.items() for migration in migrations]


def _label(schema: str, migration: Migration) -> str:
    return f"{schema}/{migration.origin}/{migration.number:04d}_{migration.name}"


def _read(origin: str, directory: Traversable) -> list[Migration]:
    """The migrations of a folder in their order; none where there is no folder."""
    if not directory.is_dir():
        return []
    found: dict[int, Migration] = {}
    for file in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".sql"):
            continue
        match = _NAME.match(file.name)
        if match is None:
            raise MigrationError(f"{origin}: {file.name} is not named NNNN_verb_object.sql.")
        number = int(match[1])
        if number in found:
            raise MigrationError(f"{origin}: two migrations have the number {number:04d}.")
        found[number] = Migration(origin, number, match[2], file.read_text(encoding="utf-8"))
    return list(found.values())


def _sources(schemas: Sequence[str]) -> dict[str, list[list[Migration]]]:
    """For each schema the series of migrations that run in it, one after the other."""
    own = files("lensmith_platform.db") / "migrations"
    tables = _read("lensmith_platform", own / "tables")
    sources = {FUNCTIONS_SCHEMA: [_read("lensmith_platform", own / "functions")]}
    for schema in schemas:
        package = f"lensmith_{schema}"
        sources[schema] = [tables, _read(package, files(package) / "migrations")]
    return sources


async def _plan(connection: asyncpg.Connection, schemas: Sequence[str]) -> dict[str, list[Migration]]:
    plan = {}
    for schema, series in _sources(schemas).items():
        recorded = await _recorded(connection, schema)
        plan[schema] = [migration for migrations in series for migration in _missing(schema, migrations, recorded)]
    return plan


async def _recorded(connection: asyncpg.Connection, schema: str) -> dict[tuple[str, int], str]:
    if not await connection.fetchval("SELECT to_regclass($1)", f"{schema}.schema_migrations"):
        return {}
    rows = await connection.fetch(f"SELECT origin, number, sha256 FROM {schema}.schema_migrations")  # noqa: S608 - ours
    return {(row["origin"], row["number"]): row["sha256"] for row in rows}


def _missing(schema: str, migrations: Sequence[Migration], recorded: dict[tuple[str, int], str]) -> list[Migration]:
    missing: list[Migration] = []
    for migration in migrations:
        sha256 = recorded.get((migration.origin, migration.number))
        if sha256 is None:
            missing.append(migration)
        elif sha256 != migration.sha256:
            raise MigrationError(
                f"{_label(schema, migration)} was changed after it was applied: undo the change and add a new file."
            )
        elif missing:
            raise MigrationError(
                f"{_label(schema, missing[0])} comes before one that was already applied: give it the next number."
            )
    return missing


async def _apply(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    await _prepare_schema(connection, schema)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _run(connection, schema, migration)
        except asyncpg.LockNotAvailableError as error:
            # It waits for a lock only briefly: whoever queues behind it waits as long.
            if attempt == _ATTEMPTS:
                raise MigrationError(f"{_label(schema, migration)}: a table stayed locked by running work.") from error
            await asyncio.sleep(attempt)
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{_label(schema, migration)}: {error}") from error
        else:
            return


async def _prepare_schema(connection: asyncpg.Connection, schema: str) -> None:
    # The services' schemas are made with the roles; the functions' schema needs no privileges of anybody else.
    if schema == FUNCTIONS_SCHEMA:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    await connection.execute(f"SET search_path = {schema}, {FUNCTIONS_SCHEMA}, public")
    await connection.execute(
        f"""
        CREATE TABLE IF NOT EXISTS {schema}.schema_migrations (
          origin text NOT NULL,
          number integer NOT NULL,
          name text NOT NULL,
          sha256 text NOT NULL,
          applied_at timestamptz NOT NULL DEFAULT now(),
          CONSTRAINT schema_migrations_pkey PRIMARY KEY (origin, number)
        )
        """
    )
    if schema != FUNCTIONS_SCHEMA:
        roles = f"lensmith_{schema}, lensmith_{schema}_worker"
        await connection.execute(f"REVOKE INSERT, UPDATE, DELETE ON {schema}.schema_migrations FROM {roles}")


async def _run(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    if migration.transactional:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await _refuse_unprotected(connection, schema)
            await _record(connection, schema, migration)
    else:
        await connection.execute(migration.sql)
        await _record(connection, schema, migration)


async def _refuse_unprotected(connection: asyncpg.Connection, schema: str) -> None:
    tables = [row[0] for row in await connection.fetch(_UNPROTECTED, schema)]
    if tables:
        raise MigrationError(f"{', '.join(tables)}: a table with an app_id needs SELECT protect('…') in its migration.")


async def _record(connection: asyncpg.Connection, schema: str, migration: Migration) -> None:
    await connection.execute(
        f"INSERT INTO {schema}.schema_migrations (origin, number, name, sha256) VALUES ($1, $2, $3, $4)",  # noqa: S608
        migration.origin,
        migration.number,
        migration.name,
        migration.sha256,
    )


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    deadline = time.monotonic() + _CONNECT_WAIT_SECONDS
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=5, server_settings={"lock_timeout": "5s"})
            break
        except NOT_UP_ERRORS as error:
            if time.monotonic() >= deadline:
                raise MigrationError(f"Postgres did not answer within {_CONNECT_WAIT_SECONDS:g} s.") from error
            await asyncio.sleep(0.2)
        except asyncpg.PostgresError as error:
            raise MigrationError(f"Postgres refuses the connection: {error}") from error
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _lock(connection: asyncpg.Connection) -> AsyncIterator[None]:
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    # Asked again and again: waiting in the lock itself holds a snapshot, for which CREATE INDEX CONCURRENTLY waits.
    while not await connection.fetchval("SELECT pg_try_advisory_lock(hashtext($1))", _LOCK_KEY):
        if time.monotonic() >= deadline:
            raise MigrationError(f"Another migration is still running after {_LOCK_WAIT_SECONDS:g} s.")
        await asyncio.sleep(0.2)
    # The lock ends with the connection.
    yield


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; ``--check`` only tells what is missing, and fails if something is."""
    url = os.environ.get(URL_VARIABLE, "")
    if not url and (file := os.environ.get(f"{URL_VARIABLE}_FILE")):
        url = Path(file).read_text(encoding="utf-8").strip()
    if not url or list(arguments) not in ([], ["--check"]):
        sys.stderr.write(
            f"usage: {URL_VARIABLE}=postgresql://… python -m lensmith_platform.db.migrate [--check]\n"
            f"({URL_VARIABLE}_FILE names a file that holds it)\n"
        )
        return 2
    try:
        if arguments:
            missing = asyncio.run(pending(url))
            sys.stdout.writelines(f"missing {label}\n" for label in missing)
            return 1 if missing else 0
        sys.stdout.writelines(f"applied {label}\n" for label in asyncio.run(migrate(url)))
    except MigrationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
