"""Artefacts of registry: heads, and packs of base models that are kept on disk between starts."""

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from lensmith_api.internal.v1.serving_service_pb2 import FetchArtefactRequest, PackFile
from lensmith_api.v1.base_model_pb2 import BaseModel
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
    check_hash,
    is_space_id,
    load_card,
    load_labels,
    space_of,
)

if TYPE_CHECKING:  # the generated stubs name this class for type checkers only
    from lensmith_api.internal.v1.serving_service_pb2_grpc import ServingServiceAsyncStub

__all__ = ["Artefacts"]

_SILENCE_SECONDS = 20.0
_LEFTOVER_SECONDS = 3600.0
_MAX_HEAD_BYTES = 256 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")

_LOG = structlog.get_logger(__name__)


class Artefacts:
    """Fetches artefacts and proves them before anybody sees them.

    Args:
        registry: Where they come from.
        folder: Where packs are kept. Several processes may share it: a pack appears complete or not at all.
    """

    def __init__(self, registry: "ServingServiceAsyncStub", folder: Path) -> None:
        self._registry = registry
        self._folder = folder

    async def pack(self, base_model: BaseModel) -> Path:
        """Return the folder of a base model's pack, fetched unless it is kept already.

        Raises:
            LensmithError: Registry is away or gave something else than the base model.
        """
        space, sha256 = base_model.space, base_model.sha256
        # Both become part of a path.
        if not is_space_id(space) or not _SHA256.fullmatch(sha256):
            raise InternalError("BASE_MODEL_INVALID", f"{base_model.name} has an impossible space or hash")
        kept = self._folder / f"{space}-{sha256[:16]}"
        if await asyncio.to_thread(_is_whole, kept, space, sha256):
            return kept
        try:
            await self._fetch_pack(base_model, kept)
        except OSError as error:
            raise InternalError("CACHE_UNUSABLE", f"the pack cannot be kept in {self._folder}: {error}") from error
        return kept

    def kept(self) -> list[tuple[str, Path]]:
        """List the packs on disk with their spaces, the last used first."""
        found: list[tuple[float, str, Path]] = []
        for folder in self._folder.glob("[a-z0-9]*-*"):
            try:
                found.append((folder.stat().st_mtime, space_of(load_card(folder)).id, folder))
            except (VisionError, OSError) as error:
                _LOG.warning("pack_unusable", pack=folder.name, error=str(error))
        return [(space, folder) for _, space, folder in sorted(found, reverse=True)]

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

    async def _fetch_pack(self, base_model: BaseModel, kept: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(_sweep, self._folder)
        staging = Path(tempfile.mkdtemp(prefix=".fetching-", dir=self._folder))
        try:
            await self._fetch_file(base_model.space, CARD_FILE, staging, MAX_CARD_BYTES)
            card = _checked(load_card, staging)
            if card.logits is not None:
                await self._fetch_file(base_model.space, LABELS_FILE, staging, MAX_LABEL_BYTES)
                _checked(load_labels, staging)
            await self._fetch_file(base_model.space, MODEL_FILE, staging, base_model.size_bytes)
            if not await asyncio.to_thread(_is_whole, staging, base_model.space, base_model.sha256):
                raise InternalError(
                    "ARTEFACT_HASH_MISMATCH", f"the pack that registry sent is not the one of {base_model.name}"
                )
            await asyncio.to_thread(_put, staging, kept)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def _fetch_file(self, space: str, name: str, folder: Path, most: int) -> None:
        request = FetchArtefactRequest(pack_file=PackFile(space=space, file_name=name))
        with (folder / name).open("wb") as file:
            async for chunk in self._stream(request, most):
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


def _is_whole(folder: Path, space: str, sha256: str) -> bool:
    """Tell whether a folder holds the pack of a space, byte for byte."""
    if not (folder / CARD_FILE).is_file():
        return False
    try:
        card = load_card(folder)
        if space_of(card).id != space or card.sha256 != sha256:
            return False
        check_hash(folder, card)
        if card.logits is not None:
            load_labels(folder)
    except VisionError as error:
        _LOG.warning("pack_not_whole", pack=folder.name, error=str(error))
        return False
    os.utime(folder)  # says that it was used, see `kept`
    return True


def _sweep(folder: Path) -> None:
    """Remove what processes left behind that were killed while they fetched."""
    for leftover in folder.glob(".*-*"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _put(staging: Path, kept: Path) -> None:
    """Make a fetched pack appear at its place, replacing a damaged one."""
    for path in staging.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if kept.exists():
        broken = Path(tempfile.mkdtemp(prefix=".broken-", dir=kept.parent))
        try:
            kept.rename(broken / kept.name)
        except FileNotFoundError:
            pass  # another process removed it first
        finally:
            shutil.rmtree(broken, ignore_errors=True)
    try:
        staging.rename(kept)
    except OSError:
        # Another process put the same pack there meanwhile; it was checked just as this one was.
        if not (kept / CARD_FILE).is_file():
            raise


def _checked(read: Callable[[Path], T], folder: Path) -> T:
    try:
        return read(folder)
    except VisionError as error:
        raise InternalError(error.reason, f"registry sent a pack that cannot be used: {error}") from error
