"""Brings a folder of pictures in: file by file, resumable, with an error for each file that fails.

Each input notes the name of its file, for people to find it again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TextIO

from lensmith import Client
from lensmith.config import cache_folder
from lensmith.errors import LensmithError
from lensmith.labels import LabelledFile
from lensmith.types import NewInput

CONCEPTS_PER_CALL: Final = 1000
FILE: Final = "file"
"""Key of the metadata of an input that says from which file it came."""


@dataclass
class ImportReport:
    """What became of an import.

    Attributes:
        created: Pictures that are new to the app.
        duplicates: Pictures that the app had already.
        skipped: Files that an earlier, interrupted import had brought in.
        failed: Files that were refused, each with why.
    """

    created: int = 0
    duplicates: int = 0
    skipped: int = 0
    failed: list[tuple[Path, LensmithError]] = field(default_factory=list)


class Journal:
    """Remembers which files of a folder an app has, so that an import that was broken off goes on where it stopped.

    A file counts as the same while its path, size, time and annotations are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: set[str] = set()
        self._file: TextIO | None = None

    @classmethod
    def of(cls, client: Client, folder: Path) -> Self:
        """The journal of this folder in this app of this platform."""
        name = hashlib.sha256(
            f"{client.url}\n{client.apps.get(client.app).uid}\n{folder.resolve()}".encode()
        ).hexdigest()
        return cls(cache_folder() / "imports" / f"{name[:32]}.txt")

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            # A line that was cut off in the middle matches nothing.
            self._done = set(self._path.read_text().splitlines())
        self._file = self._path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def has(self, item: LabelledFile) -> bool:
        """Whether this file was brought in before."""
        return _fingerprint(item) in self._done

    def add(self, item: LabelledFile) -> None:
        """Notes that this file was brought in."""
        if self._file:
            self._file.write(_fingerprint(item) + "\n")
            self._file.flush()

    def forget(self) -> None:
        """Removes the journal: everything was brought in."""
        self._path.unlink(missing_ok=True)


def import_files(
    client: Client,
    files: Iterable[LabelledFile],
    journal: Journal,
    advance: Callable[[int], None],
    *,
    test: bool = False,
) -> ImportReport:
    """Brings files in.

    Args:
        client: Of the app to bring them into.
        files: The files, with their annotations. Concepts that do not exist are created.
        journal: Remembers what was done.
        advance: Called with the number of files that are settled.
        test: Whether to keep the pictures out of training.

    Returns:
        What became of them.

    Raises:
        LensmithError: The platform cannot be reached, or the key may not do this. What was done is in the journal.
    """
    report = ImportReport()
    todo = []
    for item in files:
        if journal.has(item):
            report.skipped += 1
            advance(1)
        else:
            todo.append(item)
    _create_concepts(client, todo)
    results = client.inputs.create(
        NewInput(item.path, annotations=item.annotations, metadata={FILE: _told(item.path)}, test=test) for item in todo
    )
    for item, result in zip(todo, results, strict=True):
        if result.error:
            report.failed.append((item.path, result.error))
        else:
            report.duplicates += result.duplicate
            report.created += not result.duplicate
            journal.add(item)
        advance(1)
    if not report.failed:
        journal.forget()
    return report


def _create_concepts(client: Client, files: Iterable[LabelledFile]) -> None:
    concepts = sorted({annotation.concept for item in files for annotation in item.annotations})
    for part in _parts(concepts, CONCEPTS_PER_CALL):
        client.concepts.create(part)


def _parts(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _told(path: Path) -> str:
    """What people know a file by, `glass/bottle.jpg`; what no text can hold of it is replaced."""
    return "/".join(path.parts[-2:]).encode(errors="replace").decode()


def _fingerprint(item: LabelledFile) -> str:
    stat = item.path.stat()
    said = [[a.concept, a.positive, a.number] for a in item.annotations]
    text = json.dumps([str(item.path.resolve()), stat.st_size, stat.st_mtime_ns, said])
    return hashlib.sha256(text.encode()).hexdigest()
