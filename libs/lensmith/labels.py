"""Where the labels of a folder of pictures come from: its subfolders, or a table."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lensmith.errors import InvalidInputError
from lensmith.types import Annotation

SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("avif", "bmp", "dib", "gif", "heic", "heif", "ico", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)
SEPARATORS: Final = "|;"


@dataclass(frozen=True)
class LabelledFile:
    """A picture's file with what is said about it."""

    path: Path
    annotations: tuple[Annotation, ...]


Labels = Callable[[Path], Sequence[Annotation]]
"""Tells what is said about the picture in a file."""


def pictures(folder: Path) -> Iterator[Path]:
    """Files below a folder that look like pictures, in order; hidden ones are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def from_folders(folder: Path) -> Labels:
    """Labels each picture with the name of the subfolder of `folder` that it lies in; directly in it, with none."""

    def labels(path: Path) -> Sequence[Annotation]:
        parts = path.relative_to(folder).parts
        return (Annotation(parts[0]),) if len(parts) > 1 else ()

    return labels


def from_table(table: Path, numbers: Sequence[str] = ()) -> Labels:
    """Labels pictures by a CSV file.

    Its column `image` holds paths relative to the file; `labels` holds concepts with `|` or `;` between them, one with
    `!` before it being negative; each column that `numbers` names holds numbers of the concept of that name.

    Raises:
        InvalidInputError: `TABLE_INVALID`; the message names the line.
    """
    rows: dict[Path, tuple[Annotation, ...]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"image", *numbers} - set(reader.fieldnames or ())
        if missing:
            raise InvalidInputError("TABLE_INVALID", f"{table} has no column {', '.join(sorted(missing))}")
        for row in reader:
            path = (table.parent / row["image"]).resolve()
            try:
                rows[path] = (*_concepts(row.get("labels") or ""), *_numbers(row, numbers))
            except ValueError as error:
                raise InvalidInputError("TABLE_INVALID", f"{table}, line {reader.line_num}: {error}") from error
    return lambda path: rows.get(path.resolve(), ())


def _concepts(text: str) -> Iterator[Annotation]:
    for separator in SEPARATORS:
        text = text.replace(separator, "\n")
    for concept in filter(None, map(str.strip, text.splitlines())):
        yield Annotation(concept.removeprefix("!"), positive=not concept.startswith("!"))


def _numbers(row: dict[str, str], numbers: Sequence[str]) -> Iterator[Annotation]:
    for name in numbers:
        if text := (row[name] or "").strip():
            try:
                yield Annotation(name, number=float(text))
            except ValueError:
                raise ValueError(f"{text!r} in column {name} is not a number") from None
