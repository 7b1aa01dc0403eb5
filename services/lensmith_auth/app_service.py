"""AppService: apps, the tenants."""

from google.protobuf.empty_pb2 import Empty
from grpc.aio import ServicerContext

from lensmith_api.internal.v1.events_pb2 import AppDeleted, Event
from lensmith_api.v1 import app_service_pb2 as pb
from lensmith_api.v1.app_pb2 import App
from lensmith_api.v1.app_service_pb2_grpc import AppServiceServicer
from lensmith_auth.app_store import AppRow, AppStore, NewApp
from lensmith_auth.converters import app_to_proto, key_to_proto
from lensmith_auth.key_store import KeyStore, NewKey, RevocationStore
from lensmith_auth.requests import request_id_reused
from lensmith_auth.revocations import Revocations
from lensmith_auth.secrets import new_secret
from lensmith_platform import etags, outbox, update_mask
from lensmith_platform.db import Connection, Database
from lensmith_platform.db.pagination import Pager
from lensmith_platform.errors import PreconditionError
from lensmith_platform.principal import MAIN_APP, MAIN_APP_ID, addressed_app, current_call
from lensmith_platform.scopes import ALL

UPDATABLE = frozenset({"display_name", "description"})


class AppServicer(AppServiceServicer):
    """Serves apps. What spans apps works as the worker role; what is about one app is bound to it."""

    def __init__(self, tenant: Database, worker: Database, revocations: Revocations, pager: Pager) -> None:
        self._tenant = tenant
        self._worker = worker
        self._revocations = revocations
        self._pager = pager

    async def CreateApp(
        self, request: pb.CreateAppRequest, context: ServicerContext[pb.CreateAppRequest, pb.CreateAppResponse]
    ) -> pb.CreateAppResponse:
        """Create an app with its first key."""
        actor = current_call().principal.actor
        async with self._worker.transaction(None) as connection:
            if request.request_id and (existing := await AppStore(connection).find_by_request(request.request_id)):
                if existing.name != request.app_id:
                    raise request_id_reused(request.request_id)
                return await self._replay(connection, existing)
            app = await AppStore(connection).create(
                NewApp(
                    name=request.app_id,
                    display_name=request.app.display_name,
                    description=request.app.description,
                    base_model=request.app.base_model,
                    request_id=request.request_id or None,
                    actor=actor,
                )
            )
            secret = new_secret()
            key = await KeyStore(connection, app.app_id).create(
                NewKey(secret=secret, description="made with the app", scopes=[ALL], actor=actor)
            )
        return pb.CreateAppResponse(app=app_to_proto(app), key=key_to_proto(key, app.name), secret=secret.text)

    async def _replay(self, connection: Connection, app: AppRow) -> pb.CreateAppResponse:
        key = await KeyStore(connection, app.app_id).oldest()
        return pb.CreateAppResponse(app=app_to_proto(app), key=key_to_proto(key, app.name))

    async def GetApp(self, request: pb.GetAppRequest, context: ServicerContext[pb.GetAppRequest, App]) -> App:
        """Return one app."""
        app_id = addressed_app().app_id
        async with self._tenant.transaction(app_id) as connection:
            return app_to_proto(await AppStore(connection).get(app_id))

    async def ListApps(
        self, request: pb.ListAppsRequest, context: ServicerContext[pb.ListAppsRequest, pb.ListAppsResponse]
    ) -> pb.ListAppsResponse:
        """List all apps in order of creation."""
        position = self._pager.decode(request.page_token, "apps")
        after = int(position[0]) if position else 0
        size = self._pager.size(request.page_size)
        async with self._worker.transaction(None) as connection:
            rows = await AppStore(connection).list_after(after, size + 1)
        page = rows[:size]
        token = self._pager.encode((page[-1].app_id,), "apps") if len(rows) > size else ""
        return pb.ListAppsResponse(apps=[app_to_proto(row) for row in page], next_page_token=token)

    async def UpdateApp(self, request: pb.UpdateAppRequest, context: ServicerContext[pb.UpdateAppRequest, App]) -> App:
        """Change display name and description."""
        paths = update_mask.apply(request.update_mask, UPDATABLE)
        values = {path: str(getattr(request.app, path)) for path in paths}
        call, app_id = current_call(), addressed_app().app_id
        async with self._tenant.transaction(app_id) as connection:
            store = AppStore(connection)
            etags.check(request.app.etag, str((await store.lock(app_id)).revision))
            row = await store.update(app_id, values, call.principal.actor)
        return app_to_proto(row)

    async def DeleteApp(
        self, request: pb.DeleteAppRequest, context: ServicerContext[pb.DeleteAppRequest, Empty]
    ) -> Empty:
        """Delete an app: its keys stop at once, the other services remove its data when the event reaches them."""
        call, app_id = current_call(), addressed_app().app_id
        if app_id == MAIN_APP_ID:
            raise PreconditionError("MAIN_APP_NEEDED", f"apps/{MAIN_APP} holds the public models and cannot be deleted")
        async with self._tenant.transaction(app_id) as connection:
            store = AppStore(connection)
            row = await store.lock(app_id)
            etags.check(request.etag, str(row.revision))
            await store.delete(app_id, call.principal.actor)
            await KeyStore(connection, app_id).delete_all()
            await outbox.publish(connection, Event(app_id=app_id, app_deleted=AppDeleted(app_uid=str(row.uid))))
            number = await RevocationStore(connection).advance()
        # Without a secret's hash every service forgets all keys it knows: right for an app with any number of them.
        await self._revocations.broadcast(number)
        return Empty()
