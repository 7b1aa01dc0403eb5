"""KeyService: keys of an app and what a key may do."""

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.empty_pb2 import Empty
from grpc.aio import ServicerContext

from lensmith_api.v1 import key_service_pb2 as pb
from lensmith_api.v1.key_pb2 import Key
from lensmith_api.v1.key_service_pb2_grpc import KeyServiceServicer
from lensmith_auth.bootstrap import OPERATOR_APP_ID
from lensmith_auth.converters import key_to_proto, uid_from_text
from lensmith_auth.key_store import KeyRow, KeyStore, NewKey, RevocationStore
from lensmith_auth.requests import request_id_reused
from lensmith_auth.revocations import Revocations
from lensmith_auth.secrets import new_secret
from lensmith_platform import etags, resource_names, scopes, timestamps, update_mask
from lensmith_platform.db import Database
from lensmith_platform.db.pagination import Pager
from lensmith_platform.errors import ForbiddenError, InvalidInputError
from lensmith_platform.principal import Principal, addressed_app, current_call

UPDATABLE = frozenset({"description", "scopes", "expire_time"})
KEY_NAME = "apps/{app}/keys/{key}"


class KeyServicer(KeyServiceServicer):
    """Serves keys."""

    def __init__(
        self,
        tenant: Database,
        revocations: Revocations,
        pager: Pager,
        methods_by_scope: dict[str, list[str]],
    ) -> None:
        self._tenant = tenant
        self._revocations = revocations
        self._pager = pager
        self._methods_by_scope = methods_by_scope

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: ServicerContext[pb.CreateKeyRequest, pb.CreateKeyResponse]
    ) -> pb.CreateKeyResponse:
        """Create a key and give its secret away, once."""
        principal, app = current_call().principal, addressed_app()
        granted = _granted_scopes(list(request.key.scopes), principal)
        expires_at = _future(request.key) if request.key.HasField("expire_time") else None
        secret = new_secret()
        async with self._tenant.transaction(app.app_id) as connection:
            store = KeyStore(connection, app.app_id)
            await _check_expiry(store, expires_at, principal)
            if request.request_id and (existing := await store.find_by_request(request.request_id)):
                if (existing.description, existing.scopes) != (request.key.description, list(granted)):
                    raise request_id_reused(request.request_id)
                return pb.CreateKeyResponse(key=key_to_proto(existing, app.name), already_issued=True)
            row = await store.create(
                NewKey(
                    secret=secret,
                    description=request.key.description,
                    scopes=granted,
                    actor=principal.actor,
                    expires_at=expires_at,
                    request_id=request.request_id or None,
                )
            )
        return pb.CreateKeyResponse(key=key_to_proto(row, app.name), secret=secret.text)

    async def GetKey(self, request: pb.GetKeyRequest, context: ServicerContext[pb.GetKeyRequest, Key]) -> Key:
        """Return one key."""
        app, uid = addressed_app(), _uid(request.name)
        async with self._tenant.transaction(app.app_id) as connection:
            return key_to_proto(await KeyStore(connection, app.app_id).get(uid), app.name)

    async def ListKeys(
        self, request: pb.ListKeysRequest, context: ServicerContext[pb.ListKeysRequest, pb.ListKeysResponse]
    ) -> pb.ListKeysResponse:
        """List the keys of an app."""
        app = addressed_app()
        query = f"keys of {app.app_id}"
        token = self._pager.decode(request.page_token, query)
        position = (datetime.fromisoformat(str(token[0])), uid_from_text(str(token[1]))) if token else None
        size = self._pager.size(request.page_size)
        async with self._tenant.transaction(app.app_id) as connection:
            rows = await KeyStore(connection, app.app_id).list_after(position, size + 1)
        page = rows[:size]
        more = len(rows) > size
        next_token = self._pager.encode((page[-1].created_at.isoformat(), str(page[-1].uid)), query) if more else ""
        return pb.ListKeysResponse(keys=[key_to_proto(row, app.name) for row in page], next_page_token=next_token)

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: ServicerContext[pb.UpdateKeyRequest, Key]) -> Key:
        """Change description, scopes and expiry; services forget what the key could do before.

        Only a key that may do all that the other may can change it: adding keys is no way to stop a stronger one.
        """
        paths = update_mask.apply(request.update_mask, UPDATABLE)
        principal, app, uid = current_call().principal, addressed_app(), _uid(request.key.name)
        async with self._tenant.transaction(app.app_id) as connection:
            store = KeyStore(connection, app.app_id)
            before = await store.lock(uid)
            _check_scopes(before.scopes, principal, "change only a key that may do no more than itself")
            etags.check(request.key.etag, str(before.revision))
            changed = _changed(before, request.key, set(paths), principal)
            if "expire_time" in paths:
                await _check_expiry(store, changed.expires_at, principal)
            row = await store.update(changed, principal.actor)
            number = await RevocationStore(connection).advance()
        await self._revocations.broadcast(number, row.secret_sha256)
        return key_to_proto(row, app.name)

    async def DeleteKey(
        self, request: pb.DeleteKeyRequest, context: ServicerContext[pb.DeleteKeyRequest, Empty]
    ) -> Empty:
        """Delete a key everywhere."""
        app, uid = addressed_app(), _uid(request.name)
        async with self._tenant.transaction(app.app_id) as connection:
            row = await KeyStore(connection, app.app_id).delete(uid)
            number = await RevocationStore(connection).advance()
        await self._revocations.broadcast(number, row.secret_sha256)
        return Empty()

    async def ListScopes(
        self, request: pb.ListScopesRequest, context: ServicerContext[pb.ListScopesRequest, pb.ListScopesResponse]
    ) -> pb.ListScopesResponse:
        """List all scopes with what they allow."""
        return pb.ListScopesResponse(
            scopes=[
                pb.Scope(
                    scope=scope,
                    implies=sorted(scopes.expand([scope]) - {scope}),
                    methods=self._methods_by_scope[scope],
                )
                for scope in scopes.SCOPES
            ]
        )

    async def WhoAmI(
        self, request: pb.WhoAmIRequest, context: ServicerContext[pb.WhoAmIRequest, pb.WhoAmIResponse]
    ) -> pb.WhoAmIResponse:
        """Tell a key what it is."""
        principal = current_call().principal
        if principal.key_uid is None:
            raise ForbiddenError("NOT_A_KEY", "only a key can ask who it is")
        app_id = principal.app.app_id if principal.app else OPERATOR_APP_ID
        app = principal.app.name if principal.app else ""
        async with self._tenant.transaction(app_id) as connection:
            row = await KeyStore(connection, app_id).get(uid_from_text(principal.key_uid))
        return pb.WhoAmIResponse(
            app=f"apps/{app}" if app else "",
            key=key_to_proto(row, app),
            effective_scopes=sorted(scopes.expand(row.scopes)),
            operator=row.operator,
        )


def _uid(name: str) -> UUID:
    return uid_from_text(resource_names.parse(KEY_NAME, name)["key"])


def _granted_scopes(requested: list[str], principal: Principal) -> list[str]:
    """Check that the scopes exist and that whoever asks has them all."""
    granted = scopes.validate(requested, field="key.scopes")
    _check_scopes(granted, principal, "grant only what it has itself")
    return list(granted)


def _check_scopes(wanted: Iterable[str], principal: Principal, rule: str) -> None:
    """Check that whoever asks has all these scopes; `rule` says what a key can do with them."""
    lacking = sorted(scopes.expand(wanted) - principal.scopes)
    if lacking and principal.kind != "operator":
        raise ForbiddenError(
            "SCOPE_NOT_YOURS",
            f"a key can {rule}; yours lacks {', '.join(lacking)}",
            metadata={"scopes": ",".join(lacking)},
        )


async def _check_expiry(store: KeyStore, expires_at: datetime | None, principal: Principal) -> None:
    """Check that a key that ends makes none that lives longer: whoever found a temporary key keeps nothing."""
    if principal.kind == "operator" or principal.key_uid is None:
        return
    end = (await store.get(uid_from_text(principal.key_uid))).expires_at
    if end is not None and (expires_at is None or expires_at > end):
        raise ForbiddenError(
            "EXPIRY_NOT_YOURS",
            f"your key ends at {end.isoformat(timespec='seconds')}; the keys that it makes or changes must end by then",
            metadata={"expire_time": end.isoformat()},
        )


def _future(key: Key) -> datetime:
    expires_at = timestamps.from_proto(key.expire_time, "key.expire_time")
    if expires_at <= datetime.now(UTC):
        raise InvalidInputError(
            "EXPIRY_PAST",
            "the key would have expired already",
            field_violations=[("key.expire_time", "is in the past")],
        )
    return expires_at


def _changed(row: KeyRow, key: Key, paths: set[str], principal: Principal) -> KeyRow:
    """The row with the fields of `key` that `paths` names."""
    if "description" in paths:
        row = dataclasses.replace(row, description=key.description)
    if "scopes" in paths:
        row = dataclasses.replace(row, scopes=_granted_scopes(list(key.scopes), principal))
    if "expire_time" in paths:
        # An expiry in the past is allowed here: it stops the key and keeps its record.
        given = key.HasField("expire_time")
        expires_at = timestamps.from_proto(key.expire_time, "key.expire_time") if given else None
        row = dataclasses.replace(row, expires_at=expires_at)
    return row
