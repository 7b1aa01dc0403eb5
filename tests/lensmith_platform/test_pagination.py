"""Page tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lensmith_platform.db.pagination import Pager
from lensmith_platform.errors import InvalidInputError

Position = tuple[str | int | float, ...]


def _pager(folder: Path, secret: str) -> Pager:
    key_file = folder / f"{secret}.pem"
    key_file.write_text(secret)
    return Pager(key_file)


@pytest.fixture
def pager(tmp_path: Path) -> Pager:
    return _pager(tmp_path, "secret")


@pytest.mark.parametrize("position", [("2026-11-22T12:00:00+00:00", 5), ("ü\x00", -1, 0.1), (2**62,), ()])
def test_a_token_brings_its_position_back(pager: Pager, position: Position) -> None:
    assert pager.decode(pager.encode(position, "apps/a|dog"), "apps/a|dog") == position


def test_there_is_no_position_when_there_is_no_token(pager: Pager) -> None:
    assert pager.decode("", "apps/a") is None


def _swap(token: str, place: int) -> str:
    return token[:place] + ("B" if token[place] == "A" else "A") + token[place + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda token: _swap(token, len(token) - 2),
        lambda token: _swap(token, 0),
        lambda token: token[:10],
        lambda token: token + "AAAA",
        lambda _: "x",
        lambda _: "ü" * 20,
        lambda _: "\x00",
        lambda _: "=" * 8,
        lambda _: "A" * 10_000,
    ],
)
def test_a_token_is_refused_when_it_was_changed(pager: Pager, change: Callable[[str], str]) -> None:
    _assert_refused(pager, change(pager.encode(("x", 5), "apps/a")))


def test_a_token_is_refused_when_another_service_made_it(pager: Pager, tmp_path: Path) -> None:
    _assert_refused(pager, _pager(tmp_path, "another").encode(("x", 5), "apps/a"))


def test_a_token_is_refused_when_it_belongs_to_another_query(pager: Pager) -> None:
    _assert_refused(pager, pager.encode(("x", 5), "apps/b"))


def _assert_refused(pager: Pager, token: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        pager.decode(token, "apps/a")
    assert raised.value.reason == "PAGE_TOKEN_INVALID"
    assert raised.value.field_violations[0][0] == "page_token"


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_a_page_has_a_default_and_a_largest_size(pager: Pager, asked: int, size: int) -> None:
    assert pager.size(asked) == size


def test_a_negative_page_size_is_refused(pager: Pager) -> None:
    with pytest.raises(InvalidInputError) as raised:
        pager.size(-1)
    assert raised.value.reason == "PAGE_SIZE_NEGATIVE"
