"""Units of work: one short transaction bound to one app, with database errors turned into the typed ones."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Literal, TypeAlias, TypeVar

import asyncpg
import asyncpg.pool
from pydantic import SecretStr

from lensmith_platform.db.pool import NOT_UP_ERRORS, create_pool
from lensmith_platform.errors import ConflictError, DependencyUnavailableError, InternalError
from lensmith_platform.settings import PostgresSettings

Connection: TypeAlias = asyncpg.pool.PoolConnectionProxy
Isolation: TypeAlias = Literal["read committed", "repeatable read", "serializable"]
Result = TypeVar("Result")

_ACQUIRE_SECONDS = 10.0
_ROLLBACK_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
_RETRY_SECONDS = 0.02

_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    ConnectionError,
    # What asyncpg makes of the server's last word ("terminating connection") when it comes between two statements.
    asyncpg.InternalClientError,
)


class Database:
    """Transactions on a pool, for one role.

    Args:
        pool: made by `create_pool`; whoever made it closes it.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self, app_id: int | None, *, isolation: Isolation | None = None) -> AsyncIterator[Connection]:
        """Run a block in one transaction that sees the rows of one app.

        The app is set for this transaction only, in the round trip that begins it. The transaction commits when the
        block ends and rolls back when it raises. Keep it short, and never wait for the network in it.

        Args:
            app_id: whose rows are visible; ``None`` for a worker role, which sees all, and for tables of no app.
            isolation: other than Postgres' default, `read committed`.

        Raises:
            ConflictError: another transaction was in the way (`TRANSACTION_CONFLICT`); `retry` repeats such work.
            DependencyUnavailableError: no connection, or it was lost (`POSTGRES_UNAVAILABLE`) or too slow
                (`POSTGRES_TIMEOUT`). Work whose commit was under way may have been done.
            InternalError: the block swallowed a database error, so nothing was committed (`TRANSACTION_ABORTED`).
        """
        begin = _begin_statement(app_id, isolation)
        connection = await self._begin(begin)
        try:
            with _typed_errors(connection):
                try:
                    yield connection
                    if await connection.execute("COMMIT") != "COMMIT":
                        raise InternalError(
                            "TRANSACTION_ABORTED", "A database error was ignored, so the transaction was rolled back."
                        )
                except BaseException:
                    await _roll_back(connection)
                    raise
        finally:
            await self._pool.release(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection without a transaction, for LISTEN and the like; it sees no app's rows.

        Raises:
            DependencyUnavailableError: there is none to be had (`POSTGRES_UNAVAILABLE`).
        """
        connection = await self._acquire()
        try:
            with _typed_errors(connection):
                yield connection
        finally:
            await self._pool.release(connection)

    async def retry(self, operation: Callable[[], Awaitable[Result]], *, attempts: int = 5) -> Result:
        """Run `operation`, which makes its own transaction, again when another transaction was in its way.

        Raises:
            ConflictError: it still was at the last attempt.
        """
        for attempt in range(1, attempts):
            try:
                return await operation()
            except ConflictError:
                # Random, so that two rivals do not meet again.
                await asyncio.sleep(_RETRY_SECONDS * 2**attempt * random.random())  # noqa: S311 - not a secret
        return await operation()

    async def _begin(self, statement: str) -> Connection:
        """Begin a transaction; a connection that died unnoticed in the pool is replaced, nothing was done on it yet."""
        for _ in range(3):
            connection = await self._acquire()
            try:
                with _typed_errors(connection):
                    await connection.execute(statement)
            except DependencyUnavailableError:
                _terminate(connection)
                await self._pool.release(connection)
            except BaseException:
                _terminate(connection)
                await self._pool.release(connection)
                raise
            else:
                return connection
        raise DependencyUnavailableError("POSTGRES_UNAVAILABLE", "The connection to the database was lost.")

    async def _acquire(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=_ACQUIRE_SECONDS)
        except NOT_UP_ERRORS as error:
            raise DependencyUnavailableError("POSTGRES_UNAVAILABLE", "The database cannot be reached.") from error


@asynccontextmanager
async def open_database(
    url: SecretStr,
    settings: PostgresSettings,
    *,
    size: int | None = None,
    prepare: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
) -> AsyncIterator[Database]:
    """Open the database of a service as one of its roles; when the block ends, its connections close.

    Args:
        url: of the role, one of the settings' two.
        settings: of the service.
        size: most connections; None: as the settings say.
        prepare: prepares each new connection, for example with a codec of an extension's type.

    Raises:
        DependencyUnavailableError: Postgres did not come up in time (`POSTGRES_UNAVAILABLE`).
    """
    pool = await create_pool(
        url.get_secret_value(),
        size=size or settings.postgres_pool_size,
        statement_cache_size=settings.statement_cache_size,
        init=prepare,
    )
    try:
        yield Database(pool)
    finally:
        # Whoever still holds a connection then is not waited for, so that stopping ends.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()


@asynccontextmanager
async def savepoint(connection: Connection) -> AsyncIterator[None]:
    """Undo only this block's changes when it raises, so that its transaction can go on after an expected error."""
    await connection.execute("SAVEPOINT block")
    try:
        yield
    except Exception:
        await connection.execute("ROLLBACK TO SAVEPOINT block; RELEASE SAVEPOINT block")
        raise
    await connection.execute("RELEASE SAVEPOINT block")


def _begin_statement(app_id: int | None, isolation: Isolation | None) -> str:
    begin = f"BEGIN ISOLATION LEVEL {isolation}" if isolation else "BEGIN"
    # One message for both, hence no parameter; a number needs no quoting.
    return begin if app_id is None else f"{begin}; SELECT set_config('lensmith.app', '{int(app_id)}', true)"


async def _roll_back(connection: Connection) -> None:
    if _is_lost(connection):
        return
    try:
        await connection.execute("ROLLBACK", timeout=_ROLLBACK_SECONDS)
    except BaseException as error:
        # Closing it rolls back as well, and the pool opens another one.
        _terminate(connection)
        if not isinstance(error, Exception):
            raise


def _is_lost(connection: Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True  # The pool took it back when it broke.


def _terminate(connection: Connection) -> None:
    if not _is_lost(connection):
        connection.terminate()


@contextmanager
def _typed_errors(connection: Connection) -> Iterator[None]:
    try:
        yield
    except _CONFLICTS as error:
        raise ConflictError("TRANSACTION_CONFLICT", "Another change was in the way; try again.") from error
    except (asyncpg.QueryCanceledError, TimeoutError) as error:
        raise DependencyUnavailableError("POSTGRES_TIMEOUT", "The database took too long.") from error
    except _LOST as error:
        raise DependencyUnavailableError("POSTGRES_UNAVAILABLE", "The connection to the database was lost.") from error
    except asyncpg.InterfaceError as error:
        if not _is_lost(connection):
            raise  # Misuse of the library: a mistake of ours.
        raise DependencyUnavailableError("POSTGRES_UNAVAILABLE", "The connection to the database was lost.") from error
