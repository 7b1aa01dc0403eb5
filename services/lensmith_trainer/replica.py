"""A replica of an app's training data on the local disk: a retrain fetches only what has changed.

One SQLite file for each app and space. Every write is a transaction and each row carries a checksum, so that a process
killed at any moment leaves a file that is right or that is noticed to be wrong; a wrong one is made anew. The cursor is
written last: what was applied twice is the same.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lensmith_api.internal.v1.training_data_service_pb2 import TrainingInput

__all__ = ["Replica", "ReplicaDamagedError", "Row"]

_FORMAT = "1"
_FLOAT16_BYTES = 2
_BUSY_SECONDS = 30.0
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR)


class ReplicaDamagedError(Exception):
    """The file is not what was written; it must be made anew."""


@dataclass(frozen=True)
class Row:
    """One input that may take part in a training.

    Attributes:
        uid: Of the input.
        sha256: Of its bytes, lower-case hex.
        vector: Little-endian float16.
        labels: By own id of the concept: whether the input shows it, or its number.
    """

    uid: str
    sha256: str
    vector: bytes
    labels: Mapping[str, bool | float]


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
            row = database.execute("SELECT value FROM meta WHERE name = 'cursor'").fetchone()
            return str(row[0]) if row else ""

    def apply(self, inputs: Iterable[TrainingInput]) -> None:
        """Apply a part of a stream.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        gone, rows = [], []
        for item in inputs:
            # An input without a vector or label cannot take part; it comes again when that changes.
            if item.deleted or item.test or not item.vector or not item.labels:
                gone.append((item.input_uid,))
                continue
            labels = json.dumps(
                {
                    label.concept: label.positive if label.WhichOneof("value") == "positive" else label.number
                    for label in item.labels
                }
            )
            sha256 = item.sha256.hex()
            checksum = _checksum(item.input_uid, sha256, item.vector, labels)
            rows.append((item.input_uid, sha256, item.vector, labels, checksum))
        with self._open() as database, database:
            database.executemany("DELETE FROM inputs WHERE uid = ?", gone)
            database.executemany(
                """INSERT INTO inputs (uid, sha256, vector, labels, checksum) VALUES (?, ?, ?, ?, ?)
                   ON CONFLICT (uid) DO UPDATE SET sha256 = excluded.sha256, vector = excluded.vector,
                     labels = excluded.labels, checksum = excluded.checksum""",
                rows,
            )

    def finish(self, cursor: str) -> None:
        """Note where the next stream begins, once everything before is applied.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        with self._open() as database, database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'cursor'", (cursor,))

    def rows(self, concepts: Iterable[str]) -> list[Row]:
        """Return the inputs that carry a label of any of the concepts, in order of uid.

        Raises:
            ReplicaDamagedError: The file is damaged, or of something else.
        """
        wanted = set(concepts)
        found: list[Row] = []
        length = -1
        with self._open() as database:
            for uid, sha256, vector, text, checksum in database.execute(
                "SELECT uid, sha256, vector, labels, checksum FROM inputs ORDER BY uid"
            ):
                if _checksum(uid, sha256, vector, text) != checksum:
                    raise ReplicaDamagedError(f"a row of {self._path} is not what was written")
                length = len(vector) if length < 0 else length
                if len(vector) != length or length % _FLOAT16_BYTES:
                    raise ReplicaDamagedError(f"{self._path} holds vectors of different lengths")
                labels = json.loads(text)
                if not wanted.isdisjoint(labels):
                    found.append(Row(uid, sha256, vector, labels))
        return found

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
            with database:
                database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
                database.execute(
                    """CREATE TABLE inputs (uid TEXT PRIMARY KEY, sha256 TEXT NOT NULL, vector BLOB NOT NULL,
                         labels TEXT NOT NULL, checksum INTEGER NOT NULL) STRICT, WITHOUT ROWID"""
                )
                database.executemany(
                    "INSERT INTO meta (name, value) VALUES (?, ?)", [("identity", self._identity), ("cursor", "")]
                )
        found = database.execute("SELECT value FROM meta WHERE name = 'identity'").fetchone()
        if found is None or found[0] != self._identity:
            raise ReplicaDamagedError(f"{self._path} is of another app, space or format")


def _checksum(uid: str, sha256: str, vector: bytes, labels: str) -> int:
    return zlib.crc32(vector, zlib.crc32(f"{uid}{sha256}{labels}".encode()))
