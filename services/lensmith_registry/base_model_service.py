"""BaseModelService: the base models installed on this platform, over gRPC."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from google.protobuf.empty_pb2 import Empty

from lensmith_api.v1 import base_model_service_pb2_grpc
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_api.v1.base_model_service_pb2 import (
    DeleteBaseModelRequest,
    GetBaseModelRequest,
    ImportBaseModelRequest,
    ListBaseModelsRequest,
    ListBaseModelsResponse,
)
from lensmith_platform.blobs import Blobs
from lensmith_platform.db.pagination import Pager
from lensmith_platform.db.unit_of_work import Database
from lensmith_platform.errors import InvalidInputError
from lensmith_platform.principal import MAIN_APP_ID
from lensmith_platform.resource_names import parse
from lensmith_registry import base_model_store, public_models
from lensmith_registry.converters import base_model_to_proto
from lensmith_registry.packs import PACK_FILES, PackInstaller
from lensmith_vision.pack import CARD_FILE, MODEL_FILE

__all__ = ["BaseModelServicer"]

_BASE_MODEL = "baseModels/{base_model}"
_FINGERPRINT = "baseModels"


class BaseModelServicer(base_model_service_pb2_grpc.BaseModelServiceServicer):
    """Checks, calls, converts.

    Args:
        database: Of the service's role.
        blobs: Where packs lie.
        pager: Makes and reads page tokens.
        installer: Installs packs.
        max_pack_bytes: Largest pack to take in.
    """

    def __init__(
        self, database: Database, blobs: Blobs, pager: Pager, installer: PackInstaller, max_pack_bytes: int
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._pager = pager
        self._installer = installer
        self._max_pack_bytes = max_pack_bytes

    async def ListBaseModels(self, request: ListBaseModelsRequest, context: object) -> ListBaseModelsResponse:
        """List installed base models, best first."""
        size = self._pager.size(request.page_size)
        position = self._pager.decode(request.page_token, _FINGERPRINT)
        after = (int(str(position[0])), str(position[1])) if position else None
        async with self._database.transaction(None) as connection:
            rows = await base_model_store.list_base_models(connection, after, size + 1)
        last = rows[size - 1] if len(rows) > size else None
        token = self._pager.encode((last.rank, last.name), _FINGERPRINT) if last is not None else ""
        return ListBaseModelsResponse(
            base_models=[base_model_to_proto(row) for row in rows[:size]], next_page_token=token
        )

    async def GetBaseModel(self, request: GetBaseModelRequest, context: object) -> BaseModel:
        """Return the newest version of one base model."""
        name = parse(_BASE_MODEL, request.name)["base_model"]
        async with self._database.transaction(None) as connection:
            return base_model_to_proto(await base_model_store.get_base_model(connection, name))

    async def ImportBaseModel(
        self, request_iterator: AsyncIterator[ImportBaseModelRequest], context: object
    ) -> BaseModel:
        """Install a pack that comes in chunks."""
        with tempfile.TemporaryDirectory(prefix="lensmith-pack-") as scratch:
            folder = Path(scratch)
            await self._receive(request_iterator, folder)
            return base_model_to_proto(await self._installer.install(folder))

    async def DeleteBaseModel(self, request: DeleteBaseModelRequest, context: object) -> Empty:
        """Remove a base model that no app uses, with the versions of public models that came with it."""
        name = parse(_BASE_MODEL, request.name)["base_model"]
        async with self._database.transaction(MAIN_APP_ID) as connection:
            base = await base_model_store.get_base_model(connection, name)
            if base.model:
                await public_models.withdraw(connection, base)
            rows = await base_model_store.delete_base_model(connection, name)
        # After the commit: a row that points at bytes already gone could not be served.
        await self._blobs.delete([row.key_of(file) for row in rows for file in row.files])
        return Empty()

    async def _receive(self, parts: AsyncIterator[ImportBaseModelRequest], folder: Path) -> None:
        """Write the files of a stream; their names come from a closed list, never from the caller."""
        written: dict[str, int] = {}
        file: BinaryIO | None = None
        total = 0
        try:
            async for part in parts:
                if part.WhichOneof("part") == "file_name":
                    name = _checked_name(part.file_name, written)
                    written[name] = 0
                    if file is not None:
                        await asyncio.to_thread(file.close)
                    file = await asyncio.to_thread((folder / name).open, "xb")
                    continue
                if file is None:
                    raise InvalidInputError("PACK_INVALID", "a pack begins with the name of a file, not with a chunk")
                total += len(part.chunk)
                if total > self._max_pack_bytes:
                    raise InvalidInputError(
                        "PACK_TOO_LARGE",
                        f"a pack has at most {self._max_pack_bytes} bytes (max_pack_bytes)",
                        metadata={"limit": "max_pack_bytes", "max": str(self._max_pack_bytes)},
                    )
                await asyncio.to_thread(file.write, part.chunk)
        finally:
            if file is not None:
                await asyncio.to_thread(file.close)
        missing = sorted({CARD_FILE, MODEL_FILE} - set(written))
        if missing:
            raise InvalidInputError(
                "PACK_INCOMPLETE", f"the pack lacks {', '.join(missing)}", metadata={"missing": ",".join(missing)}
            )


def _checked_name(name: str, written: dict[str, int]) -> str:
    if name not in PACK_FILES:
        raise InvalidInputError(
            "PACK_FILE_UNKNOWN", f"a pack has the files {', '.join(PACK_FILES)}, not {name[:100]!r}"
        )
    if name in written:
        raise InvalidInputError("PACK_FILE_REPEATED", f"{name} comes twice")
    return name
