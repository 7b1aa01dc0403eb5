"""Between rows and messages."""

from uuid import UUID

from lensmith_api.v1.app_pb2 import App
from lensmith_api.v1.key_pb2 import Key
from lensmith_auth.app_store import AppRow
from lensmith_auth.key_store import KeyRow
from lensmith_platform import timestamps
from lensmith_platform.errors import NotFoundError


def app_to_proto(row: AppRow) -> App:
    """An app as users see it."""
    return App(
        name=f"apps/{row.name}",
        uid=str(row.uid),
        display_name=row.display_name,
        description=row.description,
        base_model=row.base_model,
        create_time=timestamps.to_proto(row.created_at),
        update_time=timestamps.to_proto(row.updated_at),
        etag=str(row.revision),
    )


def key_to_proto(row: KeyRow, app: str) -> Key:
    """A key as users see it, without its secret; `app` is the own id of its app, empty for the operator's."""
    return Key(
        name=f"apps/{app}/keys/{row.uid}" if app else f"keys/{row.uid}",
        uid=str(row.uid),
        prefix=row.prefix,
        description=row.description,
        scopes=row.scopes,
        create_time=timestamps.to_proto(row.created_at),
        update_time=timestamps.to_proto(row.updated_at),
        expire_time=timestamps.to_proto(row.expires_at),
        last_used_time=timestamps.to_proto(row.last_used_at),
        etag=str(row.revision),
    )


def uid_from_text(text: str) -> UUID:
    """A key's uid out of its resource name.

    Raises:
        NotFoundError: `KEY_NOT_FOUND`: no key has such a uid.
    """
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError("KEY_NOT_FOUND", "this app has no such key", metadata={"key": text}) from error
