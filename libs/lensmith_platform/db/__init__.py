"""Postgres: pool, units of work, roles, migrations, pages.

A service builds one `Database` for its own role and, where it has background work over all apps, a second one for its
worker role. In a migration, ``SELECT protect('inputs')`` binds a table with an ``app_id`` to the app of the
transaction; ``protect('models', public => true)`` also lets every app read the rows of app 1 (`main`). A table with an
``app_id`` that is not protected is refused by the migration runner.
"""

from lensmith_platform.db.pool import create_pool
from lensmith_platform.db.unit_of_work import Connection, Database, open_database, savepoint

__all__ = ["Connection", "Database", "create_pool", "open_database", "savepoint"]
