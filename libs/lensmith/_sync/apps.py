# Generated from lensmith._async by scripts/generate_sync_client.py; do not edit.
"""Apps, keys and usage."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from lensmith import _convert, types
from lensmith._sync.transport import Transport, new_request_id
from lensmith_api.v1 import app_service_pb2, key_service_pb2, usage_service_pb2
from lensmith_api.v1.app_pb2 import App
from lensmith_api.v1.app_service_pb2_grpc import AppServiceStub
from lensmith_api.v1.key_pb2 import Key
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceStub
from lensmith_api.v1.usage_service_pb2_grpc import UsageServiceStub

PAGE = 1000


class Apps:
    """Apps, the tenants. Creating and listing them is the operator's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._stub = AppServiceStub(transport.channel)

    def create(
        self, app: str, *, display_name: str = "", description: str = "", base_model: str = ""
    ) -> tuple[types.App, types.NewKey]:
        """Creates an app with its first key, which may do everything in it."""
        response = self._transport.call(
            self._stub.CreateApp,
            app_service_pb2.CreateAppRequest(
                app_id=app,
                app=App(display_name=display_name, description=description, base_model=base_model),
                request_id=new_request_id(),
            ),
        )
        return _convert.app(response.app), types.NewKey(_convert.key(response.key), response.secret)

    def get(self, app: str) -> types.App:
        """Returns one app."""
        return _convert.app(self._transport.call(self._stub.GetApp, app_service_pb2.GetAppRequest(name=f"apps/{app}")))

    def list(self) -> Iterator[types.App]:
        """Yields all apps, oldest first."""
        token = ""
        while True:
            page = self._transport.call(
                self._stub.ListApps, app_service_pb2.ListAppsRequest(page_size=PAGE, page_token=token)
            )
            for message in page.apps:
                yield _convert.app(message)
            if not (token := page.next_page_token):
                return

    def update(self, app: str, *, display_name: str | None = None, description: str | None = None) -> types.App:
        """Changes what is given."""
        message = App(name=f"apps/{app}", display_name=display_name or "", description=description or "")
        mask = _convert.mask(display_name=display_name, description=description)
        return _convert.app(
            self._transport.call(self._stub.UpdateApp, app_service_pb2.UpdateAppRequest(app=message, update_mask=mask))
        )

    def delete(self, app: str) -> None:
        """Deletes an app with everything in it."""
        self._transport.call(
            self._stub.DeleteApp, app_service_pb2.DeleteAppRequest(name=f"apps/{app}"), repeatable=False
        )


class Keys:
    """Keys of one app."""

    def __init__(self, transport: Transport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = KeyServiceStub(transport.channel)

    def create(
        self, scopes: Sequence[str], *, description: str = "", expires_at: datetime | None = None
    ) -> types.NewKey:
        """Creates a key. Keep the secret: it is shown only here."""
        response = self._transport.call(
            self._stub.CreateKey,
            key_service_pb2.CreateKeyRequest(
                parent=f"apps/{self._app}",
                key=Key(
                    description=description,
                    scopes=scopes,
                    expire_time=_convert.timestamp(expires_at) if expires_at else None,
                ),
                request_id=new_request_id(),
            ),
        )
        return types.NewKey(_convert.key(response.key), response.secret)

    def list(self) -> Iterator[types.Key]:
        """Yields the keys, oldest first."""
        token = ""
        while True:
            page = self._transport.call(
                self._stub.ListKeys,
                key_service_pb2.ListKeysRequest(parent=f"apps/{self._app}", page_size=PAGE, page_token=token),
            )
            for message in page.keys:
                yield _convert.key(message)
            if not (token := page.next_page_token):
                return

    def get(self, uid: str) -> types.Key:
        """Returns one key, without its secret."""
        return _convert.key(
            self._transport.call(self._stub.GetKey, key_service_pb2.GetKeyRequest(name=self._name(uid)))
        )

    def update(self, uid: str, *, description: str | None = None, scopes: Sequence[str] | None = None) -> types.Key:
        """Changes what is given; fewer scopes hold everywhere within a second."""
        mask = _convert.mask(description=description, scopes=scopes)
        message = Key(name=self._name(uid), description=description or "", scopes=scopes or ())
        return _convert.key(
            self._transport.call(
                self._stub.UpdateKey,
                key_service_pb2.UpdateKeyRequest(key=message, update_mask=mask),
            )
        )

    def delete(self, uid: str) -> None:
        """Deletes a key: it stops working everywhere within a second."""
        self._transport.call(
            self._stub.DeleteKey, key_service_pb2.DeleteKeyRequest(name=self._name(uid)), repeatable=False
        )

    def _name(self, uid: str) -> str:
        return f"apps/{self._app}/keys/{uid}"


class Usage:
    """What one app has used."""

    def __init__(self, transport: Transport, app: str) -> None:
        self._transport = transport
        self._app = app
        self._stub = UsageServiceStub(transport.channel)

    def query(self, start: datetime | None = None, end: datetime | None = None) -> list[types.UsageRow]:
        """Operations by day, kind, model and key; the last 30 days unless told otherwise."""
        response = self._transport.call(
            self._stub.QueryUsage,
            usage_service_pb2.QueryUsageRequest(
                parent=f"apps/{self._app}",
                start_time=_convert.timestamp(start) if start else None,
                end_time=_convert.timestamp(end) if end else None,
            ),
        )
        return [_convert.usage_row(row) for row in response.rows]
