"""ServingService: what inference and dataset ask in order to serve, over gRPC."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from lensmith_api.internal.v1 import serving_service_pb2_grpc
from lensmith_api.internal.v1.serving_service_pb2 import (
    FetchArtefactRequest,
    FetchArtefactResponse,
    NetworkFile,
    ResolveGeneralRequest,
    ResolveModelRequest,
    ResolveSpaceRequest,
    ResolveSpaceResponse,
    ServedModel,
)
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_platform.blobs import Blobs
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError, NotFoundError, PreconditionError
from lensmith_platform.principal import MAIN_APP_ID, current_call
from lensmith_registry import base_model_store, store, version_store
from lensmith_registry.converters import MODEL_TYPES, base_model_to_proto
from lensmith_registry.store import ModelRow
from lensmith_registry.version_store import VersionRow
from lensmith_vision.general import MODEL_ID
from lensmith_vision.pack import CARD_FILE, LABELS_FILE, MODEL_FILE

__all__ = ["CHUNK_BYTES", "ServingServicer", "head_key"]

CHUNK_BYTES = 1 << 20
"""Most bytes of one message of a stream of an artefact."""

_HEAD = re.compile(r"heads/(\d{1,19})/[0-9a-f-]{36}/[0-9a-f]{64}")


def head_key(app_id: int, version_uid: str, sha256: str) -> str:
    """Key of a head among the blobs. Each version has its own, so that deleting one never takes another's bytes."""
    return f"heads/{app_id}/{version_uid}/{sha256}"


class ServingServicer(serving_service_pb2_grpc.ServingServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        blobs: Where heads and packs lie.
    """

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def ResolveModel(self, request: ResolveModelRequest, context: object) -> ServedModel:
        """Find the version that answers for a model."""
        async with self._database.transaction(request.app_id) as connection:
            model = await store.get_model(connection, request.app_id, request.model)
            number = request.version or model.production_version
            if not number:
                raise PreconditionError(
                    "MODEL_HAS_NO_TRAINED_VERSION",
                    f"{model.name} has no trained version yet: train it first",
                    metadata={"model": model.model},
                )
            version = await version_store.get_version(connection, request.app_id, request.model, number)
            # The one in production answers from the moment its head is stored: serving learns of it before it is READY.
            if version.completed_at is None or not (version.state == "READY" or version.production):
                raise PreconditionError(
                    "VERSION_NOT_READY",
                    f"{version.name} is {version.state}, not READY",
                    metadata={"state": version.state, "version": str(number)},
                )
            base = await base_model_store.by_space(connection, version.space)
        return _served(model, version, base)

    async def ResolveGeneral(self, request: ResolveGeneralRequest, context: object) -> ServedModel:
        """Find the version of General that sees most cheaply what the pictures of a space show."""
        async with self._database.transaction(MAIN_APP_ID) as connection:
            version = await version_store.version_on(connection, MAIN_APP_ID, MODEL_ID, request.space)
            if version is None or not version.taxonomy:
                raise NotFoundError("GENERAL_NOT_INSTALLED", "no installed base model has the classes of General")
            model = await store.get_model(connection, MAIN_APP_ID, MODEL_ID)
            base = await base_model_store.by_space(connection, version.space)
        return _served(model, version, base)

    async def ResolveSpace(self, request: ResolveSpaceRequest, context: object) -> ResolveSpaceResponse:
        """Tell the base model of an app, which the first call decides, or that of a space."""
        if request.space:
            async with self._database.transaction(None) as connection:
                return ResolveSpaceResponse(
                    base_model=base_model_to_proto(await base_model_store.by_space(connection, request.space))
                )
        async with self._database.transaction(request.app_id) as connection:
            base = await base_model_store.resolve_space(connection, request.app_id, request.base_model)
        return ResolveSpaceResponse(base_model=base_model_to_proto(base))

    async def FetchArtefact(
        self, request: FetchArtefactRequest, context: object
    ) -> AsyncIterator[FetchArtefactResponse]:
        """Stream a head, or a file of the pack of a base model or of a version's own network."""
        async for chunk in self._blobs.stream(await self._key(request)):
            for start in range(0, len(chunk), CHUNK_BYTES):
                yield FetchArtefactResponse(chunk=chunk[start : start + CHUNK_BYTES])

    async def _key(self, request: FetchArtefactRequest) -> str:
        if request.WhichOneof("artefact") == "head":
            return _head_key_of(request.head)
        if request.WhichOneof("artefact") == "network_file":
            return await self._network_key(request.network_file)
        async with self._database.transaction(None) as connection:
            base = await base_model_store.by_space(connection, request.pack_file.space)
        name = request.pack_file.file_name
        if name not in base.files:
            raise NotFoundError("ARTEFACT_NOT_FOUND", f"the pack of {base.name!r} has no file {name[:100]!r}")
        return base.key_of(name)

    async def _network_key(self, wanted: NetworkFile) -> str:
        """Key of a file of a network, which belongs to the app that the caller's token is bound to."""
        app_id = current_call().principal.service_app_id
        known = False
        if app_id and wanted.file_name in (CARD_FILE, LABELS_FILE, MODEL_FILE):
            async with self._database.transaction(app_id) as connection:
                known = await version_store.has_network(connection, app_id, wanted.network)
        if not known:
            raise NotFoundError("ARTEFACT_NOT_FOUND", "no version of the app has this file of a network")
        return f"{wanted.network}/{wanted.file_name}"


def _head_key_of(wanted: str) -> str:
    """Check the key of a head, which a token that is bound to another app does not open."""
    found = _HEAD.fullmatch(wanted)
    if found is None:
        raise InvalidInputError("ARTEFACT_INVALID", "head is no key of a head")
    if current_call().principal.service_app_id not in (0, int(found[1])):
        raise NotFoundError("ARTEFACT_NOT_FOUND", "the app has no such head")
    return wanted


def _served(model: ModelRow, version: VersionRow, base: base_model_store.BaseModelRow) -> ServedModel:
    return ServedModel(
        model_uid=str(model.uid),
        version_uid=str(version.uid),
        name=version.name,
        type=MODEL_TYPES[model.definition.type],
        base_model=_network_of(version, base) if version.network_space else base_model_to_proto(base),
        network_artefact=version.network if version.network_space else "",
        head_artefact=version.head,
        concepts=version.concepts,
        display_names=version.display_names,
        thresholds=version.thresholds,
        taxonomy=version.taxonomy,
        temperature=version.temperature,
    )


def _network_of(version: VersionRow, base: base_model_store.BaseModelRow) -> BaseModel:
    """Describe the network of a fine-tuned version as base models are described, under the version's name."""
    return BaseModel(
        name=version.name,
        version="1",
        display_name=f"{base.display_name}, fine-tuned",
        space=version.network_space,
        dimensions=version.network_dimensions,
        input_side=version.network_input_side,
        # Networks of several views are not fine-tuned.
        views=1,
        licence=base.licence,
        source=base.source,
        sha256=version.network_sha256,
        size_bytes=version.network_bytes,
    )
