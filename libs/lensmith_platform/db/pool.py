"""The connection pool of a service: waits for Postgres at start and finds it again after an outage."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

import asyncpg

from lensmith_platform.errors import DependencyUnavailableError

_LOG = logging.getLogger(__name__)

STATEMENT_SECONDS = 30
"""Limit of one statement, enforced by the server; the roles carry it (see `roles`)."""

_CLIENT_SECONDS = 40.0  # Beyond the server's own limit: only a server that answers no more is given up by the client.
_CONNECT_SECONDS = 5.0
_RETRY_SECONDS = 0.1

NOT_UP_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
)
"""What connecting raises while Postgres is away, starting or full; anything else is a mistake in the URL."""


async def create_pool(
    url: str,
    *,
    size: int = 10,
    statement_cache_size: int = 256,
    wait_seconds: float = 30.0,
    init: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> asyncpg.Pool:
    """Open a pool whose connections read and write `json`/`jsonb` as Python values.

    Args:
        url: of the role that serves, never of a superuser: row-level security would not bind it.
        size: largest number of connections; one is opened at once, the others when needed.
        statement_cache_size: prepared statements kept by a connection; 0 behind a pooler in transaction mode.
        wait_seconds: how long to wait for a Postgres that is not up yet.
        init: prepares each new connection, for example with a codec of an extension's type.

    Raises:
        DependencyUnavailableError: Postgres did not come up in time (`POSTGRES_UNAVAILABLE`).
    """

    async def prepare(connection: asyncpg.Connection) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        if init is not None:
            await init(connection)

    deadline = time.monotonic() + wait_seconds
    waiting = False
    while True:
        try:
            return await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=size,
                statement_cache_size=statement_cache_size,
                timeout=_CONNECT_SECONDS,
                command_timeout=_CLIENT_SECONDS,
                init=prepare,
                reset=_keep_session,
            )
        except NOT_UP_ERRORS as error:
            if time.monotonic() >= deadline:
                raise DependencyUnavailableError(
                    "POSTGRES_UNAVAILABLE", f"Postgres did not answer within {wait_seconds:g} s."
                ) from error
            if not waiting:
                _LOG.warning("waiting for Postgres: %s", error)
                waiting = True
            await asyncio.sleep(_RETRY_SECONDS)


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Reset nothing, which saves a round trip: units of work set everything for their transaction only."""
