"""Postgres: roles, migrations, units of work."""
