"""Counts the values of a message before it is parsed.

Two bytes on the wire can become seventy in memory: a request of 64 MiB that holds nothing but empty messages would take
gigabytes once parsed. Whoever sends pictures sends few values, so many of them in a large request are refused unparsed.
"""

import functools

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from lensmith_platform.errors import InvalidInputError

SMALL_BYTES = 1 << 20
"""Requests up to this size are parsed without counting: they cannot grow beyond some tens of megabytes."""

MOST_VALUES = 500_000
"""Most values, those in inner messages counted too, of a larger request."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check(data: bytes, descriptor: Descriptor) -> None:
    """Refuse a request that holds too many values.

    What is no valid message passes: the parser says so better.

    Raises:
        InvalidInputError: REQUEST_TOO_MANY_VALUES.
    """
    if len(data) <= SMALL_BYTES:
        return
    inner = _inner_messages(descriptor)
    left = MOST_VALUES
    # Inner messages are looked at from a list rather than by recursion, which a hostile depth would end.
    todo = [(0, len(data), inner)]
    while todo:
        position, end, inner = todo.pop()
        while position < end:
            left -= 1
            if left < 0:
                raise InvalidInputError(
                    "REQUEST_TOO_MANY_VALUES",
                    f"a request of more than {SMALL_BYTES} bytes may hold at most {MOST_VALUES} values",
                    metadata={"limit": "values", "max": str(MOST_VALUES)},
                )
            tag, position = _varint(data, position, end)
            kind = tag & 7
            if kind == _BYTES:
                size, position = _varint(data, position, end)
                message = inner.get(tag >> 3)
                if message is not None:
                    todo.append((position, min(position + size, end), _inner_messages(message)))
                position += size
            elif kind == _VARINT:
                _, position = _varint(data, position, end)
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                break  # not a message: the parser refuses it


@functools.cache
def _inner_messages(descriptor: Descriptor) -> dict[int, Descriptor]:
    """Types of the fields that hold messages, by field number."""
    return {
        number: field.message_type
        for number, field in descriptor.fields_by_number.items()
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type is not None
    }


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A varint and the position behind it; one that is cut off or too long ends the message."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return 0, end
