"""Where a base network comes from: a folder, an archive, a URL or a hub; whatever it is, a folder comes of it."""

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import urljoin, urlsplit

from lensmith.errors import InvalidInputError, NotFoundError
from lensmith.packs import archives, hub
from lensmith.packs.download import Expected, Report, download
from lensmith.packs.summary import CARD, MODEL, card_summary, is_pack, read_card

LABELS: Final = "labels.txt"
CALIBRATION: Final = "calibration.json"


def is_url(source: str) -> bool:
    """Whether a source is on the web."""
    return source.startswith(("https://", "http://"))


def is_hub_name(source: str) -> bool:
    """Whether a source is the name of a published network."""
    return source.startswith(hub.SCHEME)


def without_suffix(source: str) -> str:
    """The last part of a path or URL, as a network may be called."""
    path = PurePosixPath(urlsplit(source).path if is_url(source) else source)
    name = path.name
    if name == CARD:
        return path.parent.name
    return next((name[: -len(suffix)] for suffix in archives.SUFFIXES if name.lower().endswith(suffix)), name)


class DownloadFolder:
    """Where what comes from one source is kept until it is installed, so that a broken transfer goes on.

    Args:
        cache: The client's cache folder.
        source: Names the folder.
    """

    def __init__(self, cache: Path, source: str) -> None:
        self.path = cache / "downloads" / hashlib.sha256(source.encode()).hexdigest()[:16]

    def clear(self) -> None:
        """Removes what is not needed any more."""
        shutil.rmtree(self.path, ignore_errors=True)


def local_folder(source: str, scratch: Path, sha256: str = "") -> Path:
    """The folder of a source on this machine: itself, or what was in an archive.

    Args:
        source: A folder, or an archive.
        scratch: Where an archive is taken apart.
        sha256: What the archive, or the `model.onnx` of the folder, must have.

    Raises:
        InvalidInputError: There is no such folder or archive, or it is another one than was asked for.
    """
    path = Path(source).expanduser()
    proven = path / MODEL if path.is_dir() else path
    if not path.exists() or not (path.is_dir() or archives.is_archive(path.name)):
        raise InvalidInputError(
            "SOURCE_NOT_FOUND",
            f"{source} is no folder or archive here, no URL, and no name on a hub ({hub.SCHEME}OWNER/NAME)",
        )
    if sha256 and not proven.is_file():
        raise InvalidInputError("CHECKSUM_MISMATCH", f"{path} has no {MODEL} that could have the sha256 {sha256}")
    if sha256:
        Expected(sha256=sha256).check(proven, proven.name)
    return path if path.is_dir() else archives.extract(path, scratch)


def fetch_url(url: str, kept: Path, scratch: Path, sha256: str, report: Report) -> Path:
    """The folder of what a URL gives: an archive, or a `card.json` with its files beside it.

    Args:
        url: Of `….zip`, `….tar.gz` or `…/card.json`.
        kept: Where what was fetched stays, in case the transfer breaks.
        scratch: Where an archive is taken apart.
        sha256: What the archive, or the `model.onnx` beside the card, must have; empty: nothing is demanded.
        report: Told of the progress.

    Raises:
        InvalidInputError: It is neither, or not the file that was asked for.
        UnavailableError: The server cannot be reached, or not for long enough.
    """
    name = PurePosixPath(urlsplit(url).path).name
    if archives.is_archive(name):
        archive = download(url, kept / name, expected=Expected(sha256=sha256), report=report)
        return archives.extract(archive, scratch)
    if name != CARD:
        raise InvalidInputError(
            "URL_INVALID",
            f"{url} is no archive ({', '.join(archives.SUFFIXES)}) and no {CARD}; networks of a hub are imported by "
            f"name: {hub.SCHEME}OWNER/NAME",
        )
    # The card may have changed since; the graph is told by the hash in it.
    download(url, kept / CARD, limit=archives.FILES[CARD])
    card = read_card(kept)
    if not is_pack(card):
        raise InvalidInputError(
            "PACK_INVALID", f"{url} is not the card of a pack; import its folder or an archive of it"
        )
    summary = card_summary(card)
    if sha256 and sha256 != summary.sha256:
        raise InvalidInputError(
            "CHECKSUM_MISMATCH", f"{MODEL} beside {url} has the sha256 {summary.sha256}, not {sha256}"
        )
    if summary.names_concepts:
        download(urljoin(url, LABELS), kept / LABELS, limit=archives.FILES[LABELS])
        # Not every classifier has one, and the card does not tell.
        with suppress(NotFoundError):
            download(urljoin(url, CALIBRATION), kept / CALIBRATION, limit=archives.FILES[CALIBRATION])
    expected = Expected(sha256=summary.sha256, size=summary.size_bytes)
    download(urljoin(url, MODEL), kept / MODEL, expected=expected, report=report)
    return kept
