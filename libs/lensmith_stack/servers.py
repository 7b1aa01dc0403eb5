"""Postgres, NATS and S3 together: what the services stand on, embedded or somebody else's."""

import asyncio
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from lensmith_stack.files import keep_secret, make_private_directory
from lensmith_stack.nats import Nats
from lensmith_stack.postgres import Postgres
from lensmith_stack.process import Program
from lensmith_stack.s3 import PORTS as S3_PORTS
from lensmith_stack.s3 import S3, ensure_bucket, remove_bucket

DATABASE = "lensmith"
MIGRATE_ROLE = "lensmith_migrate"
OWNERS = ("auth", "dataset", "registry")
"""Services that own tables; each has a role of its own and one for its workers."""

ROLES = (MIGRATE_ROLE, *(f"lensmith_{name}{suffix}" for name in OWNERS for suffix in ("", "_worker")))

SERVER_PORTS = ("postgres", "nats", *S3_PORTS)
"""What the servers need a port for."""

_OUTSIDE_NAMES = ("LENSMITH_POSTGRES_URL", "LENSMITH_NATS_URL", "LENSMITH_S3_URL")


@dataclass(frozen=True, slots=True)
class Outside:
    """Servers that somebody else runs; ``None`` means the embedded one.

    Attributes:
        postgres_url: of a role that may create roles, databases and the extension `vector`.
        nats_url: with credentials.
        s3_url: ``http[s]://access:secret@host:port/bucket``.
    """

    postgres_url: str | None = None
    nats_url: str | None = None
    s3_url: str | None = None

    @classmethod
    def from_env(cls) -> "Outside":
        """Read ``LENSMITH_POSTGRES_URL``, ``LENSMITH_NATS_URL`` and ``LENSMITH_S3_URL``."""
        return cls(*(os.environ.get(name) or None for name in _OUTSIDE_NAMES))

    def to_env(self) -> dict[str, str]:
        """The variables that `from_env` reads; empty where the embedded server is meant."""
        return dict(zip(_OUTSIDE_NAMES, (self.postgres_url or "", self.nats_url or "", self.s3_url or ""), strict=True))


class Servers:
    """Addresses and credentials of the three servers, and how to run those that are embedded.

    Args:
        directory: where data and credentials are kept.
        instance: id of the directory.
        ports: a port for each of `SERVER_PORTS`.
        outside: servers to use instead of embedded ones.
        fast: for tests: no fsync.
    """

    def __init__(
        self,
        directory: Path,
        instance: str,
        ports: Mapping[str, int],
        outside: Outside | None = None,
        *,
        fast: bool = False,
    ) -> None:
        self._outside = outside or Outside()
        self._secrets = make_private_directory(directory / "secrets")
        self.postgres = Postgres(
            directory / "postgres", self._secrets / "postgres", ports["postgres"], instance, fast=fast
        )
        self.nats = Nats(directory / "nats", self._secrets / "nats", ports["nats"])
        self.s3 = S3(directory / "s3", self._secrets / "s3", self._secrets / "s3-inner", ports, fast=fast)

    async def programs(self) -> list[Program]:
        """The embedded servers, prepared."""
        servers = (
            (self._outside.postgres_url, self.postgres),
            (self._outside.nats_url, self.nats),
            (self._outside.s3_url, self.s3),
        )
        return list(await asyncio.gather(*(server.prepare() for outside, server in servers if not outside)))

    @property
    def nats_url(self) -> str:
        """Connection URL of NATS with credentials."""
        return self._outside.nats_url or self.nats.url

    def s3_url(self, bucket: str | None = None) -> str:
        """``http[s]://access:secret@host:port/bucket``; another bucket than the platform's own on request."""
        url = self._outside.s3_url or self.s3.url()
        return url if bucket is None else urlsplit(url)._replace(path=f"/{bucket}").geturl()

    def admin_url(self, database: str = DATABASE) -> str:
        """URL of the superuser, for bootstrapping only: row-level security does not bind it."""
        if outside := self._outside.postgres_url:
            return urlsplit(outside)._replace(path=f"/{database}").geturl()
        return self.postgres.url(database)

    def role_url(self, role: str, database: str = DATABASE) -> str:
        """URL of one of `ROLES` with its generated password."""
        place = urlsplit(self.admin_url(database))
        host = place.netloc.rpartition("@")[2]
        return place._replace(netloc=f"{role}:{self.passwords()[role]}@{host}").geturl()

    def passwords(self) -> dict[str, str]:
        """The password of each of `ROLES`: generated, or for an outside Postgres derived from its own credentials.

        Derived, because several users of one outside server (test processes) must agree on them.
        """
        if outside := self._outside.postgres_url:
            return {role: hmac.digest(outside.encode(), role.encode(), "sha256").hex() for role in ROLES}
        return {role: keep_secret(self._secrets / role) for role in ROLES}

    async def ensure_database(self, name: str = DATABASE) -> None:
        """Create the database `name` unless it exists."""
        connection = await asyncpg.connect(self.admin_url("postgres"))
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()

    async def ensure_bucket(self, bucket: str | None = None) -> None:
        """Make the bucket of `s3_url` unless it exists."""
        await asyncio.to_thread(ensure_bucket, self.s3_url(bucket))

    async def remove_bucket(self, bucket: str) -> None:
        """Remove a bucket and what lies in it."""
        await asyncio.to_thread(remove_bucket, self.s3_url(bucket))
