"""The database itself keeps apps apart, also where a query forgets its filter."""

import asyncpg

from lensmith_auth.settings import AuthSettings
from tests.conftest import Database
from tests.lensmith_auth.conftest import OPERATOR_SECRET, Caller, Start


async def test_rows_of_another_app_are_invisible_when_the_filter_is_left_out(
    operator: Caller, database: Database
) -> None:
    await operator.create_app("one")
    await operator.create_app("two")
    connection = await asyncpg.connect(database.url("auth"))
    try:
        assert await connection.fetch("SELECT * FROM keys") == []
        async with connection.transaction():
            app_id = 1000
            await connection.execute("SELECT set_config('lensmith.app', $1, true)", str(app_id))
            seen = await connection.fetch("SELECT DISTINCT app_id FROM keys")
            assert [row["app_id"] for row in seen] == [app_id]
            assert await connection.execute("DELETE FROM keys WHERE app_id <> $1", app_id) == "DELETE 0"
    finally:
        await connection.close()


async def test_a_second_start_keeps_the_first_operator_key(settings: AuthSettings, start: Start) -> None:
    async with start(settings):
        pass
    other = settings.model_copy(update={"bootstrap_key": type(settings.bootstrap_key)("lsk_" + "another1" * 6)})
    async with start(other) as operator:
        assert (await operator.with_secret(OPERATOR_SECRET).whoami()).operator
