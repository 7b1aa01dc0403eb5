"""A replica of an app's training data on the local disk: a retrain fetches only what has changed.

Two files for each app and space: the vectors, and beside them in SQLite what else is known of the inputs, with the
place of each one's vector and a checksum of all of it. What changed is one transaction, in which the cursor is written
last; vectors go to places that nobody knew of before. So a process killed at any moment leaves what was there before.
Nothing waits for the disk: where the machine itself was started anew since, the replica is made anew.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lensmith_api.internal.v1.training_data_service_pb2 import StreamTrainingDataResponse
from lensmith_trainer.holding import Holding, Row, TrainingRows, Written
from lensmith_trainer.received import Labels, Received

__all__ = ["Replica", "ReplicaDamagedError", "ReplicaUpdate", "files_of"]

_FORMAT = "4"
_BUSY_SECONDS = 30.0
_TRIES = 5
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)


class ReplicaDamagedError(Exception):
    """The files are not what was written; they must be made anew."""


class ReplicaUpdate:
    """What changed, on its way into a replica: all of it, or nothing. Blocking: call it in a thread.

    Args:
        database: In a transaction, which whoever made it ends.
        holding: What the replica holds, which is brought up to date too.
    """

    def __init__(self, database: sqlite3.Connection, holding: Holding) -> None:
        self._database = database
        self._holding = holding
        self._received = Received()
        self._texts: dict[int, tuple[Labels, str]] = {}

    def apply(self, message: StreamTrainingDataResponse) -> int:
        """Apply a part of a stream; return how many inputs it was about.

        Raises:
            ValueError: A vector has another length than those before it, or the message is not whole.
            OSError: The disk is full.
        """
        changes = self._received.changes_of(message)
        vectors = {change.uid: change.vector for change in changes}
        written = self._holding.apply(changes)
        self._forget(written)
        self._database.executemany(
            """INSERT INTO inputs (uid, sha256, place, labels, test, checksum) VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT (uid) DO UPDATE SET sha256 = excluded.sha256, place = excluded.place,
                 labels = excluded.labels, test = excluded.test, checksum = excluded.checksum""",
            [
                (row.uid, row.sha256, place, text, row.test, _checksum(row, vectors[row.uid], text))
                for row, place in written.placed
                for text in (self._text(row.labels),)
            ],
        )
        return len(changes)

    def finish(self, cursor: str) -> None:
        """Note where the next stream begins, once everything before is applied, and make all of it last."""
        self._database.executemany(
            "UPDATE meta SET value = ? WHERE name = ?", [(cursor, "cursor"), (str(self._holding.dim), "dim")]
        )
        self._database.commit()
        self._holding.settle(cursor)

    def _forget(self, written: Written) -> None:
        self._database.executemany("DELETE FROM inputs WHERE uid = ?", [(uid,) for uid in written.gone])

    def _text(self, labels: Labels) -> str:
        known = self._texts.get(id(labels))
        if known is None or known[0] is not labels:
            known = self._texts[id(labels)] = labels, json.dumps(labels)
        return known[1]


class Replica:
    """The files of one app and space. Blocking: call it in a thread.

    Args:
        path: The database; its folder exists, and the vectors lie beside it.
        app_id: The app.
        space: The space.
    """

    def __init__(self, path: Path, app_id: int, space: str) -> None:
        self._path = path
        self._vectors = path.with_suffix(".vectors")
        self._boot = _boot()
        self._identity = f"{_FORMAT}/{app_id}/{space}/{self._boot}"

    def cursor(self) -> str:
        """Return where the next stream begins; empty: from the beginning.

        Raises:
            ReplicaDamagedError: A file is damaged, or of something else.
        """
        with self._open() as database:
            return _meta(database, "cursor")

    @contextmanager
    def update(self, holding: Holding) -> Iterator[ReplicaUpdate]:
        """Take changes; what is not finished when the block ends was never there, and the holding is of no use then.

        Raises:
            ReplicaDamagedError: A file is damaged, or of something else.
        """
        with self._open() as database:
            database.execute("BEGIN")
            yield ReplicaUpdate(database, holding)

    def hold(self) -> Holding:
        """Read all of it.

        Raises:
            ReplicaDamagedError: A file is damaged, or of something else.
        """
        with self._open() as database:
            # One transaction: the cursor must be that of the rows.
            database.execute("BEGIN")
            try:
                dim = int(_meta(database, "dim") or 0)
                found = list(_rows(database))
                rows = [(row, place) for row, place, _, _ in found]
                holding = Holding(self._vectors, dim, rows, _meta(database, "cursor"))
                whole = all(
                    _checksum(row, holding.raw(place), text) == checksum for row, place, text, checksum in found
                )
            except (ValueError, IndexError) as error:
                raise ReplicaDamagedError(f"{self._path} is not what was written: {error}") from error
            if not whole:
                raise ReplicaDamagedError(f"a row of {self._path} is not what was written")
            return holding

    def read(self, concepts: Iterable[str], *, tests: bool = False) -> TrainingRows:
        """Read the inputs that carry a label of any of the concepts, while others may go on with the files.

        What is read is copied first and held against its checksum then: meanwhile a vector may have left its place to
        another one. The files are never made here.

        Raises:
            ReplicaDamagedError: A file is damaged, gone, or of something else, or changes faster than it can be read.
        """
        wanted = tuple(concepts)
        for _ in range(_TRIES):
            taken = self._read_once(wanted, tests=tests)
            if taken is not None:
                return taken
        raise ReplicaDamagedError(f"{self._path} is not what was written, or changes faster than it can be read")

    def _read_once(self, concepts: Iterable[str], *, tests: bool) -> TrainingRows | None:
        """Read; None: somebody wrote meanwhile."""
        with self._open(make=False) as database:
            database.execute("BEGIN")
            try:
                found = {row.uid: (row, place, text, checksum) for row, place, text, checksum in _rows(database)}
                rows = [(row, place) for row, place, _, _ in found.values()]
                holding = Holding(self._vectors, int(_meta(database, "dim") or 0), rows, _meta(database, "cursor"))
                taken = holding.take(concepts, tests=tests)
            except (ValueError, IndexError):
                return None
            for row, vector in zip(taken.rows, taken.features, strict=True):
                _, _, text, checksum = found[row.uid]
                if _checksum(row, vector.tobytes(), text) != checksum:
                    return None
            return taken

    def discard(self) -> None:
        """Delete the files."""
        for file in files_of(self._path):
            file.unlink(missing_ok=True)

    @contextmanager
    def _open(self, *, make: bool = True) -> Iterator[sqlite3.Connection]:
        address = f"{self._path.absolute().as_uri()}?mode={'rwc' if make else 'rw'}"
        try:
            # Calls come from one thread after the other.
            with closing(
                sqlite3.connect(address, timeout=_BUSY_SECONDS, check_same_thread=False, uri=True)
            ) as database:
                if make:
                    self._prepare(database)
                if _meta(database, "identity") != self._identity:
                    raise ReplicaDamagedError(f"{self._path} is of another app, space, format or start of the machine")
                yield database
        except sqlite3.Error as error:
            # A full disk or a lock is no damage, and making the files anew would not help.
            if error.sqlite_errorcode not in _DAMAGE and (make or error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN):
                raise
            raise ReplicaDamagedError(f"{self._path} is no replica: {error}") from error

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Whoever reads goes on reading what was there while somebody writes.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'OFF' if self._boot else 'NORMAL'}")
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            with database:
                database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
                database.execute(
                    """CREATE TABLE inputs (uid TEXT PRIMARY KEY, sha256 TEXT NOT NULL, place INTEGER NOT NULL,
                         labels TEXT NOT NULL, test INTEGER NOT NULL, checksum INTEGER NOT NULL)
                       STRICT"""
                )
                database.executemany(
                    "INSERT INTO meta (name, value) VALUES (?, ?)",
                    [("identity", self._identity), ("cursor", ""), ("dim", "0")],
                )


def _boot() -> str:
    """Name of this start of the machine; empty where it has none."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def files_of(path: Path) -> list[Path]:
    """All files of a replica, by the path of its database."""
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")] + [path.with_suffix(".vectors")]


def _meta(database: sqlite3.Connection, name: str) -> str:
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def _rows(database: sqlite3.Connection) -> Iterator[tuple[Row, int, str, int]]:
    """Each input with the place of its vector, its labels as they are written, and the checksum.

    Raises:
        ValueError: A row is not what was written.
    """
    known: dict[str, Labels] = {}
    query = "SELECT uid, sha256, place, labels, test, checksum FROM inputs ORDER BY uid"
    for uid, sha256, place, text, test, checksum in database.execute(query):
        labels = known.get(text)
        if labels is None:
            labels = known[text] = json.loads(text)
        yield Row(uid, sha256, labels, bool(test)), place, text, checksum


def _checksum(row: Row, vector: bytes, labels: str) -> int:
    return zlib.crc32(vector, zlib.crc32(f"{row.uid}{row.sha256}{labels}{row.test}".encode()))
