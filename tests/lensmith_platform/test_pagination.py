"""Page tokens."""

import pytest

from lensmith_platform.db.pagination import Pager
from lensmith_platform.errors import InvalidInputError

PAGER = Pager(b"secret")


@pytest.mark.parametrize("position", [("2026-11-22T12:00:00+00:00", 5), ("ü\x00", -1, 0.1), (2**62,), ()])
def test_a_token_brings_its_position_back(position: tuple[str | int | float, ...]) -> None:
    assert PAGER.decode(PAGER.encode(position, "apps/a|dog"), "apps/a|dog") == position


def test_there_is_no_position_when_there_is_no_token() -> None:
    assert PAGER.decode("", "apps/a") is None


def _swap(token: str, place: int) -> str:
    return token[:place] + ("B" if token[place] == "A" else "A") + token[place + 1 :]


def _tampered() -> list[str]:
    token = PAGER.encode(("x", 5), "apps/a")
    return [
        _swap(token, len(token) - 2),
        _swap(token, 0),
        token[:10],
        token + "AAAA",
        "x",
        "ü" * 20,
        "\x00",
        "=" * 8,
        "A" * 10_000,
        Pager(b"another secret").encode(("x", 5), "apps/a"),
        PAGER.encode(("x", 5), "apps/b"),
    ]


@pytest.mark.parametrize("token", _tampered())
def test_a_token_is_refused_when_it_was_changed_or_belongs_to_another_query(token: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        PAGER.decode(token, "apps/a")
    assert raised.value.reason == "PAGE_TOKEN_INVALID"
    assert raised.value.field_violations[0][0] == "page_token"


@pytest.mark.parametrize(("asked", "size"), [(0, 50), (1, 1), (1000, 1000), (5000, 1000)])
def test_a_page_has_a_default_and_a_largest_size(asked: int, size: int) -> None:
    assert PAGER.size(asked) == size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidInputError) as raised:
        PAGER.size(-1)
    assert raised.value.reason == "PAGE_SIZE_NEGATIVE"
