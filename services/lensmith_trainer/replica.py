"""A replica of an app's training data on the local disk: a retrain fetches only what has changed.

One SQLite file for each app and space. Every write is a transaction and each row carries a checksum, so that a process
killed at any moment leaves a file that is right or that is noticed to be wrong; a wrong one is made anew. The cursor is
written last: what was applied twice is the same.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lensmith_api.internal.v1.training_data_service_pb2 import TrainingInput
from lensmith_trainer.holding import Change, Holding, Row

__all__ = ["Replica", "ReplicaDamagedError", "changes_of"]

_FORMAT = "3"
_BUSY_SECONDS = 30.0
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)


class ReplicaDamagedError(Exception):
    """The file is not what was written; it must be made anew."""


def changes_of(inputs: Iterable[TrainingInput]) -> list[Change]:
    """Read a part of a stream."""
    changes = []
    for item in inputs:
        # An input without a vector or label cannot take part; it comes again when that changes.
        if item.deleted or not item.vector or not item.labels:
            changes.append(Change(item.input_uid, None))
            continue
        labels = {
            label.concept: label.positive if label.WhichOneof("value") == "positive" else label.number
            for label in item.labels
        }
        changes.append(Change(item.input_uid, Row(item.input_uid, item.sha256.hex(), labels, item.test), item.vector))
    return changes


class Replica:
    """The file of one app and space. Blocking: call it in a thread.

    Args:
        path: The file; its folder exists.
        app_id: The app.
        space: The space.
    """

    def __init__(self, path: Path, app_id: int, space: str) -> None:
        self._path = path
        self._identity = f"{_FORMAT}/{app_id}/{space}"

    def cursor(self) -> str:
        """Return where the next stream begins; empty: from the beginning.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        with self._open() as database:
            return _cursor(database)

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply a part of a stream.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        gone, rows = [], []
        for change in changes:
            if change.row is None:
                gone.append((change.uid,))
                continue
            labels = json.dumps(change.row.labels)
            row = change.row
            checksum = _checksum(row, change.vector, labels)
            rows.append((row.uid, row.sha256, change.vector, labels, row.test, checksum))
        with self._open() as database, database:
            database.executemany("DELETE FROM inputs WHERE uid = ?", gone)
            database.executemany(
                """INSERT INTO inputs (uid, sha256, vector, labels, test, checksum) VALUES (?, ?, ?, ?, ?, ?)
                   ON CONFLICT (uid) DO UPDATE SET sha256 = excluded.sha256, vector = excluded.vector,
                     labels = excluded.labels, test = excluded.test, checksum = excluded.checksum""",
                rows,
            )

    def finish(self, cursor: str) -> None:
        """Note where the next stream begins, once everything before is applied.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        with self._open() as database, database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'cursor'", (cursor,))

    def hold(self) -> Holding:
        """Read all of it.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        with self._open() as database:
            # One transaction: the cursor must be that of the rows.
            database.execute("BEGIN")
            holding = Holding(_cursor(database))
            try:
                holding.apply(self._changes(database))
            except ValueError as error:
                raise ReplicaDamagedError(f"{self._path} holds vectors that do not fit together: {error}") from error
            return holding

    def _changes(self, database: sqlite3.Connection) -> Iterator[Change]:
        query = "SELECT uid, sha256, vector, labels, test, checksum FROM inputs ORDER BY uid"
        for uid, sha256, vector, text, test, checksum in database.execute(query):
            try:
                row = Row(uid, sha256, json.loads(text), bool(test))
            except ValueError as error:
                raise ReplicaDamagedError(f"a row of {self._path} is not what was written") from error
            if _checksum(row, vector, text) != checksum:
                raise ReplicaDamagedError(f"a row of {self._path} is not what was written")
            yield Change(uid, row, vector)

    def discard(self) -> None:
        """Delete the file."""
        for suffix in ("", "-journal"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as database:
                self._prepare(database)
                yield database
        except sqlite3.Error as error:
            # A full disk or a lock is no damage, and making the file anew would not help.
            if error.sqlite_errorcode not in _DAMAGE:
                raise
            raise ReplicaDamagedError(f"{self._path} is no replica: {error}") from error

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA synchronous = NORMAL")
        if not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            # Vectors are long and come in any order: rows are appended to large pages, uids have an index of their own.
            database.execute("PRAGMA page_size = 16384")
            with database:
                database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
                database.execute(
                    """CREATE TABLE inputs (uid TEXT PRIMARY KEY, sha256 TEXT NOT NULL, vector BLOB NOT NULL,
                         labels TEXT NOT NULL, test INTEGER NOT NULL, checksum INTEGER NOT NULL)
                       STRICT"""
                )
                database.executemany(
                    "INSERT INTO meta (name, value) VALUES (?, ?)", [("identity", self._identity), ("cursor", "")]
                )
        found = database.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        if found is None or found[0] != self._identity:
            raise ReplicaDamagedError(f"{self._path} is of another app, space or format")


def _cursor(database: sqlite3.Connection) -> str:
    row = database.execute("SELECT value FROM meta WHERE name = 'cursor'").fetchone()
    return str(row[0]) if row else ""


def _checksum(row: Row, vector: bytes, labels: str) -> int:
    return zlib.crc32(vector, zlib.crc32(f"{row.uid}{row.sha256}{labels}{row.test}".encode()))
