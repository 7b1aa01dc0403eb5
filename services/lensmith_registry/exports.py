"""Exports: a version packed into one archive that answers without the platform."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from google.protobuf.json_format import MessageToJson

from lensmith_api.v1.model_card_pb2 import ModelCard
from lensmith_api.v1.model_service_pb2 import ExportChunk, ExportModelVersionResponse, ExportSummary
from lensmith_platform.blobs import Blobs
from lensmith_platform.cancellation import thread_to_its_end
from lensmith_platform.errors import InternalError, LensmithError, to_status
from lensmith_registry.base_model_store import BaseModelRow
from lensmith_registry.version_store import VersionRow
from lensmith_vision import heads
from lensmith_vision.card import card_from_json
from lensmith_vision.errors import VisionError
from lensmith_vision.export import Exported, NativeAnswer
from lensmith_vision.export_archive import write_archive
from lensmith_vision.general import hierarchy
from lensmith_vision.heads import Head
from lensmith_vision.pack import CARD_FILE, MODEL_FILE

__all__ = ["CHUNK_BYTES", "Exporter"]

CHUNK_BYTES = 768 * 1024
"""A multiple of three, so that the base64 of all chunks may be joined."""

_AT_ONCE = 2
_DEFAULT_THRESHOLD = 0.5


class Exporter:
    """Makes archives, few at a time: each takes the memory of its base network several times.

    Args:
        blobs: Where heads and packs lie.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def stream(
        self, row: VersionRow, base: BaseModelRow, card: ModelCard
    ) -> AsyncIterator[ExportModelVersionResponse]:
        """Make the archive of a READY version and stream it; what fails after the first part is told in band.

        Raises:
            LensmithError: The archive cannot be made.
        """
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="lensmith-export-"))
        try:
            archive = scratch / "model.zip"
            async with self._turns:
                await self._write(row, base, card, scratch, archive)
            name = f"{row.app_name}-{row.model}-{row.number}.zip"
            async for part in _parts(archive, name):
                yield part
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _write(self, row: VersionRow, base: BaseModelRow, card: ModelCard, scratch: Path, archive: Path) -> None:
        base_card = (await self._blobs.get(_key_of(row, base, CARD_FILE))).decode()
        head = await self._blobs.get(row.head) if row.head else b""
        with (scratch / "base.onnx").open("wb") as file:
            async for chunk in self._blobs.stream(_key_of(row, base, MODEL_FILE)):
                await asyncio.to_thread(file.write, chunk)
        try:
            await thread_to_its_end(_pack, row, base_card, head, card, scratch, archive)
        except VisionError as error:
            raise InternalError(error.reason, f"{row.name} cannot be exported: {error}") from error


def _key_of(row: VersionRow, base: BaseModelRow, name: str) -> str:
    """Key of a file of the pack that the version answers with: its own network's, or its base model's."""
    return f"{row.network}/{name}" if row.network_space else base.key_of(name)


def _pack(row: VersionRow, base_card: str, head: bytes, card: ModelCard, scratch: Path, archive: Path) -> None:
    exported = Exported(
        name=row.name,
        card=card_from_json(base_card),
        answer=_answer(row, head),
        concepts=tuple(row.concepts),
        thresholds=np.asarray(row.thresholds or [_DEFAULT_THRESHOLD] * len(row.concepts), np.float64),
    )
    text = MessageToJson(card, always_print_fields_with_no_presence=True, ensure_ascii=False, indent=1)
    write_archive(scratch / "base.onnx", exported, row.display_names or row.concepts, f"{text}\n", archive)


def _answer(row: VersionRow, head: bytes) -> Head | NativeAnswer:
    if head:
        return heads.load(head)
    if row.taxonomy:
        return NativeAnswer(hierarchy().sums_of(row.concepts), row.temperature)
    return NativeAnswer()


async def _parts(archive: Path, name: str) -> AsyncIterator[ExportModelVersionResponse]:
    digest, size = hashlib.sha256(), 0
    file = await asyncio.to_thread(archive.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            yield ExportModelVersionResponse(item=ExportChunk(data=chunk))
    except OSError as error:
        failure: LensmithError = InternalError("EXPORT_FAILED", "the archive could not be read to its end")
        failure.__cause__ = error
        yield ExportModelVersionResponse(error=to_status(failure))
        return
    finally:
        file.close()
    summary = ExportSummary(file_name=name, size_bytes=size, sha256=digest.hexdigest())
    yield ExportModelVersionResponse(summary=summary)
