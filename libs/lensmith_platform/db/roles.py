"""Roles, schemas and privileges of a Lensmith database: what must exist before the first migration.

Row-level security binds no superuser and no role that bypasses it, so none of these roles is either. Tables belong to
`MIGRATE_ROLE`; a service and its workers log in as roles of their own, which own nothing.
"""

from collections.abc import Mapping

import asyncpg

MIGRATE_ROLE = "lensmith_migrate"
OWNERS = ("auth", "dataset", "registry")
"""Services that own a schema, named like them."""


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
        async with connection.transaction():
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
                await _ensure_schema(connection, owner, ", ".join(members))
    finally:
        await connection.close()


async def _ensure_role(connection: asyncpg.Connection, role: str, password: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role}")
    literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
    await connection.execute(
        f"ALTER ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD {literal}"
    )


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
