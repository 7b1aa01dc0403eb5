"""Rows to messages and back."""

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from lensmith_api.v1.app_pb2 import App
from lensmith_api.v1.key_pb2 import Key
from lensmith_auth.store import AppRow, KeyRow
from lensmith_platform.errors import ConflictError, NotFoundError


def app_to_proto(row: AppRow) -> App:
    """An app as users see it."""
    return App(
        name=f"apps/{row.name}",
        uid=str(row.uid),
        display_name=row.display_name,
        description=row.description,
        base_model=row.base_model,
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
        etag=str(row.revision),
    )


def key_to_proto(row: KeyRow, app: str) -> Key:
    """A key as users see it, without its secret; `app` is the own id of its app, empty for the operator's."""
    key = Key(
        name=f"apps/{app}/keys/{row.uid}" if app else f"keys/{row.uid}",
        uid=str(row.uid),
        prefix=row.prefix,
        description=row.description,
        scopes=row.scopes,
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
        etag=str(row.revision),
    )
    if row.expires_at:
        key.expire_time.CopyFrom(timestamp(row.expires_at))
    if row.last_used_at:
        key.last_used_time.CopyFrom(timestamp(row.last_used_at))
    return key


def timestamp(moment: datetime) -> Timestamp:
    """A moment with a time zone as a protobuf timestamp."""
    result = Timestamp()
    result.FromDatetime(moment)
    return result


def moment(value: Timestamp) -> datetime:
    """A protobuf timestamp as a moment in UTC."""
    return value.ToDatetime(tzinfo=UTC)


def uid_from_text(text: str) -> UUID:
    """A key's uid out of its resource name.

    Raises:
        NotFoundError: `KEY_NOT_FOUND`: no key has such a uid.
    """
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError("KEY_NOT_FOUND", "this app has no such key", metadata={"key": text}) from error


def revision_from_etag(etag: str) -> int | None:
    """The revision that an etag stands for; None when none was sent.

    Raises:
        ConflictError: `ETAG_MISMATCH`: this service never gave such an etag.
    """
    if not etag:
        return None
    if not (etag.isascii() and etag.isdigit() and len(etag) < 19):
        raise ConflictError("ETAG_MISMATCH", "the etag is not the current one: read it again and repeat the change")
    return int(etag)
