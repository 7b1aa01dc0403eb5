"""Looking into a database as the superuser, past every policy."""

import asyncpg


async def fetch(admin_url: str, query: str, *values: object) -> list[asyncpg.Record]:
    """Rows of one query."""
    connection = await asyncpg.connect(admin_url)
    try:
        return await connection.fetch(query, *values)
    finally:
        await connection.close()
