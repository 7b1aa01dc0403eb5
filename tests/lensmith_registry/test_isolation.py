"""A second app reads nothing, and the database refuses it too when the filter is left out."""

import asyncpg
import pytest

from lensmith_platform.db.pool import create_pool
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.principal import AppRef
from lensmith_registry import (
    base_model_store,
    learning_curve_store,
    model_upgrade_store,
    request_store,
    store,
    upgrade_store,
    version_state_store,
    version_store,
)
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.model_upgrade_store import ModelUpgradeRow
from lensmith_registry.store import ModelDefinition
from lensmith_registry.version_store import NewVersion

DEFINITION = ModelDefinition("", "", "multi_class", ("a", "b"), False, "", None, None)
BASE = BaseModelRow("base", 1, "space-1", "", "", "", "", 4, 32, 1, "0" * 64, 10, "1" * 64, ("card.json",), 5, "")


@pytest.fixture
async def service(database):
    pool = await create_pool(database.url("registry"), size=2)
    yield Database(pool)
    await pool.close()


async def _version(service: Database, app_id: int) -> version_store.VersionRow:
    async with service.transaction(app_id) as connection:
        await base_model_store.insert_base_model(connection, BASE)
        await base_model_store.resolve_space(connection, app_id, "")
        model = await store.insert_model(connection, app_id, f"app{app_id}", "sorter", DEFINITION, actor="test")
        await request_store.insert_request(connection, app_id, "CreateModel", "r", b"x", model.uid)
        number = await store.next_number(connection, model)
        new = NewVersion(BASE.space, BASE.name, {"name": "x"}, 1, ("a", "b"), ("A", "B"), [], "", "test")
        return await version_store.insert_version(connection, model, number, new)


async def test_rows_of_another_app_are_invisible_when_the_filter_is_left_out(service):
    await _version(service, 7)
    for table in ("app_spaces", "models", "model_versions", "requests"):
        for app_id, rows in ((8, 0), (None, 0), (7, 1)):
            async with service.transaction(app_id) as connection:
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == rows, (table, app_id)


async def test_learning_curves_of_another_app_are_invisible_when_the_filter_is_left_out(service):
    version = await _version(service, 7)
    async with service.transaction(7) as connection:
        assert await learning_curve_store.request(connection, version)
        assert not await learning_curve_store.request(connection, version)
    for app_id, rows in ((8, 0), (None, 0), (7, 1)):
        async with service.transaction(app_id) as connection:
            assert await connection.fetchval("SELECT count(*) FROM learning_curves") == rows, app_id


async def test_upgrades_of_another_app_are_invisible_when_the_filter_is_left_out(service):
    await _version(service, 7)
    app = AppRef(7, "uid-7", "app7")
    async with service.transaction(7) as connection:
        base = await base_model_store.resolve_space(connection, 7, "")
        upgrade = await upgrade_store.insert_upgrade(connection, app, base, base, force=False, actor="test")
        model = ModelUpgradeRow(1, "sorter", "WAITING", 1, 0, 0, "accuracy", 0.5, None, "")
        await model_upgrade_store.save_model(connection, upgrade, model)
    for table in ("upgrades", "model_upgrades"):
        for app_id, rows in ((8, 0), (None, 0), (7, 1)):
            async with service.transaction(app_id) as connection:
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == rows, (table, app_id)


async def test_models_of_main_are_readable_but_not_writable_when_another_app_asks(service):
    await _version(service, 1)
    async with service.transaction(8) as connection:
        assert await connection.fetchval("SELECT count(*) FROM models") == 1
        assert await connection.fetchval("SELECT count(*) FROM model_versions") == 1
        assert await connection.execute("UPDATE models SET description = 'mine'") == "UPDATE 0"
        assert await connection.execute("DELETE FROM model_versions") == "DELETE 0"


async def test_writing_a_row_of_another_app_is_refused_when_the_transaction_is_bound_to_one(service):
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with service.transaction(8) as connection:
            await store.insert_model(connection, 7, "trash", "sorter", DEFINITION, actor="test")


async def test_state_machine_refuses_every_step_that_it_does_not_know(service):
    version = await _version(service, 7)
    async with service.transaction(7) as connection:
        assert not await version_state_store.make_ready(connection, 7, version.uid)
        assert await version_state_store.claim(connection, 7, version.uid, "one", 60)
        assert not await version_state_store.claim(connection, 7, version.uid, "two", 60)
        assert not await version_state_store.renew(connection, 7, version.uid, 99, 60, (0.5, "", ""))
        assert await version_state_store.renew(connection, 7, version.uid, 1, 60, (0.5, "fitting", ""))
        assert not await version_state_store.make_ready(connection, 7, version.uid)
        assert await version_state_store.cancel(connection, 7, version.uid)
        assert not await version_state_store.cancel(connection, 7, version.uid)
        assert not await version_state_store.claim(connection, 7, version.uid, "three", 60)
        assert not await version_state_store.renew(connection, 7, version.uid, 1, 60, (0.5, "fitting", ""))
        assert not await version_state_store.fail(connection, 7, version.uid, 1, {"code": 9})
        row = await version_store.version_by_uid(connection, 7, version.uid)
    assert (row.state, row.fraction, row.lease) == ("CANCELLED", 0.5, 1)
