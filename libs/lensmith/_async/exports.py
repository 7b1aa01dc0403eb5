"""Exported versions on their way to a file."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from lensmith._files import told_of
from lensmith.errors import InternalError, from_status
from lensmith.explanation_types import ExportedVersion
from lensmith_api.v1.model_service_pb2 import ExportModelVersionResponse, ExportSummary


async def save(parts: AsyncIterator[ExportModelVersionResponse], output: Path | None) -> ExportedVersion:
    """Writes an archive; the file appears complete or not at all.

    Args:
        parts: The answer of ExportModelVersion.
        output: The file; None for the name that the platform gives it, in the current directory.

    Raises:
        LensmithError: The platform could not go on, or what arrived is not what was sent.
        OSError: The file cannot be written; it names `output`.
    """
    folder = output.parent if output is not None else Path()
    part_file = folder / f".export-{os.getpid()}-{os.urandom(4).hex()}.part"
    digest, size = hashlib.sha256(), 0
    summary: ExportSummary | None = None
    try:
        with told_of(output or folder), part_file.open("xb") as file:
            async for part in parts:
                if part.HasField("error"):
                    raise from_status(part.error)
                if part.HasField("summary"):
                    summary = part.summary
                else:
                    digest.update(part.item.data)
                    size += file.write(part.item.data)
        if summary is None or (size, digest.hexdigest()) != (summary.size_bytes, summary.sha256):
            raise InternalError("EXPORT_INCOMPLETE", "the archive did not arrive as it was sent; try again")
        # A name from elsewhere never leads out of the folder.
        target = output or folder / Path(summary.file_name).name
        with told_of(target):
            part_file.replace(target)
    finally:
        part_file.unlink(missing_ok=True)
    return ExportedVersion(path=target, size_bytes=size, sha256=summary.sha256)
