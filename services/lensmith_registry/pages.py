"""Pages that end before they are too large: a row may know thousands of concepts, and a page have a thousand rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

__all__ = ["MOST_BYTES", "page_of"]

Row = TypeVar("Row")
Key = TypeVar("Key")
Shown = TypeVar("Shown", bound=Message)

MOST_BYTES = 3 << 20
"""Less than the 4 MB that gRPC clients take unless they are told otherwise."""
_AT_ONCE = 20


async def page_of(
    read: Callable[[Key, int], Awaitable[Sequence[Row]]],
    key_of: Callable[[Row], Key],
    show: Callable[[Row], Shown],
    begin: Key,
    size: int,
) -> tuple[list[Shown], Key | None]:
    """Read a page, of fewer rows than were asked for where they are large.

    Args:
        read: Gives at most so many rows behind a key.
        key_of: Tells the key of a row.
        show: Makes of a row what is shown of it.
        begin: Key of the last row of the page before.
        size: Most rows of the page.

    Returns:
        What is shown, and the key behind which the next page begins; None: there is none.
    """
    page: list[Shown] = []
    key, room = begin, MOST_BYTES
    while len(page) < size and room > 0:
        wanted = min(size - len(page), _AT_ONCE)
        rows = await read(key, wanted)
        for row in rows:
            shown = show(row)
            page.append(shown)
            key, room = key_of(row), room - shown.ByteSize()
            if room <= 0:
                break
        else:
            if len(rows) < wanted:
                return page, None
    return page, key if await read(key, 1) else None
