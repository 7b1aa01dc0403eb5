"""Roles, schemas and privileges of a Lensmith database: what must exist before the first migration.

Row-level security binds no superuser and no role that bypasses it, so none of these roles is either. Tables belong to
`MIGRATE_ROLE`; a service and its workers log in as roles of their own, which own nothing.
"""

import asyncio
from collections.abc import Mapping

import asyncpg

from lensmith_platform.db.pool import STATEMENT_SECONDS

MIGRATE_ROLE = "lensmith_migrate"
OWNERS = ("auth", "dataset", "registry")
"""Services that own a schema, named like them."""

_ATTEMPTS = 5


async def bootstrap(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Make roles, schemas, privileges and extensions; run again, it changes nothing but the passwords.

    Args:
        admin_url: the database to prepare, as a role that may create roles and the extension `vector`.
        passwords: a password for `MIGRATE_ROLE` and for ``lensmith_<owner>`` and ``lensmith_<owner>_worker``.

    Raises:
        KeyError: a role has no password.
    """
    connection = await asyncpg.connect(admin_url)
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with connection.transaction():
                    await _bootstrap(connection, passwords)
            except (asyncpg.UniqueViolationError, asyncpg.InternalServerError):
                # Roles belong to the whole server: another database's bootstrap changed the same one just now.
                if attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(0.1 * attempt)
            else:
                return
    finally:
        await connection.close()


async def _bootstrap(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    # Two starts at once would create the same role twice.
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('lensmith_roles'))")
    await _ensure_role(connection, MIGRATE_ROLE, passwords[MIGRATE_ROLE])
    await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"GRANT CREATE ON DATABASE {database} TO {MIGRATE_ROLE}")
    for owner in OWNERS:
        members = [f"lensmith_{owner}", f"lensmith_{owner}_worker"]
        for role in members:
            await _ensure_role(connection, role, passwords[role])
            await _configure_role(connection, role, owner)
        await _ensure_schema(connection, owner, ", ".join(members))


async def _ensure_role(connection: asyncpg.Connection, role: str, password: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role}")
    literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
    await connection.execute(
        f"ALTER ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD {literal}"
    )


async def _configure_role(connection: asyncpg.Connection, role: str, schema: str) -> None:
    # On the role, not in the connection: a pooler in transaction mode would drop or refuse connection settings.
    for name, value in (
        # `public` holds the types of the extension.
        ("search_path", f"{schema}, public"),
        ("statement_timeout", f"'{STATEMENT_SECONDS}s'"),
        ("lock_timeout", "'10s'"),
        # A hung process must not hold back the change feed, which waits for the oldest transaction.
        ("idle_in_transaction_session_timeout", "'60s'"),
    ):
        await connection.execute(f"ALTER ROLE {role} SET {name} = {value}")


async def _ensure_schema(connection: asyncpg.Connection, schema: str, roles: str) -> None:
    # The superuser is not a member of the migration role, so the schema is made first and handed over then.
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    await connection.execute(f"ALTER SCHEMA {schema} OWNER TO {MIGRATE_ROLE}")
    await connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {roles}")
    for privileges in (
        "SELECT, INSERT, UPDATE, DELETE ON TABLES",
        "USAGE, SELECT ON SEQUENCES",
        "EXECUTE ON FUNCTIONS",
    ):
        await connection.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {MIGRATE_ROLE} IN SCHEMA {schema} GRANT {privileges} TO {roles}"
        )
