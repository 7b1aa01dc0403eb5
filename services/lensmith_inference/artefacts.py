"""Artefacts of registry: heads, and packs, which are kept on disk between starts."""

import asyncio
import hashlib
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lensmith_api.internal.v1.serving_service_pb2 import FetchArtefactRequest, NetworkFile, PackFile
from lensmith_api.v1.base_model_pb2 import BaseModel
from lensmith_inference.pack_folder import PackFolder, checked, is_whole
from lensmith_platform.errors import DependencyUnavailableError, InternalError
from lensmith_vision import heads
from lensmith_vision.errors import VisionError
from lensmith_vision.heads import Head
from lensmith_vision.pack import (
    CARD_FILE,
    LABELS_FILE,
    MAX_CARD_BYTES,
    MAX_LABEL_BYTES,
    MODEL_FILE,
    is_space_id,
    load_card,
    load_labels,
)

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub

__all__ = ["Artefacts"]

_SILENCE_SECONDS = 20.0
_MAX_HEAD_BYTES = 256 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LOG = structlog.get_logger(__name__)


class Artefacts:
    """Fetches artefacts and proves them before anybody sees them.

    Args:
        registry: Where they come from.
        folder: Where packs are kept, those of base models and of fine-tuned networks apart. Several processes may share
            it: a pack appears complete or not at all.
        network_bytes: Most bytes of fine-tuned networks to keep there.
    """

    def __init__(self, registry: "ServingServiceAsyncStub", folder: Path, network_bytes: int) -> None:
        self._registry = registry
        self._packs = PackFolder(folder / "packs")
        self._networks = PackFolder(folder / "networks", network_bytes)

    async def pack(self, base_model: BaseModel, network: str = "") -> Path:
        """Return the folder of a pack, fetched unless it is kept already.

        Args:
            base_model: What it is the pack of.
            network: Key of the pack, where it is the network of one version.

        Raises:
            LensmithError: Registry is away or gave something else than the pack.
        """
        space, sha256 = base_model.space, base_model.sha256
        # Both become part of a path.
        if not is_space_id(space) or not _SHA256.fullmatch(sha256):
            raise InternalError("BASE_MODEL_INVALID", f"{base_model.name} has an impossible space or hash")
        folder = self._networks if network else self._packs
        kept = folder.place(space, sha256)
        if await asyncio.to_thread(is_whole, kept, space, sha256):
            return kept
        try:
            await self._fetch_pack(base_model, network, folder, kept)
        except OSError as error:
            raise InternalError("CACHE_UNUSABLE", f"the pack cannot be kept in {folder.path}: {error}") from error
        return kept

    def kept(self) -> list[tuple[str, Path]]:
        """List the packs of base models on disk with their spaces, the last used first."""
        return self._packs.packs()

    async def tidy(self) -> None:
        """Remove networks of versions that nobody has asked for in a long time."""
        try:
            await asyncio.to_thread(self._networks.shrink)
        except OSError as error:
            _LOG.warning("networks_not_tidied", error=str(error))

    async def head(self, key: str) -> Head:
        """Fetch a head.

        Raises:
            LensmithError: Registry is away, or the bytes are not the head of that key.
        """
        chunks = [chunk async for chunk in self._stream(FetchArtefactRequest(head=key), _MAX_HEAD_BYTES)]
        data = b"".join(chunks)
        # The key of a head ends with the hash of its bytes.
        if hashlib.sha256(data).hexdigest() != key.rpartition("/")[2]:
            raise InternalError("ARTEFACT_HASH_MISMATCH", "the head that registry sent is not the one of its key")
        try:
            return await asyncio.to_thread(heads.load, data)
        except VisionError as error:
            raise InternalError(error.reason, f"the head of the model cannot be read: {error}") from error

    async def _fetch_pack(self, base_model: BaseModel, network: str, folder: PackFolder, kept: Path) -> None:
        def request(name: str) -> FetchArtefactRequest:
            if network:
                return FetchArtefactRequest(network_file=NetworkFile(network=network, file_name=name))
            return FetchArtefactRequest(pack_file=PackFile(space=base_model.space, file_name=name))

        staging = await asyncio.to_thread(folder.staging)
        try:
            await self._fetch_file(request, CARD_FILE, staging, MAX_CARD_BYTES)
            card = checked(load_card, staging)
            if card.logits is not None:
                await self._fetch_file(request, LABELS_FILE, staging, MAX_LABEL_BYTES)
                checked(load_labels, staging)
            await self._fetch_file(request, MODEL_FILE, staging, base_model.size_bytes)
            if not await asyncio.to_thread(is_whole, staging, base_model.space, base_model.sha256):
                raise InternalError(
                    "ARTEFACT_HASH_MISMATCH", f"the pack that registry sent is not the one of {base_model.name}"
                )
            await asyncio.to_thread(folder.put, staging, kept)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def _fetch_file(
        self, request: Callable[[str], FetchArtefactRequest], name: str, folder: Path, most: int
    ) -> None:
        with (folder / name).open("wb") as file:
            async for chunk in self._stream(request(name), most):
                await asyncio.to_thread(file.write, chunk)

    async def _stream(self, request: FetchArtefactRequest, most: int) -> AsyncIterator[bytes]:
        size = 0
        stream = aiter(self._registry.FetchArtefact(request))
        while True:
            try:
                # Everybody who wants the artefact waits for this one stream, so it must not hang for ever.
                async with asyncio.timeout(_SILENCE_SECONDS):
                    response = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise DependencyUnavailableError("REGISTRY_SILENT", "registry stopped sending an artefact") from None
            size += len(response.chunk)
            if size > most:
                raise InternalError("ARTEFACT_TOO_LARGE", f"registry sent more than {most} bytes of one artefact")
            yield response.chunk
