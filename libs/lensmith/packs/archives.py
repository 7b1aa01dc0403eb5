"""Packs in archives: only the files of a pack come out, and only into the folder that was meant."""

import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from lensmith.errors import InvalidInputError

SUFFIXES: Final = (".zip", ".tar.gz", ".tgz", ".tar")
FILES: Final = {
    "card.json": 4 << 20,
    "labels.txt": 16 << 20,
    "calibration.json": 4 << 20,
    "config.json": 16 << 20,
    "preprocessor_config.json": 1 << 20,
    "model.onnx": 2 << 30,
    "onnx/model.onnx": 2 << 30,
}
"""What is taken out, and the most bytes of each."""
_MAX_MEMBERS: Final = 10_000
_CARDS: Final = ("card.json", "preprocessor_config.json")


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(SUFFIXES)


def extract(archive: Path, folder: Path) -> Path:
    """Takes the files of a pack out of an archive, in which they lie at the top or in one folder.

    Files that packs do not have (a README, a licence) stay inside. Returns `folder`.

    Raises:
        InvalidInputError: `ARCHIVE_INVALID`: it cannot be read, has a link or a path that leads outside, is larger
            than a pack may be, or holds no pack.
    """
    try:
        with _members(archive) as members:
            _extract(members, folder)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, ValueError) as error:
        raise _invalid(archive.name, f"cannot be read: {error}") from error
    except RuntimeError as error:  # what zipfile raises where a password is needed
        raise _invalid(archive.name, str(error)) from error
    if not any((folder / card).is_file() for card in _CARDS):
        raise _invalid(archive.name, f"holds no pack: neither {' nor '.join(_CARDS)} is in it")
    return folder


class _Member:
    """A file in an archive, opened when it is wanted."""

    def __init__(self, name: str, kind: str, container: zipfile.ZipFile | tarfile.TarFile) -> None:
        self.path = PurePosixPath(name)
        self.kind = kind
        self._name = name
        self._container = container

    def open(self) -> IO[bytes]:
        if isinstance(self._container, zipfile.ZipFile):
            return self._container.open(self._name)
        file = self._container.extractfile(self._name)
        if file is None:
            raise ValueError(f"{self._name} is no file")
        return file


@contextmanager
def _members(archive: Path) -> Iterator[Iterable[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [_Member(item.filename, _kind_of_zip(item), zipped) for item in zipped.infolist()]
        return
    with tarfile.open(archive) as tarred:
        kinds = (("file", tarfile.TarInfo.isreg), ("folder", tarfile.TarInfo.isdir))
        listed = []
        for item in tarred:
            kind = next((name for name, test in kinds if test(item)), "link or device")
            listed.append(_Member(item.name, kind, tarred))
            if len(listed) > _MAX_MEMBERS:
                break
        yield listed


def _kind_of_zip(item: zipfile.ZipInfo) -> str:
    if item.is_dir():
        return "folder"
    mode = item.external_attr >> 16
    return "file" if not stat.S_IFMT(mode) or stat.S_ISREG(mode) else "link or device"


def _extract(members: Iterable[_Member], folder: Path) -> None:
    listed = list(members)
    if len(listed) > _MAX_MEMBERS:
        raise ValueError(f"it has more than {_MAX_MEMBERS} entries")
    for member in listed:
        # Nothing is ever written where a name says; but who packs such names means harm, or made a mistake.
        if member.path.is_absolute() or ".." in member.path.parts or "\\" in str(member.path):
            raise ValueError(f"{str(member.path)[:100]!r} leads outside")
        if member.kind not in ("file", "folder"):
            raise ValueError(f"{str(member.path)[:100]!r} is a {member.kind}")
    files = [member for member in listed if member.kind == "file"]
    cards = [member.path.parent for member in files if member.path.name in _CARDS]
    root = min(cards, key=lambda path: len(path.parts), default=PurePosixPath())
    for member in files:
        name = str(member.path.relative_to(root)) if member.path.is_relative_to(root) else ""
        if name in FILES:
            _copy(member, folder / name, FILES[name])


def _copy(member: _Member, target: Path, limit: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = limit
    # What an archive says of sizes is its own claim; what comes out is counted. A name that comes twice is refused.
    with member.open() as source, target.open("xb") as file:
        while chunk := source.read(1 << 20):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"{member.path.name} has more than {limit} bytes")
            file.write(chunk)


def _invalid(name: str, why: str) -> InvalidInputError:
    return InvalidInputError("ARCHIVE_INVALID", f"{name}: {why}")
