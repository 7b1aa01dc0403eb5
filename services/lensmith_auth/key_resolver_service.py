"""KeyResolverService: what the other services ask about keys and apps."""

from grpc.aio import ServicerContext

from lensmith_api.internal.v1 import key_resolver_service_pb2 as pb
from lensmith_api.internal.v1.key_resolver_service_pb2_grpc import KeyResolverServiceServicer
from lensmith_auth.key_source import StoredKeySource
from lensmith_platform import timestamps
from lensmith_platform.principal import AppRef


class KeyResolverServicer(KeyResolverServiceServicer):
    """Serves the key source to the other services."""

    def __init__(self, source: StoredKeySource) -> None:
        self._source = source

    async def ResolveKey(
        self, request: pb.ResolveKeyRequest, context: ServicerContext[pb.ResolveKeyRequest, pb.ResolveKeyResponse]
    ) -> pb.ResolveKeyResponse:
        """Tell what a key may do."""
        key = await self._source.resolve_key(request.secret_sha256)
        return pb.ResolveKeyResponse(
            key_uid=key.key_uid,
            app=_identity(key.app) if key.app else None,
            scopes=sorted(key.scopes),
            operator=key.operator,
            expire_time=timestamps.to_proto(key.expire_time),
            revocation_number=key.revocation_number,
        )

    async def ResolveApp(
        self, request: pb.ResolveAppRequest, context: ServicerContext[pb.ResolveAppRequest, pb.AppIdentity]
    ) -> pb.AppIdentity:
        """Find an app by its own id."""
        return _identity(await self._source.resolve_app(request.app))


def _identity(app: AppRef) -> pb.AppIdentity:
    return pb.AppIdentity(app_id=app.app_id, uid=app.uid, app=app.name, base_model=app.base_model)
