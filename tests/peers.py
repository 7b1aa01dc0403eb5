"""The services that a service under test asks, as small real gRPC servers; auth, which everybody asks, stands here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import grpc
import grpc.aio
from grpc_status import rpc_status

from lensmith_api.internal.v1 import (
    curation_service_pb2_grpc,
    key_resolver_service_pb2_grpc,
    serving_service_pb2_grpc,
    space_service_pb2_grpc,
    training_data_service_pb2_grpc,
)
from lensmith_api.internal.v1.key_resolver_service_pb2 import AppIdentity, ResolveKeyResponse
from lensmith_api.v1 import base_model_service_pb2_grpc, concept_service_pb2_grpc, inference_service_pb2_grpc
from lensmith_platform.errors import LensmithError, NotFoundError, UnauthenticatedError, to_status

_MODULES = {
    "KeyResolverService": key_resolver_service_pb2_grpc,
    "ServingService": serving_service_pb2_grpc,
    "TrainingDataService": training_data_service_pb2_grpc,
    "SpaceService": space_service_pb2_grpc,
    "CurationService": curation_service_pb2_grpc,
    "BaseModelService": base_model_service_pb2_grpc,
    "ConceptService": concept_service_pb2_grpc,
    "InferenceService": inference_service_pb2_grpc,
}


async def abort(context: grpc.aio.ServicerContext, error: LensmithError) -> None:
    """Ends a call as a service does that raises this error."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


class Auth(key_resolver_service_pb2_grpc.KeyResolverServiceServicer):
    """Knows keys and apps."""

    def __init__(self) -> None:
        self.apps: dict[str, AppIdentity] = {}
        self.keys: dict[bytes, ResolveKeyResponse] = {}
        self.add_app("main", app_id=1)

    def add_app(self, name: str, *, app_id: int, base_model: str = "") -> AppIdentity:
        """Adds an app; its uid is always the same."""
        uid = str(uuid5(NAMESPACE_URL, f"app:{name}"))
        self.apps[name] = AppIdentity(app_id=app_id, uid=uid, app=name, base_model=base_model)
        return self.apps[name]

    def add_key(self, secret: str, app: str | None, scopes: list[str]) -> None:
        """Adds a key of an app, or without one an operator's."""
        self.keys[hashlib.sha256(secret.encode()).digest()] = ResolveKeyResponse(
            key_uid=f"key-of-{app or 'operator'}",
            app=self.apps[app] if app is not None else None,
            scopes=scopes,
            operator=app is None,
        )

    async def ResolveKey(self, request, context):
        found = self.keys.get(request.secret_sha256)
        if found is None:
            await abort(context, UnauthenticatedError("KEY_UNKNOWN", "no such key"))
        return found

    async def ResolveApp(self, request, context):
        found = self.apps.get(request.app)
        if found is None:
            await abort(context, NotFoundError("APP_NOT_FOUND", "no such app"))
        return found


class Peer:
    """A server on a unix socket that can be stopped and started again at the same address."""

    def __init__(self, socket: Path, servicer: object) -> None:
        self.target = f"unix:{socket}"
        self._servicer = servicer
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serves every service that the servicer implements."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 66 << 20)])
        for name, module in _MODULES.items():
            if isinstance(self._servicer, getattr(module, f"{name}Servicer")):
                getattr(module, f"add_{name}Servicer_to_server")(self._servicer, server)
        server.add_insecure_port(self.target)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stops at once; calls in flight break."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
