"""Files from the web: fetched in one piece or several, and kept only if they are what was promised.

What arrived of a file stays as `NAME.partial`, with a note of which file it was (`ETag`, `Last-Modified`). The next
call asks for the rest, and gets the whole file where the server has another one by now (`If-Range`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from lensmith.errors import ForbiddenError, InvalidInputError, LensmithError, NotFoundError, UnavailableError

Report = Callable[[int, int | None], None]
"""Takes how many bytes are there, and how many there will be where that is known."""

MAX_BYTES: Final = 4 << 30
ATTEMPTS: Final = 5
"""Failures in a row, without a byte in between, before the server is given up."""
_TIMEOUT: Final = httpx.Timeout(30, connect=10)
_BUSY: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Expected:
    """What a file has to be; what is empty or None may be anything.

    Attributes:
        sha256: Lower-case hex.
        git_blob: SHA-1 that Git gives the file, lower-case hex.
        size: Bytes.
    """

    sha256: str = ""
    git_blob: str = ""
    size: int | None = None

    @property
    def certain(self) -> bool:
        """Whether a hash tells the file from any other."""
        return bool(self.sha256 or self.git_blob)

    def check(self, path: Path, name: str) -> None:
        """Holds a file against this.

        Raises:
            InvalidInputError: `CHECKSUM_MISMATCH`: it is another file.
        """
        actual = path.stat().st_size
        if self.size is not None and actual != self.size:
            raise _mismatch(name, f"{self.size} bytes", f"{actual} bytes")
        if self.sha256 and (found := _digest(path, hashlib.sha256())) != self.sha256:
            raise _mismatch(name, f"sha256 {self.sha256}", found)
        if self.git_blob:
            # Git's own name of a file, not a protection of ours: S324 does not apply.
            begun = hashlib.sha1(b"blob %d\0" % actual, usedforsecurity=False)
            if (found := _digest(path, begun)) != self.git_blob:
                raise _mismatch(name, f"git blob {self.git_blob}", found)


def download(
    url: str,
    target: Path,
    *,
    expected: Expected | None = None,
    headers: Mapping[str, str] | None = None,
    limit: int = MAX_BYTES,
    report: Report = lambda _done, _total: None,
) -> Path:
    """Fetches a file, going on where an earlier call was cut off.

    Args:
        url: `http` or `https`.
        target: Where it goes; what came so far lies beside it. Its folder is made.
        expected: What it has to be. A `target` that is there and is proven by a hash is not fetched again.
        headers: Sent to the host of `url` only.
        limit: Most bytes to take.
        report: Told of the progress.

    Raises:
        InvalidInputError: `CHECKSUM_MISMATCH`, `DOWNLOAD_TOO_LARGE` or `URL_INVALID`.
        NotFoundError: `DOWNLOAD_NOT_FOUND`: there is no such file.
        ForbiddenError: `DOWNLOAD_FORBIDDEN`: the server wants a key, or another one.
        UnavailableError: `DOWNLOAD_FAILED`: no connection, or it broke too often; what came is kept.
    """
    wanted = expected or Expected()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if wanted.certain and target.is_file():
        with suppress(InvalidInputError):
            wanted.check(target, target.name)
            return target
    transfer = _Transfer(url, target, wanted, headers or {}, limit, report)
    transfer.run()
    try:
        wanted.check(transfer.partial, target.name)
    except InvalidInputError:
        transfer.forget()
        if not transfer.resumed:
            raise
        # The beginning may be of another file than the rest; one whole file settles it.
        transfer.run()
        try:
            wanted.check(transfer.partial, target.name)
        except InvalidInputError:
            transfer.forget()
            raise
    transfer.partial.replace(target)
    transfer.forget()
    return target


class _Transfer:
    """One file on its way: what came of it, and of which file that was."""

    def __init__(
        self, url: str, target: Path, expected: Expected, headers: Mapping[str, str], limit: int, report: Report
    ) -> None:
        self.partial = target.with_name(f"{target.name}.partial")
        self.resumed = False
        self._note = target.with_name(f"{target.name}.partial.json")
        self._url = url
        self._expected = expected
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._limit = limit
        self._report = report

    def run(self) -> None:
        """Receives until all is there."""
        failures = 0
        with httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client:
            while True:
                before = self._size()
                try:
                    if self._receive(client):
                        return
                    problem: Exception = UnavailableError("DOWNLOAD_FAILED", "the server is busy")
                except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                    raise InvalidInputError("URL_INVALID", f"{self._url} is no URL to fetch: {error}") from error
                except httpx.TransportError as error:
                    problem = error
                failures = 1 if self._size() > before else failures + 1
                unreachable = isinstance(problem, httpx.ConnectError | httpx.ConnectTimeout) and not before
                if failures >= ATTEMPTS or unreachable:
                    raise self._failed(problem) from problem
                time.sleep(min(0.1 * 2**failures, 3.0))

    def forget(self) -> None:
        """Removes what came so far."""
        self.partial.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _receive(self, client: httpx.Client) -> bool:
        """One request; False where the server asks to come again."""
        headers = {**self._headers, **self._rest()}
        asked = "Range" in headers
        with client.stream("GET", self._url, headers=headers) as response:
            if response.status_code in _BUSY:
                return False
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked:
                self.forget()
                return False
            self._refuse(response)
            goes_on = response.status_code == HTTPStatus.PARTIAL_CONTENT
            if goes_on and not response.headers.get("Content-Range", "").startswith(f"bytes {self._size()}-"):
                self.forget()
                return False
            self.resumed = self.resumed or goes_on
            self._write(response, goes_on=goes_on)
        return True

    def _write(self, response: httpx.Response, *, goes_on: bool) -> None:
        if not goes_on:
            self._note.write_text(json.dumps({"url": self._url, "validator": _validator(response.headers)}))
        done = self._size() if goes_on else 0
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else self._expected.size
        if total is not None and total > self._limit:
            raise self._too_large()
        with self.partial.open("ab" if goes_on else "wb") as file:
            # As they come: what waits for a chunk to fill would be lost when the connection breaks.
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > self._limit:
                    raise self._too_large()
                file.write(chunk)
                self._report(done, total)

    def _rest(self) -> dict[str, str]:
        """Headers that ask for what is missing, where what is there can be told from another file's beginning."""
        size = self._size()
        try:
            note = json.loads(self._note.read_text())
            validator = str(note["validator"]) if note["url"] == self._url else ""
        except (OSError, ValueError, TypeError, KeyError):
            validator = ""
        if not size or not (validator or self._expected.certain):
            return {}
        rest = {"Range": f"bytes={size}-"}
        return {**rest, "If-Range": validator} if validator else rest

    def _refuse(self, response: httpx.Response) -> None:
        if self._url.startswith("https:") and response.url.scheme != "https":
            raise InvalidInputError("URL_INVALID", f"{self._url} leads to {response.url.host} without encryption")
        if response.is_success:
            return
        status = f"{response.url.host} says {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ForbiddenError("DOWNLOAD_FORBIDDEN", f"{self._url} may not be fetched: {status}")
        if response.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise NotFoundError("DOWNLOAD_NOT_FOUND", f"there is no {self._url}: {status}")
        raise UnavailableError("DOWNLOAD_FAILED", f"{self._url} cannot be fetched: {status}")

    def _failed(self, problem: Exception) -> LensmithError:
        kept = f"; {self._size()} bytes are kept, the same command goes on from there" if self._size() else ""
        why = str(problem) or type(problem).__name__
        return UnavailableError("DOWNLOAD_FAILED", f"{self._url} cannot be fetched: {why}{kept}")

    def _too_large(self) -> LensmithError:
        self.forget()
        return InvalidInputError("DOWNLOAD_TOO_LARGE", f"{self._url} has more than {self._limit} bytes")

    def _size(self) -> int:
        try:
            return self.partial.stat().st_size
        except OSError:
            return 0


def _validator(headers: httpx.Headers) -> str:
    """What `If-Range` may hold: a strong ETag, or else the date of the last change."""
    etag = str(headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))


def _digest(path: Path, digest: "hashlib._Hash") -> str:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _mismatch(name: str, expected: str, actual: str) -> InvalidInputError:
    return InvalidInputError(
        "CHECKSUM_MISMATCH",
        f"{name} is not the file that was promised: expected {expected}, found {actual}",
        metadata={"expected": expected, "actual": actual},
    )
