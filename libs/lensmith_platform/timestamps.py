"""Times between Python and protobuf."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def to_proto(moment: datetime | None) -> Timestamp | None:
    """Turn a moment with a time zone into a message; None, which leaves a field unset, stays None."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_proto(stamp: Timestamp) -> datetime:
    """Turn a message into a moment in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)
