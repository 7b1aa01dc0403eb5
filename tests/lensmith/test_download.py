"""Downloads go on where they broke, and only what was promised is kept."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lensmith.errors import ForbiddenError, InvalidInputError, LensmithError, NotFoundError, UnavailableError
from lensmith.packs.download import ATTEMPTS, Expected, download
from tests.lensmith.web import Site, web_site

CONTENT = random.Random(1).randbytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/net.zip"


@pytest.fixture
def site() -> Iterator[Site]:
    with web_site(files={PATH: CONTENT}) as running:
        yield running


def test_a_file_is_fetched_and_proven(site: Site, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    target = download(
        site.url + PATH,
        tmp_path / "a" / "net.zip",
        expected=Expected(sha256=SHA256),
        report=lambda *at: told.append(at),
    )
    assert target.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [file.name for file in target.parent.iterdir()] == ["net.zip"]


def test_a_proven_file_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        download(site.url + PATH, tmp_path / "net.zip", expected=Expected(sha256=SHA256))
    assert len(site.requests) == 1
    (tmp_path / "net.zip").write_bytes(b"spoilt")
    assert download(site.url + PATH, tmp_path / "net.zip", expected=Expected(sha256=SHA256)).read_bytes() == CONTENT


def test_a_transfer_goes_on_when_it_breaks(site: Site, tmp_path: Path) -> None:
    site.cuts[PATH] = [300_000, 1000]
    assert download(site.url + PATH, tmp_path / "net.zip").read_bytes() == CONTENT
    ranges = [request.headers.get("range") for request in site.requests]
    assert ranges[0] is None
    assert all(part and int(part[6:-1]) > 0 for part in ranges[1:])
    assert len(ranges) == 3


def test_the_next_call_goes_on_when_the_server_was_given_up(site: Site, tmp_path: Path) -> None:
    site.cuts[PATH] = [400_000, *[0] * ATTEMPTS]
    with pytest.raises(UnavailableError, match="goes on from there") as failed:
        download(site.url + PATH, tmp_path / "net.zip")
    assert failed.value.reason == "DOWNLOAD_FAILED"
    kept = (tmp_path / "net.zip.partial").stat().st_size
    assert 0 < kept <= 400_000
    assert not (tmp_path / "net.zip").exists()
    site.requests.clear()
    site.cuts[PATH] = []
    assert download(site.url + PATH, tmp_path / "net.zip").read_bytes() == CONTENT
    assert [request.headers["range"] for request in site.requests] == [f"bytes={kept}-"]


def test_a_transfer_begins_anew_when_the_file_is_another_by_now(site: Site, tmp_path: Path) -> None:
    site.cuts[PATH] = [400_000, *[0] * ATTEMPTS]
    with pytest.raises(UnavailableError):
        download(site.url + PATH, tmp_path / "net.zip")
    site.files[PATH] = CONTENT[::-1]
    site.cuts[PATH] = []
    assert download(site.url + PATH, tmp_path / "net.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("ability", ["ranges", "etags"])
def test_a_transfer_begins_anew_when_the_server_cannot_go_on(ability: str, site: Site, tmp_path: Path) -> None:
    setattr(site, ability, False)
    site.cuts[PATH] = [300_000]
    assert download(site.url + PATH, tmp_path / "net.zip").read_bytes() == CONTENT


def test_a_beginning_of_another_file_is_thrown_away(site: Site, tmp_path: Path) -> None:
    site.etags = False
    (tmp_path / "net.zip.partial").write_bytes(b"x" * 1000)
    target = download(site.url + PATH, tmp_path / "net.zip", expected=Expected(sha256=SHA256))
    assert target.read_bytes() == CONTENT
    (tmp_path / "net.zip").unlink()
    (tmp_path / "net.zip.partial").write_bytes(b"x" * 2_000_000)
    assert download(site.url + PATH, tmp_path / "net.zip", expected=Expected(sha256=SHA256)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "expected",
    [Expected(sha256="0" * 64), Expected(size=5), Expected(git_blob="0" * 40)],
    ids=["sha256", "size", "git-blob"],
)
def test_a_file_is_refused_when_it_is_another_than_promised(expected: Expected, site: Site, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as refused:
        download(site.url + PATH, tmp_path / "net.zip", expected=expected)
    assert refused.value.reason == "CHECKSUM_MISMATCH"
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_refused_when_it_is_too_large(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as refused:
        download(site.url + PATH, tmp_path / "net.zip", limit=100_000)
    assert refused.value.reason == "DOWNLOAD_TOO_LARGE"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (404, NotFoundError, "DOWNLOAD_NOT_FOUND"),
        (401, ForbiddenError, "DOWNLOAD_FORBIDDEN"),
        (400, UnavailableError, "DOWNLOAD_FAILED"),
    ],
)
def test_a_refusal_of_the_server_is_told(
    status: int, error: type[LensmithError], reason: str, site: Site, tmp_path: Path
) -> None:
    site.statuses[PATH] = [status]
    with pytest.raises(error, match=str(status)) as refused:
        download(site.url + PATH, tmp_path / "net.zip")
    assert refused.value.reason == reason


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses[PATH] = [503, 429]
    assert download(site.url + PATH, tmp_path / "net.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/net.zip", "http://[/net.zip", "http:///net.zip"])
def test_what_cannot_be_reached_is_told_in_one_sentence(url: str, tmp_path: Path) -> None:
    with pytest.raises(LensmithError) as failed:
        download(url, tmp_path / "net.zip")
    assert failed.value.reason in ("DOWNLOAD_FAILED", "URL_INVALID")
    assert "\n" not in str(failed.value)


def test_a_token_stays_with_the_host_that_it_is_for(site: Site, tmp_path: Path) -> None:
    with web_site(redirects={"/here": site.url + PATH}) as first:
        download(f"{first.url}/here", tmp_path / "net.zip", headers={"Authorization": "Bearer secret"})
        assert first.requests[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in site.requests[0].headers
