"""Times between Python and protobuf."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from lensmith_platform.errors import InvalidInputError


def to_proto(moment: datetime | None) -> Timestamp | None:
    """Turn a moment with a time zone into a message; None, which leaves a field unset, stays None."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_proto(stamp: Timestamp, field: str) -> datetime:
    """Turn a message of a request into a moment in UTC.

    Args:
        stamp: the message; it may hold any number.
        field: path of the field that it came in, for the error.

    Raises:
        InvalidInputError: TIME_INVALID: it lies outside the years 1 to 9999.
    """
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        why = "must lie in the years 1 to 9999"
        raise InvalidInputError("TIME_INVALID", f"{field} {why}", field_violations=[(field, why)]) from error
