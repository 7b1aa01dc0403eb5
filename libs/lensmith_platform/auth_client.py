"""What auth knows of keys and apps, asked over gRPC by every other service."""

from lensmith_api.internal.v1.key_resolver_service_pb2 import AppIdentity, ResolveAppRequest, ResolveKeyRequest
from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import KeyResolverServiceStub
from lensmith_platform import timestamps
from lensmith_platform.clients import ServiceClients
from lensmith_platform.key_cache import ResolvedKey
from lensmith_platform.principal import AppRef
from lensmith_platform.service_auth import service_call_app

_SECONDS = 2.0


class AuthClient:
    """A `KeySource` that asks auth."""

    def __init__(self, clients: ServiceClients) -> None:
        """Ask through these clients; the channel is opened with the first question."""
        self._clients = clients

    async def resolve_key(self, secret_sha256: bytes) -> ResolvedKey:
        """Find a key by the SHA-256 of its secret."""
        stub = KeyResolverServiceStub(self._clients.channel("auth"))
        with service_call_app(0):
            answer = await stub.ResolveKey(ResolveKeyRequest(secret_sha256=secret_sha256), timeout=_SECONDS)
        ends = answer.HasField("expire_time")
        return ResolvedKey(
            key_uid=answer.key_uid,
            app=app_from_proto(answer.app) if answer.HasField("app") else None,
            scopes=frozenset(answer.scopes),
            operator=answer.operator,
            expire_time=timestamps.from_proto(answer.expire_time, "expire_time") if ends else None,
            revocation_number=answer.revocation_number,
        )

    async def resolve_app(self, name: str) -> AppRef:
        """Find an app by its own id."""
        stub = KeyResolverServiceStub(self._clients.channel("auth"))
        with service_call_app(0):
            return app_from_proto(await stub.ResolveApp(ResolveAppRequest(app=name), timeout=_SECONDS))


def app_from_proto(app: AppIdentity) -> AppRef:
    """Turn the message into the value."""
    return AppRef(app_id=app.app_id, uid=app.uid, name=app.app, base_model=app.base_model)
